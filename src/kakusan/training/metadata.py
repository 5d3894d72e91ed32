"""Metadata: labels and captions that stand in files beside the pictures, matched and kept compactly."""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from kakusan.part import KakusanError
from kakusan.training.fields import Gather
from kakusan.training.store import Names, find_hashes, short_hash

__all__ = ["Metadata", "Texts", "sorted_classes"]


class Texts:
    """One caption a row, or None, in a few bytes more than the text itself."""

    def __init__(self, names: Names, at: np.ndarray) -> None:
        self._names, self._at = names, at

    def __len__(self) -> int:
        return len(self._at)

    def __getitem__(self, i: int) -> str | None:
        at = int(self._at[i])
        return None if at < 0 else self._names[at]

    def subset(self, rows: np.ndarray) -> Texts:
        return Texts(self._names, self._at[rows])


class Metadata:
    """The lines of metadata files, matched with the pictures they name through 64-bit hashes."""

    def __init__(self, table: np.ndarray, order: np.ndarray, fields: Gather | None = None) -> None:
        self.table, self.order, self.fields = table, order, fields or Gather({})
        self.rows, self.text_at, self.label_at = array("q"), array("i"), array("i")
        self.texts, self.labels = Names(), dict[Any, int]()
        self.missing, self.first_missing = 0, ""

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
                self.first_missing = self.first_missing or full
                continue
            self._add(at, entry, f"{path}/{name}, line {number}")

    def _add(self, at: int, entry: dict[str, Any], where: str) -> None:
        self.rows.append(at)
        self.fields.add(entry, where)
        text = next((entry[k] for k in ("text", "caption", "prompt") if entry.get(k) is not None), None)
        self.text_at.append(-1 if text is None else len(self.texts))
        if text is not None:
            self.texts.append(str(text[0] if isinstance(text, list) and text else text))
        label = next((entry[k] for k in ("label", "class") if entry.get(k) is not None), None)
        if not isinstance(label, (str, int, type(None))):
            raise KakusanError(f"{where}: label is {label!r}; it is one word or number")
        self.label_at.append(-1 if label is None else self.labels.setdefault(label, len(self.labels)))


def sorted_classes(values: np.ndarray, labels: list[Any]) -> tuple[np.ndarray, list[str]]:
    """Classes sorted (numbers by value), and the indices that follow from it."""
    numeric = all(isinstance(v, int) for v in labels)
    order = sorted(range(len(labels)), key=lambda i: labels[i] if numeric else str(labels[i]))
    rank = np.empty(len(labels) + 1, np.int32)
    rank[order], rank[-1] = np.arange(len(labels)), -1
    return rank[values], [str(labels[i]) for i in order]
