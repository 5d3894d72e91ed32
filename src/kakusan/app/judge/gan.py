"""GANs for comparison: networks of a wanted number of parameters, their training in a folder, and their samples."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kakusan.app.command.show import Progress
from kakusan.app.draw import sampler
from kakusan.app.train.project import Project
from kakusan.catalog import build
from kakusan.checkpoint import load_module, save_model
from kakusan.core.rng import Rng
from kakusan.domains.image import Image
from kakusan.files import write_json
from kakusan.nets import dcgan, gan
from kakusan.part import KakusanError, Part, Spec
from kakusan.training.adversarial import Adversarial
from kakusan.training.contest import Contested, Listener, contest
from kakusan.training.data import Batches
from kakusan.training.schedule import CLOCKS, readings
from kakusan.training.stop import Stop

__all__ = ["GANS", "Drawn", "GanModel", "TrainedGan", "load_gan", "networks", "train_gan"]

GANS: dict[str, dict[str, Any]] = {  # name -> what of training/adversarial it sets; the rest are the defaults
    "gan-r3": {},
    "gan-classic": {
        "loss": "non-saturating",
        "penalty": [0.0, 0.0],
        "lr": [2e-4, 2e-4],
        "beta1": 0.5,
        "beta2": [0.999, 0.999],
        "batch": 128,
    },
}
BATCH = 64  # pictures drawn at once


@dataclass(frozen=True)
class Drawn:
    """Pictures of a model: (N, H, W, C) in the data's own units, the classes asked for, seconds, evaluations each."""

    pictures: np.ndarray
    labels: list[str] | None
    seconds: float
    evaluations: int
    finite: bool


class GanModel:
    """A trained generator, ready to draw: sample i of seed s is the same picture in whatever batch it is drawn."""

    def __init__(self, generator: nn.Module, domain: Image, classes: list[str], info: dict[str, Any]) -> None:
        self.generator, self.domain, self.classes, self.info = generator, domain, classes, info

    @torch.inference_mode()
    def draw(self, count: int, seed: int = 0) -> Drawn:
        """``count`` pictures, of classes that each one's seed decides."""
        device = next(self.generator.parameters()).device
        latent = int(self.generator.latent)  # type: ignore[arg-type]
        pieces: list[np.ndarray] = []
        labels: list[int] = []
        finite = True
        begun = time.perf_counter()
        for first in range(0, count, BATCH):
            seeds = [seed + i for i in range(first, min(count, first + BATCH))]
            z = Rng(seeds, device).normal([(latent,)] * len(seeds), "latent")
            chosen = list(sampler.random_labels(self.classes, seeds)) if self.classes else []
            labels += chosen
            x = self.generator(z, torch.tensor(chosen, device=device) if chosen else None)
            finite = finite and bool(torch.isfinite(x).all())
            pieces += [record.data for record in self.domain.records(x)]
        seconds = time.perf_counter() - begun
        names = [self.classes[i] for i in labels] if self.classes else None
        return Drawn(np.stack(pieces), names, seconds, 1, finite)


def networks(kind: str, parameters: int, channels: int, size: tuple[int, int], classes: int) -> tuple[Spec, Spec]:
    """Specs of a generator and a discriminator with (nearly) so many parameters each."""
    if kind not in GANS:
        raise KakusanError(f"GAN {kind!r} is not known; choose one of: {', '.join(GANS)}")
    given: Spec = {"channels": channels, "size": list(size), "classes": classes}
    if kind == "gan-classic":
        drawing = _nearest(_classic_widths(size), lambda w: _classic_count(w, channels, size, classes), parameters)
        judging = _nearest(_classic_widths(size), lambda w: _judge_count(w, channels, size, classes), parameters)
        return (
            {"kind": "gan/dc-generator", **given, "widths": drawing},
            {"kind": "gan/dc-discriminator", **given, "widths": judging},
        )
    unshuffle = 1 if max(size) <= 16 else 2 if max(size) <= 64 else 4  # as the plan folds for diffusion models
    stages = gan.sides(size, unshuffle)
    widths = _widths(stages, parameters, lambda w: _count(w, stages, channels * unshuffle**2, classes))
    given |= {"widths": widths, "unshuffle": unshuffle}
    return {"kind": "gan/generator", **given}, {"kind": "gan/discriminator", **given}


