"""Splits: the names that training and test parts go by, and which one is meant."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kakusan.part import KakusanError

__all__ = ["SPLIT_NAMES", "chosen_split", "split_folders"]

SPLIT_NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test", "t10k": "test"}
SPLIT_NAMES |= {"val": "validation", "valid": "validation", "validation": "validation", "dev": "validation"}


def split_folders(folders: Iterable[str]) -> list[str]:
    """The splits that these first folders are, training ones first; none unless every one of them is a split.

    Beside a training folder of a usual name, folders that begin with one are splits too: "test-concepts".
    """
    names = set(folders)
    usual = {n: SPLIT_NAMES.get(n.lower()) for n in names}
    if "train" in usual.values():
        usual = {n: usual[n] or SPLIT_NAMES.get(n.lower().partition("-")[0]) for n in names}
    return sorted(names, key=lambda n: (usual[n] != "train", n)) if all(usual.values()) else []


def chosen_split(splits: list[str], split: str | None, path: Path) -> str:
    """The split that is asked for by its own or another usual name; the first of ``splits`` unless one is, or "all"."""
    if split == "all":
        return "all"
    if split is None:
        return splits[0]
    same = [s for s in splits if s.lower() == split.lower()]
    same = same or [s for s in splits if SPLIT_NAMES.get(s.lower(), s) == SPLIT_NAMES.get(split.lower(), split)]
    if not same and not any(splits):
        raise KakusanError(f"{path} has no split {split!r}: it is one file")
    if not same:
        raise KakusanError(f"{path} has no split {split!r}; it has: {', '.join(splits)}")
    return same[0]
