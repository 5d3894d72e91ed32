"""Reference: the real pictures that a model's are judged by, with their labels and a classifier that knows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kakusan.app.command.show import Progress
from kakusan.app.train.project import Project, open_project
from kakusan.evaluation.classifier import Classifier, load_classifier, train_classifier
from kakusan.part import KakusanError
from kakusan.training.cache import cache_root
from kakusan.training.data import Dataset
from kakusan.training.splits import SPLIT_NAMES

__all__ = ["REAL", "Features", "Reference", "classifier_of", "extractor_of", "judgeable", "pictures_of", "reference_of"]

REAL = 5000  # real pictures that samples are compared with, at most
TAUGHT = 20_000  # labelled pictures that the classifier learns from, at most
SECONDS = 20.0  # of two ordinary cores, for the classifier

Features = str | Path | Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Reference:
    """Real pictures (N, H, W, C) in the data's own units; ``labels`` (N,) indices into ``classes``, -1 = none."""

    pictures: np.ndarray
    labels: np.ndarray | None
    classes: list[str]
    words: str  # which pictures they are
    fingerprint: str
    seen: bool  # whether they are what a model of this data is trained on
    data: Dataset  # all that they were taken from


def judgeable(project: Project, verb: str) -> None:
    """Refuses pictures that no feature network takes."""
    domain = project.domain
    if domain.channels not in (1, 3, 4) or domain.depth not in (8, 16):
        raise KakusanError(
            f"{project.settings['path']}: pictures of {domain.channels} channels and {domain.depth} bits cannot be "
            f"judged; kakusan {verb} takes 1, 3 or 4 channels of 8 or 16 bits"
        )


def reference_of(project: Project, shown: Progress, seen: bool = True, most: int = REAL) -> Reference:
    """Pictures of the data's test split, else of its validation split, else its own; spread over the set.

    ``seen``: whether the model was trained on the project's pictures.
    """
    words = f"{project.settings['path']}{', the pictures trained on' if seen else ''}"
    source, real = project, project.train
    other = _other_split(project)
    if other:
        path = f"{project.source.path}:{other}"
        source = open_project({**project.settings, "path": path, "held_out": 0}, shown, project.domain.spec())
        real, words, seen = source.train, f"{path}, pictures that no model was trained on", False
    chosen = np.unique(np.linspace(0, len(real) - 1, min(len(real), most)).astype(np.int64))
    labels = None if real.labels is None else np.asarray(real.labels[chosen])
    pictures = pictures_of(project, real, chosen)
    classes = list(real.classes) if labels is not None else []
    return Reference(pictures, labels, classes, words, source.cache.fingerprint, seen, real)


def _other_split(project: Project) -> str | None:
    """A test split, else a validation split, that is not the one trained on."""
    source = project.source
    kinds = {SPLIT_NAMES.get(s.lower(), s): s for s in source.splits if s != source.split}
    return None if source.split == "all" else kinds.get("test") or kinds.get("validation")


def pictures_of(project: Project, part: Dataset, chosen: np.ndarray) -> np.ndarray:
    """Rows of a data set as pictures (N, H, W, C) in the data's units."""
    pieces = [
        np.stack([r.data for r in project.domain.records(project.domain.floats(part.rows(chosen[i : i + 512])))])
        for i in range(0, len(chosen), 512)
    ]
    return np.concatenate(pieces)


def classifier_of(project: Project, shown: Progress) -> Classifier:
    """A small network that tells the data's classes apart, trained on its pictures once and kept by what they are."""
    data = project.train
    assert data.labels is not None
    shape = "x".join(map(str, (*project.domain.size, project.domain.channels)))
    key = f"{project.cache.fingerprint[:24]}-{len(data)}-{project.settings['labels']}-{shape}-{project.domain.how}"
    file = cache_root() / "classifiers" / f"{key}.safetensors"
    if file.is_file():
        try:
            kept = load_classifier(file)
            if kept.classes == list(data.classes):
                return kept
        except KakusanError as error:
            shown.note(f"{error}; training it again")
    known = np.flatnonzero(data.labels >= 0)
    known = known[np.unique(np.linspace(0, len(known) - 1, min(len(known), TAUGHT)).astype(np.int64))]
    shown.note("training a classifier on the real pictures, for labels and classes ...")
    made = train_classifier(pictures_of(project, data, known), data.labels[known], list(data.classes), seconds=SECONDS)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        made.save(file)
    except OSError as error:
        shown.note(f"the classifier could not be kept ({error.strerror}): it will be trained again next time")
    return made


def extractor_of(wanted: Features, packed: tuple[tuple[int, int, int], np.dtype[Any]], device: str = "cpu") -> Any:
    """Feature network by name or weights file, or a function from pictures (N, H, W, C) to numbers (N, D).

    ``packed``: shape and dtype of one picture, on which a function is tried.
    """
    from kakusan.evaluation import features  # (its networks take a while to import)

    if callable(wanted):
        shape, dtype = packed
        probe = np.asarray(wanted(np.zeros((1, *shape), dtype)))
        if probe.ndim != 2 or len(probe) != 1:
            raise KakusanError(f"features: the function gave {probe.shape} for one picture; need (pictures, numbers)")
        return features.from_function(wanted, probe.shape[-1])
    path = Path(wanted)
    if path.is_file():
        return features.extractor(weights=path, device=device)
    return features.extractor(str(wanted), device=device)
