"""Store: numbered entries of a data set, listed in a few dozen bytes each and read one by one."""

from __future__ import annotations

import abc
import hashlib
from array import array
from collections import Counter
from pathlib import Path

import numpy as np

from kakusan.domains.picture import SUFFIXES

__all__ = ["Listing", "Names", "Store", "find_hashes", "ignorable", "short_hash"]

_IGNORED = ("__macosx", "thumbs.db", "desktop.ini")
_SIDE = frozenset({".txt", ".jsonl", ".csv"})  # files that say something about pictures


class Names:
    """Many strings as one block of bytes and the offsets of their ends."""

    def __init__(self) -> None:
        self._blob, self._ends = bytearray(), array("Q")

    def append(self, text: str) -> None:
        self._blob += text.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._blob))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i: int) -> str:
        start = self._ends[i - 1] if i else 0
        return self._blob[start : self._ends[i]].decode("utf-8", "surrogateescape")


class Store(abc.ABC):
    """Numbered entries that can be read one by one, from any thread."""

    kind: str  # "folder", "zip" or "array"
    path: Path
    names: Names  # file name without its folder
    folders: list[str]  # each folder once, "" = the root, "/" between
    folder_of: array[int]  # entry -> folder
    ignored: Counter[str]  # suffix -> files that are no pictures
    side: list[str]  # metadata.jsonl files
    captions: Names  # .txt files, by their paths

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        """The entry's path inside the data set."""
        folder = self.folders[self.folder_of[i]]
        return f"{folder}/{self.names[i]}" if folder else self.names[i]

    @abc.abstractmethod
    def read(self, i: int) -> bytes | np.ndarray: ...

    @abc.abstractmethod
    def read_side(self, name: str) -> bytes | None:
        """A caption or metadata file by its path inside the data set; None when there is none."""

    @abc.abstractmethod
    def fingerprint(self, rows: np.ndarray | None = None) -> str:
        """64 hex digits that change when the entries (those in ``rows``) do, without reading them."""


def ignorable(name: str) -> bool:
    """Hidden files, and what systems leave in folders."""
    return name.startswith(".") or name.lower() in _IGNORED


class Listing(Store):
    """What folders and zips share: their entries have names in folders."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names, self.folders, self.folder_of = Names(), [], array("I")
        self.ignored, self.side, self.captions = Counter(), [], Names()

    def _sort(self, folder: str, name: str) -> str:
        """What a file is: "picture", "side" or "other" (counted)."""
        stem, dot, end = name.rpartition(".")
        suffix = f".{end.lower()}" if dot and stem else ""
        if suffix in SUFFIXES:
            return "picture"
        if suffix in _SIDE:
            if name == "metadata.jsonl":
                self.side.append(f"{folder}/{name}" if folder else name)
            elif suffix == ".txt":
                self.captions.append(f"{folder}/{name}" if folder else name)
            return "side"
        self.ignored[suffix or "(none)"] += 1
        return "other"

    @abc.abstractmethod
    def stamp(self, i: int) -> bytes:
        """What changes when the entry's file changes."""

    @abc.abstractmethod
    def identity(self) -> bytes:
        """What the whole store's fingerprint begins with."""

    def fingerprint(self, rows: np.ndarray | None = None) -> str:
        """sha256 over every entry's path and stamp, taken afresh each time."""
        digest = hashlib.sha256(self.identity())
        for i in range(len(self)) if rows is None else rows:
            digest.update(self.name(int(i)).encode("utf-8", "surrogateescape") + b"\0" + self.stamp(int(i)))
        return digest.hexdigest()


def short_hash(text: str) -> int:
    """64 bits that stand for a name in compact tables."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


def find_hashes(table: np.ndarray, order: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Positions of ``wanted`` in ``table`` (``order`` sorts it), -1 where absent."""
    if not len(table):
        return np.full(len(wanted), -1)
    at = order[np.minimum(np.searchsorted(table, wanted, sorter=order), len(table) - 1)]
    return np.where(table[at] == wanted, at, -1)
