"""Pairs: two pictures of a data set and what turns the first into the second, from lists of JSON lines or CSV."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kakusan.domains.image import Image
from kakusan.part import KakusanError
from kakusan.training.cache import Cache
from kakusan.training.folders import FolderStore
from kakusan.training.latents import Latents
from kakusan.training.metadata import Gathered, Texts
from kakusan.training.source import Source
from kakusan.training.store import find_hashes, short_hash
from kakusan.training.zips import ZipStore

__all__ = ["SOURCE", "Pairs", "Sources", "open_pairs"]

SOURCE = "source"  # the condition that the pictures to change are inputs of
KEYS = ("source", "target", "text")


@dataclass(frozen=True)
class Pairs:
    """All pairs of some lists: rows of a source for their two pictures, instructions, and the list each is from."""

    sources: np.ndarray  # (n,) int64
    targets: np.ndarray  # (n,) int64
    texts: Texts  # one or several instructions each
    of: np.ndarray  # (n,) int16: which of the lists
    digest: str  # 64 hex digits of the lists

    def __len__(self) -> int:
        return len(self.sources)

    def placed(self, cache: Cache) -> Pairs:
        """The pairs whose pictures are both in the cache, by their places in it."""
        place = np.full(int(max(self.sources.max(), self.targets.max(), cache.rows.max())) + 1, -1, np.int64)
        place[cache.rows] = np.arange(len(cache))
        both = place[self.sources], place[self.targets]
        whole = np.flatnonzero((both[0] >= 0) & (both[1] >= 0))
        if not len(whole):
            raise KakusanError("--pairs: no pair is left, since none has two pictures that can be read")
        sources, targets = (side[whole] for side in both)
        return replace(self, sources=sources, targets=targets, texts=self.texts.subset(whole), of=self.of[whole])


@dataclass(frozen=True)
class Sources:
    """The picture to change of each row, as the model diffuses pictures; it has no noise where it is a latent's."""

    pixels: np.ndarray  # (N, H, W, C), memory-mapped
    rows: np.ndarray  # (n,) int64
    domain: Image
    latents: Latents | None = None
    name: str = SOURCE

    def subset(self, at: np.ndarray) -> Sources:
        return replace(self, rows=self.rows[at])

    def inputs(self, at: np.ndarray, turned: Tensor | None = None) -> dict[str, Tensor]:
        """Those of some rows as ``condition/source`` takes them; ``turned`` (b,) bool: which are mirrored."""
        rows = self.rows[at]
        if self.latents is not None:
            x = self.latents.means(rows, turned)
        else:
            x = self.domain.floats(np.asarray(self.pixels[rows]))
            if turned is not None:
                x = torch.where(turned[:, None, None, None], x.flip(3), x)
        return {"picture": x, "given": torch.ones(len(at), dtype=torch.bool)}


def open_pairs(path: str | Path, lists: Sequence[str]) -> tuple[Source, Pairs]:
    """The pictures that lists of pairs name, in a folder or a zip, and the pairs.

    A list is a file in the data (or elsewhere): one JSON object a line, ``{"source": "a.png", "target": "b.png",
    "text": "make it red"}`` with one text or a list of them, or CSV with these columns; pictures are named by their
    paths in the data. Raises KakusanError with the line that is not so, or names a picture that is not there.
    """
    where = Path(path).expanduser()
    if not where.exists():
        raise KakusanError(f"DATA {str(path)!r} does not exist; give the folder that holds the pictures of the pairs")
    if not where.is_dir() and not zipfile.is_zipfile(where):
        raise KakusanError(f"{where}: pairs lie in a folder or a zip of pictures; this is a single file")
    store = FolderStore(where) if where.is_dir() else ZipStore(where)
    table = np.fromiter((short_hash(store.name(i)) for i in range(len(store))), np.uint64, len(store))
    found, digest = _Read(table, where), hashlib.sha256()
    for name in lists:
        text = store.read_side(name)
        if text is None and Path(name).expanduser().is_file():
            text = Path(name).expanduser().read_bytes()
        if text is None:
            raise KakusanError(f"--pairs {name}: no such file in {where}; it is a list of pairs (.jsonl or .csv)")
        digest.update(len(text).to_bytes(8, "little") + text)
        found.read(text, name)
    pairs = found.pairs(digest.hexdigest(), ", ".join(lists))
    used, places = np.unique(np.concatenate([pairs.sources, pairs.targets]), return_inverse=True)
    return Source(store, used), replace(pairs, sources=places[: len(pairs)], targets=places[len(pairs) :])


class _Read:
    """Lines of lists, matched with pictures through 64-bit hashes of their names."""

    def __init__(self, table: np.ndarray, where: Path) -> None:
        self.table, self.order, self.where = table, np.argsort(table), where
        self.rows: list[np.ndarray] = []  # (n, 2) of each list
        self.texts = Gathered()

    def read(self, text: bytes, name: str) -> None:
        hashes = array("Q")  # of source and target in turn
        for line, entry in _entries(text, name):
            source, target, said = (entry.get(key) for key in KEYS)
            several = said if isinstance(said, list) else [said]
            if not (isinstance(source, str) and isinstance(target, str) and all(isinstance(t, str) for t in several)):
                raise KakusanError(f'{line}: needs "source" and "target", two pictures, and "text", what to do')
            if not any(t.strip() for t in several):
                raise KakusanError(f"{line}: its text is empty; it says what turns the source into the target")
            hashes.extend((_hash(source), _hash(target)))
            self.texts.add(several)
        rows = find_hashes(self.table, self.order, np.array(hashes, np.uint64)).reshape(-1, 2)
        if len(lost := np.flatnonzero((rows < 0).any(1))):
            line, entry = next(islice(_entries(text, name), int(lost[0]), None))
            gone = entry["source" if rows[lost[0], 0] < 0 else "target"]
            raise KakusanError(
                f"{line}: {gone!r} is not in {self.where}, and {len(lost):,} of {len(rows):,} pairs are so; "
                "write paths as they are inside it"
            )
        self.rows.append(rows)

    def pairs(self, digest: str, lists: str) -> Pairs:
        texts = self.texts.texts()
        if texts is None:
            raise KakusanError(f"--pairs {lists}: is empty; one pair a line")
        rows = np.concatenate(self.rows)
        of = np.repeat(np.arange(len(self.rows), dtype=np.int16), [len(r) for r in self.rows])
        return Pairs(rows[:, 0], rows[:, 1], texts, of, digest)


def _hash(name: str) -> int:
    return short_hash(name.removeprefix("./"))


def _entries(text: bytes, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's place and what stands in it."""
    if name.lower().endswith(".csv"):
        rows = csv.DictReader(io.StringIO(text.decode("utf-8-sig", "replace"), newline=""))
        if missing := [key for key in KEYS if key not in (rows.fieldnames or [])]:
            raise KakusanError(f"{name}: has no column {missing[0]!r}; its first line is: {','.join(KEYS)}")
        for row in rows:
            yield f"{name}, line {rows.line_num}", row
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            raise KakusanError(f'{where}: needs one JSON object with "source", "target" and "text"')
        yield where, entry
