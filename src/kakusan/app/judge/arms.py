"""Arms: what a comparison trains. Each arm and seed has a folder, where an interrupted training goes on."""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kakusan.app import facade
from kakusan.app.command.show import Progress
from kakusan.app.draw import sampler
from kakusan.app.draw.loaded import Loaded, load
from kakusan.app.judge.gan import GANS, Drawn, load_gan, train_gan
from kakusan.app.train import recipe as recipes
from kakusan.app.train.project import Project
from kakusan.app.train.rundir import RunDir
from kakusan.app.train.runpage import rows
from kakusan.catalog import build
from kakusan.checkpoint import read_info
from kakusan.files import write_json
from kakusan.part import KakusanError
from kakusan.training import plan
from kakusan.training.stop import Stop

__all__ = [
    "SCHEDULES",
    "Arm",
    "Painter",
    "check",
    "finished",
    "parse",
    "run_folder",
    "share_network",
    "snapshots",
    "summary",
    "train_arm",
]

SCHEDULES: dict[str, tuple[str, ...]] = {  # each as its paper has it: process, prediction, noise levels and weights
    "planned": (),
    "linear": (
        "denoiser.process.kind=process/vp", "denoiser.process.schedule=linear", "denoiser.param.kind=param/eps",
        "objective.density.kind=density/uniform-t", "objective.weight.kind=weight/eps-uniform",
    ),
    "cosine": (
        "denoiser.process.kind=process/vp", "denoiser.process.schedule=cosine", "denoiser.param.kind=param/eps",
        "objective.density.kind=density/uniform-t", "objective.weight.kind=weight/eps-uniform",
    ),
    "flow": (
        "denoiser.process.kind=process/flow", "denoiser.param.kind=param/velocity",
        "objective.density.kind=density/uniform-t", "objective.weight.kind=weight/flow-uniform",
    ),
}  # fmt: skip
LONGEST = 40  # characters of an arm's folder


@dataclass(frozen=True)
class Arm:
    """One thing to train: a diffusion model with overrides of its recipe, or a GAN."""

    name: str
    kind: str  # "diffusion", "gan-r3", "gan-classic"
    overrides: tuple[str, ...] = ()

    @property
    def gan(self) -> bool:
        return self.kind in GANS

    @property
    def folder(self) -> str:
        """A name that every file system takes; different arms have different ones."""
        plain = "".join(c if c.isalnum() or c in "-_.=" else "-" for c in self.name)
        return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]}-{len(plain)}-{sum(map(ord, plain)) % 997:03d}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"name": self.name, "kind": self.kind, "overrides": list(self.overrides)}


def parse(axes: Sequence[str], gans: Sequence[str]) -> list[Arm]:
    """The arms that ``--arms`` and ``--gan`` ask for; diffusion models come first.

    An axis is NAME=VALUE,VALUE,...: ``schedule`` (of ``SCHEDULES``), or any dotted setting of a recipe.
    """
    arms: list[Arm] = []
    for axis in axes:
        name, equals, values = axis.partition("=")
        wanted = _values(values)
        if not equals or not name or not all(wanted):
            raise KakusanError(f"--arms {axis!r}: write NAME=VALUE,VALUE, as in schedule=linear,cosine,flow")
        if name != "schedule" and difflib.get_close_matches(name, ["schedule"], cutoff=0.8):
            raise KakusanError(f"--arms {axis!r}: did you mean schedule={values}?")
        for value in wanted:
            if name == "schedule" and value not in SCHEDULES:
                raise KakusanError(f"--arms {axis!r}: no schedule {value!r}; choose from: {', '.join(SCHEDULES)}")
            overrides = SCHEDULES[value] if name == "schedule" else (f"{name}={value}",)
            arms.append(Arm(f"{name}={value}", "diffusion", overrides))
    arms = arms or [Arm("diffusion", "diffusion")]
    for name in gans:
        kind = name if name in GANS else f"gan-{name}"
        if kind not in GANS:
            known = ", ".join(k.removeprefix("gan-") for k in GANS)
            raise KakusanError(f"--gan {name!r}: not known; choose from: {known}, none")
        arms.append(Arm(kind, kind))
    twice = sorted({a.name for a in arms if sum(b.name == a.name for b in arms) > 1})
    if twice:
        raise KakusanError(f"--arms: {twice[0]!r} is there twice; every arm is trained with several seeds anyway")
    return arms


