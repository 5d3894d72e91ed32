"""Metadata: labels and captions that stand in files beside the pictures, matched and kept compactly."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kakusan.part import KakusanError
from kakusan.training.fields import Gather
from kakusan.training.store import Names, find_hashes, short_hash

__all__ = ["SHOWN", "Gathered", "Metadata", "Texts", "sorted_classes"]

LABEL = ("label", "class")  # the keys that name a picture's class, the first one given counts
SHOWN = 10  # names of what does not fit together


class Texts:
    """Captions of rows, none, one or several each; a caption that many rows share is kept once, under its number."""

    def __init__(self, names: Names, numbers: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> None:
        self.names = names
        self._numbers, self._starts, self._counts = numbers, starts, counts

    def __len__(self) -> int:
        return len(self._counts)

    def __getitem__(self, i: int) -> str | None:
        """The row's first caption."""
        return self.names[int(self._numbers[self._starts[i]])] if self._counts[i] else None

    def numbers(self, i: int) -> np.ndarray:
        """The numbers of the row's captions in ``names``, (k,)."""
        return self._numbers[self._starts[i] : self._starts[i] + self._counts[i]]

    def all(self, i: int) -> list[str]:
        """The row's captions."""
        return [self.names[int(number)] for number in self.numbers(i)]

    def captioned(self) -> np.ndarray:
        """The rows that have a caption, (k,) int64."""
        return np.flatnonzero(self._counts)

    def subset(self, rows: np.ndarray) -> Texts:
        return Texts(self.names, self._numbers, self._starts[rows], self._counts[rows])


class Gathered:
    """Captions as they are read, row by row."""

    def __init__(self) -> None:
        self._names, self._known = Names(), dict[str, int]()
        self._numbers, self._counts = array("i"), array("i")

    def add(self, captions: Iterable[str]) -> None:
        """The captions of the next row, blank ones and repeats left out."""
        count = 0
        for caption in dict.fromkeys(text.strip() for text in captions):
            if not caption:
                continue
            if caption not in self._known:
                self._known[caption] = len(self._names)
                self._names.append(caption)
            self._numbers.append(self._known[caption])
            count += 1
        self._counts.append(count)

    def texts(self) -> Texts | None:
        """All of them; None where no row has one."""
        if not len(self._names):
            return None
        counts = np.array(self._counts, np.int32)
        return Texts(self._names, np.array(self._numbers, np.int32), np.cumsum(counts) - counts, counts)


class Metadata:
    """The lines of metadata files, matched with the pictures they name through 64-bit hashes."""

    def __init__(
        self, table: np.ndarray, order: np.ndarray, fields: Gather | None = None, label: Sequence[str] = LABEL
    ) -> None:
        self.table, self.order, self.fields, self.label = table, order, fields or Gather({}), label
        self.rows, self.label_at = array("q"), array("i")
        self.texts, self.labels = Gathered(), dict[Any, int]()
        self.missing, self.first_missing = 0, list[str]()

    def read(self, text: bytes, name: str, path: Path) -> None:
        folder = name.rpartition("/")[0]
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                file = entry["file_name"]
            except (ValueError, KeyError, TypeError):
                raise KakusanError(f'{path}/{name}, line {number}: needs one JSON object with "file_name"') from None
            full = f"{folder}/{file}" if folder else str(file)
            at = int(find_hashes(self.table, self.order, np.array([short_hash(full)], np.uint64))[0])
            if at < 0:
                self.missing += 1
                self.first_missing += [full] * (len(self.first_missing) < SHOWN)
                continue
            self._add(at, entry, f"{path}/{name}, line {number}")

    def _add(self, at: int, entry: dict[str, Any], where: str) -> None:
        self.rows.append(at)
        self.fields.add(entry, where)
        text = next((entry[k] for k in ("text", "caption", "prompt") if entry.get(k) is not None), None)
        several = text if isinstance(text, list) else [] if text is None else [text]
        self.texts.add(str(each) for each in several)
        label = next((entry[k] for k in self.label if entry.get(k) is not None), None)
        if not isinstance(label, (str, int, type(None))):
            raise KakusanError(f"{where}: {self.label[0]} is {label!r}; it is one word or number")
        self.label_at.append(-1 if label is None else self.labels.setdefault(label, len(self.labels)))


def sorted_classes(values: np.ndarray, labels: list[Any]) -> tuple[np.ndarray, list[str]]:
    """Classes sorted (numbers by value), and the indices that follow from it."""
    numeric = all(isinstance(v, int) for v in labels)
    order = sorted(range(len(labels)), key=lambda i: labels[i] if numeric else str(labels[i]))
    rank = np.empty(len(labels) + 1, np.int32)
    rank[order], rank[-1] = np.arange(len(labels)), -1
    return rank[values], [str(labels[i]) for i in order]
