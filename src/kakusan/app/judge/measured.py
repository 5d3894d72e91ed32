"""Measured: every figure of a model's pictures against real ones, as plain data for JSON and the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from kakusan.app.draw import sampler
from kakusan.app.draw.loaded import Loaded
from kakusan.app.judge.reference import Reference
from kakusan.app.train.project import Project
from kakusan.core.batch import Batch
from kakusan.domains.latent import Latent
from kakusan.evaluation import distances, labels
from kakusan.evaluation.classifier import Classifier
from kakusan.evaluation.kernel import kernel_distance_interval
from kakusan.evaluation.likelihood import bits_per_dim, bound_by_level, level_spacing
from kakusan.evaluation.manifold import Neighbourhoods
from kakusan.part import KakusanError
from kakusan.training.data import Dataset

__all__ = ["by_class", "figures", "label_accuracy", "likelihood"]

Tree = dict[str, Any]
FEWEST = 20  # pictures of a class, drawn and real, below which it has no figures of its own
LIKELY = 64  # pictures whose probability is integrated
BOUNDED = 256  # pictures on each side of the variational bound
LEVELS = 12  # stretches of noise levels


def figures(real: np.ndarray, fake: np.ndarray, seed: int) -> Tree:
    """All distances of features (N, D) and (M, D), each with its interval."""
    return {name: figure.as_dict() for name, figure in distances.measure(real, fake, seed).items()}


def label_accuracy(known: Classifier, pictures: np.ndarray, asked: Sequence[str]) -> Tree:
    """How often samples are taken for the class that was asked for, beside the classifier's own accuracy."""
    truth = np.array([known.classes.index(name) for name in asked])
    guess = known.predict(pictures)
    found = labels.accuracy(truth, guess)
    table = labels.confusion(truth, guess, len(known.classes))
    each = labels.accuracy_by_class(truth, guess, known.classes)
    return {
        "accuracy": _share(found),
        "classifier": _share(known.accuracy) | {"hash": known.hash},
        "classes": {name: _share(share) for name, share in each.items()},
        "mistaken": [list(row) for row in labels.mistaken(table, known.classes)],
    }


def _share(found: labels.Accuracy) -> Tree:
    return {"value": found.value, "low": found.low, "high": found.high, "count": found.count}


def by_class(
    real: np.ndarray, real_labels: np.ndarray, fake: np.ndarray, asked: Sequence[str], classes: Sequence[str], seed: int
) -> list[Tree]:
    """The figures that hold for few pictures, class by class: kernel distance, precision, recall, density, coverage."""
    drawn = np.array(asked)
    found = []
    for i, name in enumerate(classes):
        a, b = real[real_labels == i], fake[drawn == name]
        row: Tree = {"class": name, "real": len(a), "drawn": len(b)}
        if min(len(a), len(b)) >= FEWEST:
            row["kernel"] = kernel_distance_interval(a, b, seed=seed).as_dict()
            row |= Neighbourhoods(a, b, 5).values()
        found.append(row)
    return found


def likelihood(
    loaded: Loaded, unseen: Dataset, seen: Dataset | None, seed: int, stop: Callable[[], bool]
) -> Tree | None:
    """Bits per dimension by the probability-flow ODE, and the variational bound by level for unseen and seen pictures.

    None when asked to stop on the way, or for models of which it has no meaning.
    """
    if isinstance(loaded.domain, Latent):
        return None
    model, spacing = loaded.model, level_spacing(loaded.model)
    rows = _spread(len(unseen), LIKELY)
    x, inputs = _given(loaded, unseen, rows)

    def asked(done: int, total: int) -> None:
        if stop():
            raise _Stopped

    try:
        cond = model.cond(inputs, {}, len(x))
        exact = bits_per_dim(model, x, cond, seed=seed, spacing=spacing, batch=16, progress=asked)
        sides = {"unseen": unseen} | ({"seen": seen} if seen is not None else {})
        bounds: Tree = {}
        for name, part in sides.items():
            bounds[name] = _bound(loaded, part, seed, spacing)
            asked(0, 0)
    except _Stopped:
        return None
    return {
        "bits": exact.value, "error": exact.error, "spread": exact.spread, "probes": exact.probes,
        "solver": exact.solver, "steps": exact.steps, "count": len(x), "bounds": bounds,
    }  # fmt: skip


class _Stopped(Exception):
    """Asked to stop inside a long computation."""


def _bound(loaded: Loaded, part: Dataset, seed: int, spacing: float | None) -> Tree:
    rows = _spread(len(part), BOUNDED)
    batches = []
    for i in range(0, len(rows), 64):
        x, inputs = _given(loaded, part, rows[i : i + 64])
        batches.append(Batch(x, inputs=inputs))
    draws = max(4, -(-FEWEST * LEVELS // len(rows)))
    found = bound_by_level(loaded.model, batches, seed=seed, levels=LEVELS, draws=draws, spacing=spacing)
    levels = [{"low": v.low, "high": v.high, "bits": v.bits, "error": v.error} for v in found.levels]
    ends = {"prior": found.prior, "reconstruction": found.reconstruction}
    return {"bits": found.value, "error": found.error, **ends, "levels": levels, "count": len(rows)}


def _given(loaded: Loaded, part: Dataset, rows: np.ndarray) -> tuple[torch.Tensor, dict[str, Any]]:
    """Pictures as the model sees them, and their labels prepared where both sides have them."""
    x = loaded.domain.floats(part.rows(rows)).to(loaded.device)  # type: ignore[attr-defined]
    if not loaded.classes or part.labels is None or list(part.classes) != loaded.classes:
        return x, {}
    own = part.labels[rows]
    values = [loaded.classes[int(i)] if i >= 0 else None for i in own]
    return x, sampler.prepare(loaded.model, {"label": values}, len(rows))


def _spread(total: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, total - 1, min(total, count)).astype(np.int64))


def check_classes(loaded: Loaded, project: Project, real: Reference) -> None:
    """The classes of the model and of the pictures are the same ones, and each has some."""
    mine, theirs = loaded.classes, list(real.classes)
    where = project.settings["path"]
    fix = "give data with them, or compare without classes: --labels none"
    if missing := [c for c in mine if c not in theirs]:
        raise KakusanError(f"{where}: has no class {missing[0]!r}, which the model draws; {fix}")
    if extra := [c for c in theirs if c not in mine]:
        raise KakusanError(f"{where}: has a class {extra[0]!r}, which the model does not draw; {fix}")
    assert real.labels is not None
    if empty := [c for i, c in enumerate(theirs) if not (real.labels == i).any()]:
        raise KakusanError(f"{where}: no picture of class {empty[0]!r} among those compared with; {fix}")
