"""What a model is judged on: the real pictures, their features, who knows their classes; and the samples to judge."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kakusan.app.command.show import Progress
from kakusan.app.draw.loaded import Loaded, Sample, load
from kakusan.app.judge import measured, modeldata
from kakusan.app.judge.reference import Features, Reference, classifier_of, extractor_of, reference_of
from kakusan.app.train.project import Project, project_of
from kakusan.domains.latent import Latent
from kakusan.evaluation.classifier import Classifier
from kakusan.evaluation.features import Extractor, features_cached, from_function
from kakusan.evaluation.stamp import Stamp
from kakusan.part import KakusanError
from kakusan.training.cache import cache_root
from kakusan.training.captions import PROMPT
from kakusan.training.stop import Stop

__all__ = ["Ground", "Task", "asked_classes", "drawn", "ground_of"]


@dataclass(frozen=True)
class Task:
    """What is asked of every model."""

    data: str
    count: int
    seed: int
    features: Features
    sampling: dict[str, Any]
    likelihood: bool
    curve: int  # samples of a point; 0: no curve
    set_default: bool
    choose_ema: bool
    trained_on: str | None
    labels: str
    device: str


@dataclass(frozen=True)
class Ground:
    """What a model is judged on: real pictures with their features, what it was trained on, who knows the classes."""

    loaded: Loaded
    project: Project
    trained: Project | None  # None where it is not known
    why: str  # it is not
    real: Reference
    features: np.ndarray
    extract: Extractor
    known: Classifier | None
    stamp: Stamp


def ground_of(file: Path, task: Task, shown: Progress) -> Ground:
    loaded = load(file, task.device)
    project, resized = modeldata.opened(loaded, task.data, task.labels, shown)
    trained, why = modeldata.trained_on(loaded, project, task.trained_on, shown)
    seen = trained is not None and modeldata.same(project, loaded)
    if trained is not None and seen:  # the same pictures held out as in the run
        settings = project.settings | {k: trained.settings[k] for k in ("held_out", "flip")}
        project = project_of(loaded.domain, settings, shown)
    real = reference_of(project, shown, seen)
    shown.note(f"comparing with {len(real.pictures):,} real pictures: {real.words}")
    known = None
    if project.train.labels is not None and loaded.classes:
        measured.check_classes(loaded, project, real)
        known = classifier_of(project, shown)
    elif loaded.classes:
        shown.note("the pictures have no labels: no figures by class")
    if task.likelihood and isinstance(loaded.domain, Latent):
        shown.note(f"{file}: diffuses in a latent, of which a likelihood of pictures does not follow: none is given")
    if PROMPT in loaded.model.encoders:
        shown.note(f"{file}: reads words; it is judged by samples drawn without a prompt")
    extract = _extractor(task, project, known, shown)
    found = features_cached(extract, real.pictures, cache_root() / "features")
    stamp = Stamp.of(
        replace(extract, resize=f"{resized}{extract.resize}"), real.pictures.shape[1:], str(real.pictures.dtype),
        real=len(real.pictures), samples=task.count, seed=task.seed, data=real.fingerprint[:32],
    )  # fmt: skip
    return Ground(loaded, project, trained, why, real, found, extract, known, stamp)


def drawn(ground: Ground, task: Task, shown: Progress, stop: Stop) -> list[Sample]:
    """The samples, their classes as frequent as the real pictures'; fewer when asked to stop."""
    asked: dict[str, Any] = dict(task.sampling)
    if ground.known is not None and ground.real.labels is not None:
        asked["label"] = asked_classes(ground.real.labels, ground.loaded.classes, task.count, task.seed)
    shown.start(task.count, "sampling", "step")
    samples = ground.loaded.sample(task.count, seed=task.seed, progress=shown.update, stop=stop, **asked)
    shown.stop()
    return samples


def asked_classes(labels: np.ndarray, classes: list[str], count: int, seed: int) -> list[str]:
    """Classes to draw: each as often as among the real pictures, to less than one sample, in an order of the seed."""
    labels = np.sort(labels[labels >= 0])
    chosen = labels[(np.arange(count) * len(labels) + len(labels) // 2) // count]
    return [classes[int(i)] for i in np.random.Generator(np.random.Philox(key=seed)).permutation(chosen)]


def _extractor(task: Task, project: Project, known: Classifier | None, shown: Progress) -> Extractor:
    if task.features != "classifier":
        return extractor_of(task.features, project.domain.packed, "cpu" if task.device == "auto" else task.device)
    if project.train.labels is None:
        raise KakusanError(f"--features classifier: {task.data} has no labels to train one on")
    known = known or classifier_of(project, shown)
    return from_function(known.features, known.dim, "classifier", known.hash)
