"""Split: which pictures are trained on, decided by hashes, with everything that shows nearly the same on one side."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from iconset.material import STYLES, Concept
from kakusan.training import duplicates

__all__ = ["SPLITS", "alike", "grouped", "same_picture", "side", "variant"]

SPLITS = ("train", "test-concepts", "test-styles")
HELD = 0.1  # of the groups, for each of the two tests

_RENAMED = [  # one thing under several names
    (r"\b(prince|princess|(wo)?man with crown)\b", "person with crown"),
    (r"\b(mermaid|merman)\b", "merperson"),
    (r"\b(santa claus|mrs\.? claus|mx claus)\b", "claus"),
    (r"\b(mother|father|daddy) christmas\b", "claus"),
    (r"^(family|kiss|couple with heart)(:.*)?$", r"\1"),
    (r"^.* holding hands$", "holding hands"),
    (r"^.*( o.clock|-thirty)$", "clock"),
]
_UNSAID = re.compile(  # words that change a picture little
    r"\b(man|men|woman|women|person|people|boys?|girls?|child|children|adult|male|female|mr|mrs|mx|older|old"
    r"|left|right|up|down|leftwards|rightwards|upwards|downwards|upper|lower|facing|pointing|tilted|curving"
    r"|large|medium|small|medium-small|backhand|clockwise|counterclockwise|s)\b|[^a-z0-9#* ]"
)


def variant(name: str) -> str:
    """A concept's name without gender, age, direction, size and hour: those that agree show nearly the same."""
    short = name.lower().replace("’", "'")
    if short.startswith("flag: "):
        return short
    for old, new in _RENAMED:
        short = re.sub(old, new, short)
    return " ".join(_UNSAID.sub(" ", short.replace("-", " ")).split()) or "person"


def grouped(concepts: Sequence[Concept], pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Each concept's group by code, named after its first concept: one variant, or alike by ``pairs`` of codes."""
    order = {c.code: i for i, c in enumerate(concepts)}
    first: dict[str, int] = {}
    links = [(first.setdefault(variant(c.english.name), order[c.code]), order[c.code]) for c in concepts]
    links += [(order[a], order[b]) for a, b in pairs]
    return {concepts[i].code: concepts[rows[0]].code for rows in duplicates.groups(links) for i in rows}


def side(group: str, styles: Sequence[Sequence[str]]) -> tuple[str, str | None]:
    """A group's split, and for "test-styles" the style that is kept from training.

    ``styles``: those that each concept of the group is drawn in. A hash of the group's name below 0.1 makes it a test
    of concepts, below 0.2 one of styles, for which every concept must be left with another style.
    """
    at = _hash(f"split {group}")
    if at < HELD:
        return "test-concepts", None
    shared = [s for s in styles[0] if all(s in have for have in styles)]
    if at < 2 * HELD and shared and all(len(have) > 1 for have in styles):
        return "test-styles", shared[int(_hash(f"style {group}") * len(shared))]
    return "train", None


def _hash(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def same_picture(
    concepts: Sequence[Concept], pictures: Mapping[tuple[str, str], np.ndarray]
) -> dict[tuple[str, str], tuple[str, str]]:
    """(style, code) of each picture that is pixel for pixel another's, with that one.

    The one that stays is the older emoji's, and of equally old ones that with the shorter name: the flag of France,
    not that of Clipperton Island.
    """
    rank = {c.code: (c.since, len(c.english.name), c.code) for c in concepts}
    first: dict[bytes, tuple[str, str]] = {}
    found = {}
    for key in sorted(pictures, key=lambda k: (rank[k[1]], STYLES.index(k[0]))):
        original = first.setdefault(hashlib.sha256(pictures[key].tobytes()).digest(), key)
        if original != key:
            found[key] = original
    return found


def alike(pictures: Mapping[tuple[str, str], np.ndarray]) -> list[tuple[str, str]]:
    """Pairs of codes of different concepts with near-duplicate pictures, found as ``kakusan data check`` finds them."""
    keys = list(pictures)
    copies = np.stack([duplicates.small(p) for p in pictures.values()])
    hashes = duplicates.perceptual(copies)
    pairs, crowd = duplicates.thinned(duplicates.candidates(hashes)[0], hashes)
    found: dict[tuple[str, str], None] = {}
    for start in range(0, len(pairs), 4096):
        some = pairs[start : start + 4096]
        same = duplicates.alike(copies[some[:, 0]], copies[some[:, 1]], crowd[start : start + 4096])
        for i, j in some[same]:
            a, b = keys[i][1], keys[j][1]
            if a != b:
                found[min(a, b), max(a, b)] = None
    return list(found)
