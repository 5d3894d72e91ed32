"""One model judged: its figures as plain data, and the pictures that the page shows of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kakusan.app.command.show import Progress
from kakusan.app.draw import sampler, sheet
from kakusan.app.draw.loaded import Loaded, Sample, load
from kakusan.app.draw.sampler import Request
from kakusan.app.judge import copying, emachoice, measured, modeldata, stepcurve
from kakusan.app.judge.evaluatepage import Panel
from kakusan.app.judge.ground import Ground, Task, asked_classes, drawn, ground_of
from kakusan.app.judge.reference import Reference, pictures_of
from kakusan.app.train.project import Project
from kakusan.checkpoint import set_defaults
from kakusan.evaluation.health import diagnose
from kakusan.evaluation.memorisation import Copying
from kakusan.evaluation.stamp import Stamp
from kakusan.part import KakusanError
from kakusan.training.stop import Stop

__all__ = ["comparable", "judge", "title"]

KNOWN = 60_000  # training pictures, at most, among which copies are looked for
HELD = 1024  # held-out pictures by which copies are judged, at most
SHOWN = 32  # samples on the page
PAIRS = 8  # of a sample and its nearest training picture


Tree = dict[str, Any]


def judge(
    file: Path, task: Task, folder: Path, shown: Progress, stop: Stop, beside: Sequence[Tree] = ()
) -> tuple[Tree, Panel] | None:
    """One model's figures and what the page shows of it; None when asked to stop.

    ``beside``: figures of other models that these will stand beside; refused before anything is drawn where they can
    not.
    """
    took: dict[str, float] = {}
    ema = _lengths(file, task, shown, stop) if task.choose_ema else None
    if stop():
        return None
    with _timed(took, "real pictures, features and classifier"):
        ground = ground_of(file, task, shown)
    if beside:
        comparable(ground.stamp, str(file), beside[0])
    with _timed(took, "sampling"):
        samples = drawn(ground, task, shown, stop)
    if len(samples) < task.count:
        return None
    shown.note("measuring ...")
    raw = torch.stack([s.raw.cpu() for s in samples if s.raw is not None])
    recipe = samples[0].recipe
    row: Tree = {
        "model": _about(ground.loaded, file),
        "against": ground.real.words,
        "seen": ground.real.seen,
        "stamp": ground.stamp.as_dict(),
        "sampling": {k: recipe[k] for k in ("solver", "grid", "steps", "guidance", "autoguidance", "eta")},
        "seconds": took["sampling"] / task.count,
        "evaluations": sampler.evaluations(recipe),
        **_judged(ground, samples, task.seed, took),
        "findings": [f.dict() for f in diagnose(raw, ground.loaded.info_.get("reference"), {"run": file.parent})],
    }
    if task.likelihood and not stop():
        with _timed(took, "likelihood"):
            row["likelihood"] = _likelihood(ground, task.seed, stop)
    trained = ground.trained
    with _timed(took, "copies"):
        copied = None if trained is None else copying.examined(trained, raw, KNOWN, HELD, stop)
    if stop():
        return None
    row["copies"] = _copies(copied, ground.why, trained)
    if ema is not None:
        row["ema"] = ema.as_dict()
    if task.curve and not _curved(row, file, ground, task, shown, stop):
        return None
    row["took"] = {name: round(seconds, 2) for name, seconds in took.items()}
    folder.mkdir(parents=True, exist_ok=True)
    sheet.save(sheet.grid([s.shown for s in samples[:64]], columns=8, labels=None), folder / f"grid-{title(file)}.png")
    return row, _panel(samples, ground.real, trained, copied)


def comparable(stamp: Stamp, path: str, other: Tree) -> None:
    """Refuses figures side by side whose protocols differ."""
    if odd := stamp.differences(Stamp.from_dict(other["stamp"])):
        raise KakusanError(
            f"{path} and {other['model']['path']} cannot stand side by side, their protocols differ "
            f"({'; '.join(odd)}): evaluate them with the same settings"
        )


@contextlib.contextmanager
def _timed(took: dict[str, float], name: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    took[name] = time.perf_counter() - begun


def title(file: Path) -> str:
    """A model's name for people: its run's, or its file's."""
    return file.parent.name if file.name == "model.safetensors" and file.parent.name else file.stem