def _count(widths: list[int], stages: list[tuple[int, int]], outputs: int, classes: int, latent: int = 64) -> int:
    """Parameters of ``gan.Generator`` with two blocks a stage."""
    blocks = sum(2 * (4 * c * c + 4 * c + 2 * c * 9 * gan.GROUP) for c in widths)
    ways = sum(a * b for a, b in pairwise(widths)) + widths[-1] * outputs
    start = widths[0] * math.prod(stages[0]) + widths[0] * latent * (2 if classes else 1)
    return blocks + ways + start + (latent * (classes + 1) if classes else 0)


def _widths(stages: list[tuple[int, int]], parameters: int, count: Any) -> list[int]:
    """Channels halve as sides double; each stage in multiples of 8, so that the count is met within a percent or so."""
    levels = len(stages)
    even = [[w << (levels - 1 - i) for i in range(levels)] for w in range(8, 513, 8)]
    base = max((w for w in even if count(w) <= parameters), key=count, default=[8] * levels)
    best: tuple[float, list[int]] | None = None
    for widths in product(*(range(c, 2 * c + 8, max(8, c // 8 // 8 * 8)) for c in base)):
        spread = [w / c for w, c in zip(widths, base)]
        odd = max(spread) / min(spread) - 1  # how far from the even shape
        score = abs(math.log(count(list(widths)) / parameters)) + 0.01 * odd
        if best is None or score < best[0]:
            best = score, list(widths)
    assert best is not None
    return best[1]


def _classic_widths(size: tuple[int, int]) -> Iterator[list[int]]:
    levels = dcgan.levels_for(size)
    for quarter in range(4, 2049):
        yield [max(1, round(quarter / 4 * 2 ** (levels - 1 - i))) for i in range(levels)]


def _classic_count(widths: list[int], channels: int, size: tuple[int, int], classes: int, latent: int = 100) -> int:
    """Parameters of ``dcgan.DCGenerator``."""
    start = widths[0] * latent * (2 if classes else 1) * math.prod(dcgan.start_side(size, len(widths)))
    ways = 16 * (sum(a * b for a, b in pairwise(widths)) + widths[-1] * channels) + channels
    return start + ways + 2 * sum(widths) + (latent * (classes + 1) if classes else 0)


def _judge_count(widths: list[int], channels: int, size: tuple[int, int], classes: int) -> int:
    """Parameters of ``dcgan.DCDiscriminator``."""
    ways = 16 * (sum(a * b for a, b in pairwise(widths)) + widths[-1] * channels) + widths[-1]
    head = widths[0] * math.prod(dcgan.start_side(size, len(widths))) + 1
    return ways + 2 * sum(widths[:-1]) + head + (widths[0] * (classes + 1) if classes else 0)


def _nearest(candidates: Iterator[list[int]], count: Any, parameters: int) -> list[int]:
    """The candidate with the nearest number of parameters, in a row of rising ones."""
    best = next(candidates)
    for widths in candidates:
        if abs(count(widths) - parameters) < abs(count(best) - parameters):
            best = widths
        if count(widths) > parameters:
            break
    return best


@dataclass(frozen=True)
class TrainedGan:
    """What the training of a GAN left in its folder."""

    run: Path
    interrupted: bool
    summary: dict[str, Any]


class _Keep(Listener):
    """Progress on the page, and a generator's file at every preview point."""

    def __init__(self, run: Path, shown: Progress, save: Any) -> None:
        self.run, self.shown, self.save = run, shown, save
        self.minutes: float | None = None
        self.total: int | None = None

    def on_start(self, total: int | None, minutes: float | None, step: int) -> None:
        self.total, self.minutes = total, minutes
        self.shown.start(total or 1, "training")

    def on_row(self, row: dict[str, Any]) -> None:
        left = max(0.0, 60 * self.minutes - row["seconds"]) if self.minutes else None
        said = f"loss {row['d_loss']:.3f} and {row['g_loss']:.3f}" if row["d_loss"] is not None else "not finite"
        self.shown.update(row["step"], self.total, None, row["pictures_per_second"], left, note=said)

    def on_event(self, event: dict[str, Any]) -> None:
        if event["kind"] == "pace":
            self.total = event["total"]
        elif event["kind"] == "notice":
            self.shown.note(event["text"])
        else:
            self.shown.warn(f"step {event['step']}: {event['text']}")

    def on_preview(self, step: int, generator: nn.Module) -> None:
        self.save(self.run / "snapshots" / f"step-{step:06d}.safetensors", generator, {"step": step})


def train_gan(
    project: Project,
    run: Path,
    kind: str,
    *,
    parameters: int,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    settings: dict[str, Any] | None = None,
    shown: Progress | None = None,
    stop: Stop | None = None,
) -> TrainedGan:
    """Train a GAN in ``run``, or go on with it: gan.json, the logs, state/, snapshots/ and model.safetensors.

    ``settings`` go over those of ``GANS[kind]``.
    """
    begun = readings()
    shown = shown or Progress(quiet=True)
    file = run / "gan.json"
    if file.exists():
        tree = json.loads(file.read_text("utf-8"))
    else:
        tree = _planned(project, kind, parameters, minutes, steps, seed, settings or {})
        write_json(file, tree)
    training = build(tree["training"], "training")
    assert isinstance(training, Adversarial)
    facts = project.facts

    def save(path: Path, generator: nn.Module, more: dict[str, Any]) -> None:
        about = {"gan": kind, "domain": project.domain.spec(), "classes": facts.classes, "data": facts.count}
        save_model(path, generator, about | more)  # type: ignore[arg-type]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        pair = [build(tree[name], name) for name in ("generator", "discriminator")]
    generator, discriminator = (net for net in pair if isinstance(net, nn.Module))
    batches = Batches(
        project.train, project.domain, training.batch, training.seed, bool(project.settings["flip"]),
        device=device, ahead=0,
    )  # fmt: skip
    fresh = not (run / "state").exists()
    try:
        done = contest(
            generator, discriminator, batches, training, run, device, _Keep(run, shown, save), stop,
            spent=CLOCKS[training.clock]() - begun[training.clock] if fresh else 0.0,
        )  # fmt: skip
    finally:
        batches.close()
        shown.stop()
    summary = _summary(done, training, generator, discriminator, len(project.train))
    if not done.interrupted:
        save(run / "model.safetensors", done.generator, {"training": summary})
    return TrainedGan(run, done.interrupted, summary)


def _planned(
    project: Project, kind: str, parameters: int, minutes: float | None, steps: int | None, seed: int, over: Spec
) -> dict[str, Any]:
    facts = project.facts
    generator, discriminator = networks(kind, parameters, facts.shape[0], project.domain.size, len(facts.classes))
    chosen = GANS[kind] | {"augment": project.augment is not None} | over
    chosen["batch"] = min(int(chosen.get("batch", Adversarial(steps=1).batch)), max(4, facts.count))
    training: Spec = {"kind": "training/adversarial", **chosen, "steps": steps, "minutes": minutes, "seed": seed}
    part = build(training, "training")
    return {"generator": generator, "discriminator": discriminator, "training": part.spec()}


def _summary(
    done: Contested, training: Adversarial, generator: nn.Module, discriminator: nn.Module, count: int
) -> dict[str, Any]:
    seen = done.step * training.batch
    return {
        "parameters": sum(p.numel() for p in generator.parameters()),
        "discriminator": sum(p.numel() for p in discriminator.parameters()),
        "steps": done.step,
        "seconds": round(done.seconds, 1),
        "pictures_seen": seen,
        "epochs": round(seen / max(1, count), 2),
        "skipped": done.skipped,
        "diverged": done.diverged,
    }


def load_gan(path: str | Path, device: torch.device | str = "cpu") -> GanModel:
    """The generator in a file; raises KakusanError for files of anything else."""
    net, info = load_module(path, device)
    kind = net.kind if isinstance(net, Part) else type(net).__name__
    try:
        domain, classes = build(info["domain"], f"{path}: domain"), [str(c) for c in info["classes"]]
    except (KeyError, TypeError) as error:
        raise KakusanError(f"{path}: holds a {kind!r} without its domain and classes; not a trained GAN") from error
    if not isinstance(net, (gan.Generator, dcgan.DCGenerator)) or not isinstance(domain, Image):
        raise KakusanError(f"{path}: holds a {kind!r}, not a GAN's generator")
    if net.classes != len(classes):
        raise KakusanError(f"{path}: a generator of {net.classes} classes with the names of {len(classes)}")
    return GanModel(net, domain, classes, info)
