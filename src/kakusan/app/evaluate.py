"""evaluate: how good a model is, class by class, how probable it finds data, and whether it copies; with intervals.

Everything goes to one new folder: result.json (figures with their protocol stamps), report.html and grid-NAME.png.
Figures of several models stand side by side exactly when their stamps agree.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kakusan.app import copying, emachoice, evaluatepage, measured, modeldata, rundir, sampler, sheet, stepcurve
from kakusan.app.evaluatepage import Panel
from kakusan.app.loaded import Loaded, Sample, load
from kakusan.app.project import Project, open_project
from kakusan.app.reference import Features, Reference, classifier_of, extractor_of, pictures_of, reference_of
from kakusan.app.sampler import Request
from kakusan.app.show import Progress
from kakusan.checkpoint import set_defaults
from kakusan.evaluation.classifier import Classifier
from kakusan.evaluation.features import features_cached, from_function
from kakusan.evaluation.health import diagnose
from kakusan.evaluation.memorisation import Copying
from kakusan.evaluation.stamp import Stamp
from kakusan.files import write_json
from kakusan.part import KakusanError
from kakusan.training.cache import cache_root
from kakusan.training.stop import Stop

__all__ = ["Evaluated", "evaluate"]

LEAST = 50  # samples below which no figure means anything
KNOWN = 60_000  # training pictures, at most, among which copies are looked for
HELD = 1024  # held-out pictures by which copies are judged, at most
SHOWN = 32  # samples on the page
PAIRS = 8  # of a sample and its nearest training picture

Tree = dict[str, Any]


@dataclass(frozen=True)
class Evaluated:
    """What was found: ``result`` as result.json has it; ``report`` None when it was interrupted."""

    path: Path
    report: Path | None
    interrupted: bool
    result: Tree = field(default_factory=dict)


@dataclass(frozen=True)
class _Task:
    """What is asked of every model."""

    data: str
    count: int
    seed: int
    features: Features
    sampling: Tree
    likelihood: bool
    curve: int  # samples of a point; 0: no curve
    set_default: bool
    choose_ema: bool
    trained_on: str | None
    labels: str
    device: str


def evaluate(
    models: str | Path | Sequence[str | Path],
    data: str | Path,
    *,
    count: int = 1000,
    seed: int = 1_000_000,
    features: Features = "efficientnet-lite0",
    steps: int | None = None,
    solver: str | None = None,
    guidance: float | None = None,
    autoguidance: float | None = None,
    likelihood: bool = True,
    curve: int = 0,
    set_default: bool = False,
    choose_ema: bool = False,
    beside: Sequence[str | Path] = (),
    trained_on: str | Path | None = None,
    labels: str | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Evaluated:
    """Figures of ``count`` samples of each model against real pictures, with 95% intervals, and a report.

    ``features``: "efficientnet-lite0", "classifier" (trained on the data's own labels), a file of Inception-v3's
    weights, or a function from pictures (N, H, W, C) to numbers (N, D). ``curve``: so many samples for each solver and
    number of steps; ``set_default`` writes the cheapest setting within the best's interval into the model's file,
    ``choose_ema`` the length of the average with the least loss on held-out pictures. ``beside``: folders of earlier
    evaluations to show too. ``trained_on``: the training pictures, where ``data`` is not they and no run says so.
    """
    if count < LEAST:
        raise KakusanError(f"-n {count}: too few samples to judge a model by; give at least {LEAST} (1000 is usual)")
    if curve and curve < LEAST:
        raise KakusanError(f"--curve {curve}: too few samples for a point; give at least {LEAST} (300 is usual)")
    names = [models] if isinstance(models, (str, Path)) else list(models)
    if not names:
        raise KakusanError("no model to evaluate: kakusan evaluate MODEL DATA")
    if (set_default or choose_ema) and len(names) > 1:
        raise KakusanError("--set-default and --choose-ema write into a model's file: give one model")
    earlier = [_earlier(path) for path in beside]
    task = _Task(
        str(data), count, seed, features,
        {"steps": steps, "solver": solver, "guidance": guidance, "autoguidance": autoguidance},
        likelihood, curve or (stepcurve.COUNT if set_default else 0), set_default, choose_ema,
        None if trained_on is None else str(trained_on), labels or "auto", device,
    )  # fmt: skip
    files = [rundir.find_model(name) for name in names]
    with progress or Progress() as shown, Stop() as stop:
        folder = _folder(out, files[0])
        found, panels = [], []
        for file in files:
            made = _one(file, task, folder, shown, stop)
            if made is None:
                shown.note("stopped; the real pictures' features are kept, the same command begins again")
                return Evaluated(folder, None, True)
            found.append(made[0])
            panels.append(made[1])
        found += [row for result in earlier for row in result["models"]]
        _comparable(found)
        result = {"kakusan": 1, "data": str(data), "models": found}
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "result.json", result)
        report = evaluatepage.write_report(folder / "report.html", result, panels)
        return Evaluated(folder, report, False, result)


def _folder(out: str | Path | None, model: Path) -> Path:
    """``out``, which must not hold anything yet, or runs/evaluate-NAME, -2, -3, ..."""
    if out is not None:
        return rundir.fresh(out, model).path
    name = model.parent.name if model.name == "model.safetensors" and model.parent.name else model.stem
    base, number = Path("runs") / f"evaluate-{name}", 1
    path = base
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def _earlier(path: str | Path) -> Tree:
    """The result.json of an earlier evaluation."""
    file = Path(path) / "result.json" if Path(path).is_dir() else Path(path)
    try:
        found = json.loads(file.read_text("utf-8"))
        for row in found["models"]:
            Stamp.from_dict(row["stamp"])
    except OSError as error:
        raise KakusanError(f"--beside {path}: no evaluation there ({error.strerror}); give its folder") from error
    except (ValueError, KeyError, TypeError) as error:
        raise KakusanError(f"--beside {path}: not a result of kakusan evaluate, or damaged") from error
    assert isinstance(found, dict)
    return found


def _comparable(found: list[Tree]) -> None:
    """Refuses figures side by side whose protocols differ."""
    first = Stamp.from_dict(found[0]["stamp"])
    for other in found[1:]:
        if odd := first.differences(Stamp.from_dict(other["stamp"])):
            raise KakusanError(
                f"{found[0]['model']['path']} and {other['model']['path']} cannot stand side by side, their protocols "
                f"differ ({'; '.join(odd)}): evaluate them with the same settings"
            )


def _one(file: Path, task: _Task, folder: Path, shown: Progress, stop: Stop) -> tuple[Tree, Panel] | None:
    """One model's figures and what the page shows of it; None when asked to stop."""
    loaded = load(file, task.device)
    project, resized = modeldata.opened(loaded, task.data, task.labels, shown)
    trained, why = modeldata.trained_on(loaded, project, task.trained_on, shown)
    if trained is not None and modeldata.same(project, loaded):  # the same pictures held out as in the run
        settings = project.settings | {k: trained.settings[k] for k in ("held_out", "flip")}
        project = open_project(settings, shown, loaded.domain.spec())
    ema = None
    if task.choose_ema:
        ema = emachoice.lengths(file, _required(trained, why), shown.warn, stop)
        if ema is None:
            return None
        changed = emachoice.choose(file, ema)
        shown.note(f"average of the weights: {ema.chosen} {'is written into' if changed else 'stays in'} {file}")
        loaded = load(file, task.device)
    real = reference_of(project, shown, seen=trained is not None and modeldata.same(project, loaded))
    shown.note(f"comparing with {len(real.pictures):,} real pictures: {real.words}")
    known = None
    if project.train.labels is not None and loaded.classes:
        measured.check_classes(loaded, project, real)
        known = classifier_of(project, shown)
    elif loaded.classes:
        shown.note("the pictures have no labels: no figures by class")
    extract = _extractor(task, project, known, shown)
    real_features = features_cached(extract, real.pictures, cache_root() / "features")
    begun = time.perf_counter()
    shown.start(task.count, "sampling", "step")
    samples = loaded.sample(task.count, seed=task.seed, progress=shown.update, stop=stop, **task.sampling)
    shown.stop()
    seconds = (time.perf_counter() - begun) / task.count
    if len(samples) < task.count:
        return None
    pictures = np.stack([s.data for s in samples])
    asked = [str(s.label) for s in samples] if known is not None else []
    shown.note("measuring ...")
    fake = extract(pictures)
    raw = torch.stack([s.raw.cpu() for s in samples if s.raw is not None])
    stamp = Stamp.of(
        replace(extract, resize=f"{resized}{extract.resize}"), pictures.shape[1:], str(pictures.dtype),
        real=len(real.pictures), samples=task.count, seed=task.seed, data=real.fingerprint[:32],
    )  # fmt: skip
    row: Tree = {
        "model": _about(loaded, file),
        "against": real.words,
        "seen": real.seen,
        "stamp": stamp.as_dict(),
        "sampling": {k: samples[0].recipe[k] for k in ("solver", "grid", "steps", "guidance", "autoguidance", "eta")},
        "seconds": seconds,
        "evaluations": sampler.evaluations(samples[0].recipe),
        "figures": measured.figures(real_features, fake, task.seed),
        "findings": [f.dict() for f in diagnose(raw, loaded.info_.get("reference"), {"run": file.parent})],
    }
    if known is not None and real.labels is not None:
        row["labels"] = measured.label_accuracy(known, pictures, asked)
        row["classes"] = measured.by_class(real_features, real.labels, fake, asked, loaded.classes, task.seed)
    if stop():
        return None
    if task.likelihood:
        unseen = real.data if not real.seen else project.held if project.held is not None else real.data
        row["likelihood"] = measured.likelihood(loaded, unseen, trained.train if trained else None, task.seed, stop)
        if stop():
            return None
    copied = None if trained is None else copying.examined(trained, raw, KNOWN, HELD, stop)
    if stop():
        return None
    row["copies"] = _copies(copied, why, trained)
    if ema is not None:
        row["ema"] = ema.as_dict()
    if task.curve and not _curved(row, file, loaded, real_features, extract, task, shown, stop):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    sheet.save(sheet.grid([s.shown for s in samples[:64]], columns=8, labels=None), folder / f"grid-{file.stem}.png")
    return row, _panel(samples, real, trained, copied)


def _required(trained: Project | None, why: str) -> Project:
    if trained is None:
        raise KakusanError(f"--choose-ema: the pictures that were held out of training are not known ({why})")
    return trained


def _extractor(task: _Task, project: Project, known: Classifier | None, shown: Progress) -> Any:
    if task.features != "classifier":
        return extractor_of(task.features, project.domain.packed, "cpu" if task.device == "auto" else task.device)
    if project.train.labels is None:
        raise KakusanError(f"--features classifier: {task.data} has no labels to train one on")
    known = known or classifier_of(project, shown)
    return from_function(known.features, known.dim, "classifier", known.hash)


def _about(loaded: Loaded, file: Path) -> Tree:
    training = loaded.info_.get("training") or {}
    return {
        "path": str(file),
        "name": file.parent.name if file.name == "model.safetensors" else file.stem,
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


def _curved(
    row: Tree, file: Path, loaded: Loaded, real: np.ndarray, extract: Any, task: _Task, shown: Progress, stop: Stop
) -> bool:
    """The step curve and what follows from it, into ``row``; False when asked to stop."""
    asked = {k: task.sampling[k] for k in ("guidance", "autoguidance")}
    points = stepcurve.curve(loaded, real, extract, task.curve, task.seed, asked, shown, stop)
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