def _lengths(file: Path, task: Task, shown: Progress, stop: Stop) -> emachoice.Lengths | None:
    """Choose the length of the average and write it; None when asked to stop."""
    loaded = load(file, task.device)
    project, _ = modeldata.opened(loaded, task.data, task.labels, shown)
    trained, why = modeldata.trained_on(loaded, project, task.trained_on, shown)
    if trained is None:
        raise KakusanError(f"--choose-ema: the pictures that were held out of training are not known ({why})")
    found = emachoice.lengths(file, trained, shown.warn, stop)
    if found is not None:
        changed = emachoice.choose(file, found)
        shown.note(f"average of the weights: {found.chosen} {'is written into' if changed else 'stays in'} {file}")
    return found


def _judged(ground: Ground, samples: list[Sample], seed: int, took: dict[str, float]) -> Tree:
    """Distances, and where classes are known those of each."""
    pictures = np.stack([s.data for s in samples])
    with _timed(took, "features of samples"):
        fake = ground.extract(pictures)
    with _timed(took, "distances"):
        found: Tree = {"figures": measured.figures(ground.features, fake, seed)}
        if ground.known is not None and ground.real.labels is not None:
            asked, classes = [str(s.label) for s in samples], ground.loaded.classes
            found["labels"] = measured.label_accuracy(ground.known, pictures, asked)
            found["classes"] = measured.by_class(ground.features, ground.real.labels, fake, asked, classes, seed)
    return found


def _likelihood(ground: Ground, seed: int, stop: Stop) -> Tree | None:
    held = None if ground.trained is None else ground.trained.held
    unseen = held if ground.real.seen and held is not None else ground.real.data
    return measured.likelihood(ground.loaded, unseen, ground.trained.train if ground.trained else None, seed, stop)


def _about(loaded: Loaded, file: Path) -> Tree:
    training = loaded.info_.get("training") or {}
    return {
        "path": str(file),
        "name": title(file),
        "hash": loaded.info_["hash"],
        "parameters": training.get("parameters") or loaded.info_["parameters"],
        "minutes": training.get("minutes"),
        "steps": training.get("steps"),
        "classes": len(loaded.classes),
    }


def _copies(found: Any, why: str, trained: Project | None) -> Tree:
    if found is None:
        return {"verdict": "unknown", "message": why or "no pictures were held out to judge copies by"}
    return {
        "verdict": found.verdict, "message": found.message, "share": found.share, "expected": found.expected,
        "ratio": found.ratio, "among": len(trained.train) if trained else 0,
    }  # fmt: skip


def _curved(row: Tree, file: Path, ground: Ground, task: Task, shown: Progress, stop: Stop) -> bool:
    """The step curve and what follows from it, into ``row``; False when asked to stop."""
    asked = {k: task.sampling[k] for k in ("guidance", "autoguidance")}
    if ground.known is not None and ground.real.labels is not None:
        asked["label"] = asked_classes(ground.real.labels, ground.loaded.classes, task.curve, task.seed)
    loaded = ground.loaded
    points = stepcurve.curve(loaded, ground.features, ground.extract, task.curve, task.seed, asked, shown, stop)
    if points is None:
        return False
    best, chosen = stepcurve.cheapest(points)
    row["curve"] = {"count": task.curve, "points": [p.as_dict() for p in points]}
    row["curve"] |= {"best": best.as_dict(), "chosen": chosen.as_dict(), "saved": False}
    if task.set_default:
        settled = sampler.settle(loaded.model, Request([0], solver=chosen.solver, steps=chosen.steps))
        set_defaults(file, {name: settled[name] for name in ("solver", "steps", "eta")})
        row["curve"]["saved"] = True
        shown.note(f"{file}: samples with {chosen.solver}, {chosen.steps} steps from now on")
    return True


def _panel(samples: list[Sample], real: Reference, trained: Project | None, copied: Copying | None) -> Panel:
    """Pictures for the page: samples, as many real ones, and the most suspicious samples with what they are nearest."""
    shown = samples[:SHOWN]
    spread = np.linspace(0, len(real.pictures) - 1, len(shown)).astype(np.int64)
    pairs = []
    if trained is not None and copied is not None:
        for pair in copied.pairs[:PAIRS]:
            (nearest,) = pictures_of(trained, trained.train, np.array([pair.train]))
            pairs.append((samples[pair.sample].data, nearest, f"ratio {pair.ratio:.2f}{', copy' if pair.copy else ''}"))
    names = [str(s.label) for s in shown] if shown[0].label is not None else None
    return Panel([s.data for s in shown], names, list(real.pictures[spread]), pairs)
