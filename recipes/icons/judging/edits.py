"""Edits: questions made of held-out pairs, and whether an edited picture follows its instruction and keeps the rest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from iconset.captions import named, phrase
from iconset.material import TONES
from PIL import Image
from torch.nn import functional as F

from judging.scoring import told
from judging.towers import Judge
from kakusan.evaluation.classifier import Classifier
from kakusan.evaluation.labels import wilson
from kakusan.part import KakusanError

__all__ = ["Question", "away", "followed", "questions", "read", "styled"]

AMONG = 100  # captions that a picture is asked to choose from
LEAST = 8  # grey levels by which a pixel of a pair differs, premultiplied
UNNAMED = ("style", "skin tone")  # changes that no caption tells


@dataclass(frozen=True)
class Question:
    """One edit: files of a pair, what is told, and what the result should be called and look like."""

    source: Path
    target: Path
    text: str
    kind: str
    caption: str  # of the target
    style: str  # of the target
    choices: tuple[str, ...]  # captions, the target's first
    others: tuple[Path, ...]  # the source, and the target's concept in other styles


def questions(pairs: Path, name: str, icons: Path, lines: Sequence[dict[str, Any]], count: int) -> list[Question]:
    """``count`` pairs of a list that pairs.py wrote, by a hash; each with the captions of its target, its source where
    that is called otherwise, and other concepts', ``AMONG`` in all. ``lines``: the metadata of the folder ``icons``."""
    file = pairs / name
    if not file.is_file():
        raise KakusanError(f"{file}: no such file; pairs.py writes it: python recipes/icons/pairs.py SOURCES ICONS OUT")
    by_file = {line["file_name"]: line for line in lines}
    drawn: dict[str, list[Path]] = {}
    for line in lines:
        drawn.setdefault(line["code"], []).append(icons / line["split"] / line["file_name"])
    called = sorted({phrase(named(line["concept"])) for line in lines if line["category"] != "Flags"})
    found = []
    for entry in map(json.loads, file.read_text("utf-8").splitlines()):
        before, after = (_line(by_file, entry[side]) for side in ("source", "target"))
        if before is not None and after is not None and after["category"] != "Flags":
            found.append((_hash(entry["source"], entry["target"]), entry, before, after))
    chosen = sorted(found, key=lambda x: x[0])[:count]
    out = []
    for key, entry, before, after in chosen:
        text = entry["text"][key[0] % len(entry["text"])]
        own, other = (phrase(named(line["concept"])) for line in (after, before))
        rest = sorted((c for c in called if c not in (own, other)), key=lambda c: _hash(c, entry["target"]))
        choices = (own, *([other] if other != own else []), *rest)[:AMONG]
        source, target = (pairs / entry[side] for side in ("source", "target"))
        others = (source, *(f for f in drawn[after["code"]] if f.parts[-2] not in (after["style"], source.parts[-2])))
        out.append(Question(source, target, text, entry["kind"], own, after["style"], choices, others))
    return out


def _line(by_file: dict[str, dict[str, Any]], file: str) -> dict[str, Any] | None:
    """The metadata of a pair's picture: "pictures/3d/artist-medium-dark.png" is of "3d/artist.png"."""
    stem = file.removeprefix("pictures/").removesuffix(".png")
    tones = sorted((f"-{tone}" for tone in TONES if stem.endswith(f"-{tone}")), key=len)
    names = (f"{stem.removesuffix(tone)}.png" for tone in ["", *tones])
    return next((by_file[name] for name in names if name in by_file), None)


def _hash(*words: str) -> bytes:
    return hashlib.sha256(" ".join(["edit", *words]).encode()).digest()


def read(file: Path) -> np.ndarray:
    """A picture, (H, W, 4) uint8."""
    with Image.open(file) as im:
        return np.asarray(im.convert("RGBA"))


def followed(judge: Judge, pictures: np.ndarray, asked: Sequence[Question]) -> dict[str, Any]:
    """By kind, and for all: the target's caption first among its choices; the target nearest among the source and the
    concept's other renderings; and what was asked: the caption first, and the target nearest where the change is one
    that no caption tells."""
    texts = sorted({c for q in asked for c in q.choices})
    place = {text: i for i, text in enumerate(texts)}
    scores = judge.scores(torch.from_numpy(pictures), texts).numpy()
    ranks = np.array([_place(row[[place[c] for c in q.choices]]) for row, q in zip(scores, asked, strict=True)])
    nearest = np.array([_nearest(picture, q) for picture, q in zip(pictures, asked, strict=True)])
    kinds = np.array([q.kind for q in asked])
    done = (ranks == 0) & (nearest | ~np.isin(kinds, UNNAMED))
    out = {}
    for kind in ("all", *sorted(set(kinds))):
        at = np.ones(len(asked), bool) if kind == "all" else kinds == kind
        out[kind] = told(ranks[at]) | _share("nearest", nearest[at]) | _share("followed", done[at])
    return out


def styled(known: Classifier, pictures: np.ndarray, asked: Sequence[Question]) -> dict[str, Any]:
    """Of the changes of style, the share in which a classifier of styles finds the one asked for; nothing where none
    was asked for."""
    at = [i for i, q in enumerate(asked) if q.kind == "style"]
    if not at:
        return {}
    said = known.predict(pictures[at])
    return _share("style", np.array([known.classes[k] == asked[i].style for k, i in zip(said, at, strict=True)]))


def _nearest(picture: np.ndarray, asked: Question) -> bool:
    own = _flat(picture)
    target, *others = (np.square(own - _flat(read(file))).mean() for file in (asked.target, *asked.others))
    return bool(target < min(others))


def _place(scores: np.ndarray) -> int:
    return int((scores[1:] >= scores[0]).sum())


def _share(name: str, hits: np.ndarray) -> dict[str, Any]:
    low, high = wilson(int(hits.sum()), len(hits))
    return {name: round(float(hits.mean()), 4), f"{name}_interval": [round(low, 4), round(high, 4)]}


def away(pictures: np.ndarray, asked: Sequence[Question]) -> float:
    """How far pictures are from their sources where those and their targets agree: root mean square in grey levels,
    premultiplied, the mean over all that agree somewhere."""
    found = []
    for picture, q in zip(pictures, asked, strict=True):
        source, target, own = (_flat(a) for a in (read(q.source), read(q.target), picture))
        differs = torch.from_numpy((np.abs(source - target).max(2) > LEAST).astype(np.float32))
        kept = F.max_pool2d(differs[None, None], 3, 1, 1)[0, 0].numpy() == 0
        if kept.any():
            found.append(float(np.sqrt(np.square(own - source)[kept].mean())))
    return round(float(np.mean(found)), 3) if found else float("nan")


def _flat(a: np.ndarray) -> np.ndarray:
    """Premultiplied colours and alpha, (H, W, 4) in grey levels."""
    a = a.astype(np.float64)
    return np.concatenate([a[..., :3] * a[..., 3:] / 255, a[..., 3:]], 2)