def _values(text: str) -> list[str]:
    """Split at commas that stand outside brackets and quotes."""
    found, depth, quoted = [""], 0, False
    for c in text:
        quoted ^= c == '"'
        depth += (c in "[{(") - (c in "]})") if not quoted else 0
        if c == "," and depth == 0 and not quoted:
            found.append("")
        else:
            found[-1] += c
    return [value.strip() for value in found]


def train_arm(
    arm: Arm,
    run: Path,
    data: str,
    project: Project,
    network: Path,
    *,
    minutes: float | None,
    steps: int | None,
    seed: int,
    device: str,
    overrides: Sequence[str],
    shown: Progress,
    stop: Stop,
) -> bool:
    """Train one arm in ``run``, or go on with it; False when interrupted.

    ``network``: a recipe file with the network that all arms share, as the first diffusion run's plan chose it.
    """
    if arm.gan:
        parameters = _network_parameters(network)
        chosen = facade.pick_device(device)
        done = train_gan(
            project, run, arm.kind, parameters=parameters, minutes=minutes, steps=steps, seed=seed, device=chosen,
            settings=_gan_settings(overrides), shown=shown, stop=stop,
        )  # fmt: skip
        if not done.interrupted:
            write_json(run / "summary.json", done.summary)
        return not done.interrupted
    whole = RunDir(run)
    if whole.model.is_file() and whole.report.is_file():
        interrupted = False  # ended just before its summary was written
    elif whole.recipe.is_file():
        interrupted = facade.resume(run, progress=shown).interrupted
    else:
        settings = {k: project.settings[k] for k in ("labels", "captions", "fit", "flip", "size")}
        trained = facade.train(
            data, minutes=minutes, steps=steps, out=run, recipe=network if network.is_file() else None,
            overrides=[*(o for o in overrides if not o.startswith("gan.")), *arm.overrides], seed=seed, device=device,
            progress=shown, snapshots=True, **settings,
        )  # fmt: skip
        interrupted = trained.interrupted
    if interrupted:
        return False
    known = dict(read_info(whole.model)["info"]["training"])
    write_json(run / "summary.json", known | {"skipped": _skipped(run), "diverged": False})
    return True


def run_folder(folder: Path, arm: Arm, seed: int) -> Path:
    """Where an arm's training with a seed lies in a comparison's folder."""
    return folder / "arms" / arm.folder / f"seed-{seed}"


def check(project: Project, arms: Sequence[Arm], overrides: Sequence[str]) -> None:
    """Build what every arm asks for: the last one's mistake should not cost the minutes of the first."""
    facts = project.facts
    net = plan.networks(facts, torch.device("cpu"))[0]
    plain = [o for o in overrides if not o.startswith("gan.")]
    for arm in arms:
        if arm.gan:
            build({"kind": "training/adversarial", **GANS[arm.kind], **_gan_settings(overrides), "steps": 1}, "gan")
            continue
        tree = {"model": plan.model_spec(facts, net), "training": plan.training_spec(facts, 1, None, 0)}
        tree = recipes.fit_ports(recipes.override(tree, [*plain, *arm.overrides]))
        with torch.random.fork_rng(devices=[]):
            build(tree["model"], f"{arm.name}: model")
        build(tree["training"], f"{arm.name}: training")


