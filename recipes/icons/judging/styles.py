"""Styles: drawings of held-out concepts after reference pictures, and whether they are of the references' styles."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from iconset.captions import named, phrase

from judging.icons import Icons
from kakusan.evaluation.classifier import Classifier, train_classifier
from kakusan.evaluation.labels import wilson
from kakusan.part import KakusanError

__all__ = ["HELD_OUT", "Question", "agreed", "knower", "questions"]

HELD_OUT = "test-concepts"


@dataclass(frozen=True)
class Question:
    """What to draw, and the row of the picture in whose style."""

    caption: str
    reference: int
    style: str


def questions(icons: Icons, count: int) -> list[Question]:
    """``count`` held-out concepts, by a hash, each asked for once in every style, after a picture of another one."""
    rows = [i for i, line in enumerate(icons.lines) if line["split"] == HELD_OUT and line["category"] != "Flags"]
    rows.sort(key=lambda i: _hash(icons.lines[i]["file_name"]))
    concepts = list(dict.fromkeys(icons.lines[i]["concept"] for i in rows))[:count]
    found = []
    for style in sorted({icons.lines[i]["style"] for i in rows}):
        of_style = [i for i in rows if icons.lines[i]["style"] == style]
        for at, concept in enumerate(concepts):
            others = [i for i in of_style if icons.lines[i]["concept"] != concept]
            if not others:
                raise KakusanError(f"{HELD_OUT} has no picture of another concept than {concept!r} in style {style!r}")
            found.append(Question(phrase(named(concept)), others[at % len(others)], style))
    return found


def knower(icons: Icons, seconds: float = 40) -> Classifier:
    """A classifier of styles that learnt from the training pictures; its accuracy is of the held-out concepts."""
    styles = sorted({line["style"] for line in icons.lines})
    labels = np.array([styles.index(line["style"]) for line in icons.lines])
    splits = np.array([line["split"] for line in icons.lines])
    train, held = splits == "train", splits == HELD_OUT
    apart = (icons.pictures[held], labels[held])
    return train_classifier(icons.pictures[train], labels[train], styles, seconds=seconds, held_out=apart)


def agreed(known: Classifier, pictures: np.ndarray, asked: Sequence[Question]) -> dict[str, Any]:
    """The share of pictures whose style is the one asked for, for all and by style, with 95% intervals."""
    said = [known.classes[i] for i in known.predict(pictures)]
    out = {}
    for style in ("all", *known.classes):
        hits = [said[i] == q.style for i, q in enumerate(asked) if style in ("all", q.style)]
        low, high = wilson(sum(hits), len(hits))
        out[style] = {"share": round(sum(hits) / max(1, len(hits)), 4), "interval": [round(low, 4), round(high, 4)]}
    return out


def _hash(word: str) -> bytes:
    return hashlib.sha256(f"style {word}".encode()).digest()