def _gan_settings(overrides: Sequence[str]) -> dict[str, Any]:
    """What ``gan.NAME=VALUE`` sets of training/adversarial; values are JSON, anything else a string."""
    found: dict[str, Any] = {}
    for text in overrides:
        name, _, value = text.partition("=")
        if name.startswith("gan."):
            try:
                found[name.removeprefix("gan.")] = json.loads(value)
            except ValueError:
                found[name.removeprefix("gan.")] = value
    return found


def finished(run: Path) -> bool:
    """Whether an arm's training is over; of one that was scored, the model need not be kept."""
    return (run / "summary.json").is_file() and any((run / n).is_file() for n in ("model.safetensors", "score.json"))


def summary(run: Path) -> dict[str, Any]:
    """What a finished training says of itself."""
    found = json.loads((run / "summary.json").read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def _skipped(run: Path) -> int:
    return sum(len(event["steps"]) for event in rows(run / "events.jsonl", "skipped"))


def share_network(run: Path, network: Path) -> None:
    """Writes what the plan of the first diffusion run chose by timing, once there is one, for all others to share."""
    if network.is_file() or not RunDir(run).recipe.is_file():
        return
    tree = recipes.read(RunDir(run).recipe)
    encoders = tree["model"].get("encoders", {})
    with torch.device("meta"):  # only what has parameters: a process computes
        parts = [build(tree["model"]["denoiser"]["net"], "model.denoiser.net")]
        parts += [build(spec, f"model.encoders.{name}") for name, spec in encoders.items()]
    parameters = sum(p.numel() for part in parts if isinstance(part, nn.Module) for p in part.parameters())
    net, training = tree["model"]["denoiser"]["net"], tree["training"]
    shared = {"model": {"denoiser": {"net": net}}, "training": {"precision": training.get("precision", "auto")}}
    recipes.write(network, shared, f"The network of every arm, {parameters} parameters with its conditions.")


def _network_parameters(network: Path) -> int:
    if not network.is_file():
        raise KakusanError(f"{network} is missing: the plan of the first diffusion model makes it")
    return int(network.read_text("utf-8").split(" parameters")[0].rsplit(" ", 1)[1])


class Painter:
    """Draws from an arm's finished model or from one of its snapshots."""

    def __init__(self, arm: Arm, file: Path, device: str) -> None:
        self.arm = arm
        self.model: Any = load_gan(file, facade.pick_device(device)) if arm.gan else load(file, device)

    def draw(self, count: int, seed: int, steps: int | None = None, plain: bool = False, stop: Any = None) -> Drawn:
        """``count`` pictures with the model's own settings, or with ``steps``; ``plain``: without autoguidance."""
        if self.arm.gan:
            drawn: Drawn = self.model.draw(count, seed)
            return drawn
        return _sampled(self.model, count, seed, steps, plain, stop)


def _sampled(loaded: Loaded, count: int, seed: int, steps: int | None, plain: bool, stop: Any) -> Drawn:
    begun = time.perf_counter()
    weight = 1.0 if plain else None
    samples = loaded.sample(count, seed=seed, steps=steps, autoguidance=weight, stop=stop)
    seconds = time.perf_counter() - begun
    if len(samples) < count:
        return Drawn(np.zeros((0, 1, 1, 1), np.uint8), None, seconds, 0, True)
    finite = all(bool(s.raw.isfinite().all()) for s in samples if s.raw is not None)
    labels = [str(s.label) for s in samples] if loaded.classes else None
    return Drawn(np.stack([s.data for s in samples]), labels, seconds, sampler.evaluations(samples[0].recipe), finite)


def snapshots(run: Path, count: int) -> list[tuple[int, Path]]:
    """Up to ``count`` snapshots, spread over the run: (step, file)."""
    found = sorted((run / "snapshots").glob("step-*.safetensors"))
    picked = np.unique(np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)) if found else []
    return [(int(found[i].stem.split("-")[1]), found[i]) for i in picked]
