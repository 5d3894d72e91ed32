"""Data check: what a data set holds and what is wrong with it, before any training and without changing a file."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pil
from PIL import ImageOps

from kakusan.app.draw.sheet import grid, save
from kakusan.app.judge.checkwords import advice
from kakusan.domains.picture import PictureError, shown, used_here
from kakusan.part import KakusanError
from kakusan.training import duplicates
from kakusan.training.source import Source, open_source
from kakusan.training.threads import in_order

__all__ = ["check"]

_CHUNK = 256
_FAULTS = ("broken", "truncated", "oversized", "unsupported")
Progress = Callable[[int, int, int], None]  # done, total, faulty


def check(
    path: str | Path,
    against: str | Path | None = None,
    labels: str = "auto",
    sheet: str | Path | None = None,
    limit: int = 100,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Look at every picture: counts, sizes, modes, faults, exact and near duplicates, leaks between splits.

    All splits of the source are read; ``against`` names another data set that must not share pictures with it.
    ``sheet`` is where a PNG of sample pictures and of the near duplicates found goes. Lists of names hold at most
    ``limit`` entries; counts are complete.
    """
    start = time.monotonic()
    data = _Data(path, against, labels)
    scan = _Scan(len(data))
    for chunk in _chunks(data):
        scan.add(chunk)
        if progress is not None:
            progress(scan.done, len(data), sum(scan.faults.values()))
    exact = _exact(scan)
    near, crowded = _near(data, scan, exact)
    result: dict[str, Any] = {
        "path": str(path),
        "pictures": len(data),
        "readable": int(scan.good.sum()),
        "splits": data.counts(),
        "sizes": _sizes(scan),
        "modes": dict(scan.modes.most_common()),
        "formats": dict(scan.formats.most_common()),
        "grey_as_colour": scan.grey,
        "transparent": scan.clear,
        "animated": scan.animated,
        "classes": data.classes(),
        "captions": data.sources[0].describe()["captions"],
        "uncaptioned": _named(*data.sources[0].uncaptioned()),
        "astray": _named(*data.sources[0].astray),
        "ignored": dict(data.sources[0].store.ignored),
        "faults": {kind: scan.faults.get(kind, 0) for kind in _FAULTS},
        "faulty": scan.faulty[:limit],
        "exact": _listed(data, exact, limit) | {"labels_differ": sum(data.labels_differ(g) for g in exact)},
        "near": _listed(data, near, limit) | {"complete": not crowded},
        "leaks": _leaks(data, exact, near, limit),
        "notes": [n for s in data.sources for n in s.notes if "split" not in n],
        "seconds": round(time.monotonic() - start, 2),
    }
    result["advice"] = advice(result)
    if sheet is not None:
        result["sheet"] = str(_sheet(data, scan, near, Path(sheet)))
    return result


class _Data:
    """One or two sources as one row of pictures, each on a side (a split, or a data set)."""

    def __init__(self, path: str | Path, against: str | Path | None, labels: str) -> None:
        source = open_source(path, labels)
        if len(source.splits) > 1 and Path(path).expanduser().exists():
            source = open_source(path, labels, "all")
        self.sources = [source]
        self.sides = list(source.splits) if source.split_of is not None else [source.split or str(path)]
        of = source.split_of if source.split_of is not None else np.zeros(len(source), np.int8)
        if against is not None:
            other = open_source(against, labels)
            self.sources.append(other)
            of = np.concatenate([of, np.full(len(other), len(self.sides), np.int8)])
            self.sides.append(str(against))
        self.side = of

    def __len__(self) -> int:
        return len(self.side)

    def _at(self, i: int) -> tuple[Source, int]:
        first = len(self.sources[0])
        return (self.sources[0], i) if i < first else (self.sources[1], i - first)

    def name(self, i: int) -> str:
        source, at = self._at(i)
        return source.name(at) if source is self.sources[0] else f"{source.path}: {source.name(at)}"

    def record(self, i: int) -> Any:
        source, at = self._at(i)
        return source.record(at)

    def small(self, i: int) -> np.ndarray:
        """The small copy that near duplicates are compared by."""
        with used_here():
            return duplicates.small(self.record(int(i)).data)

    def label(self, i: int) -> str | None:
        source, at = self._at(i)
        return None if source.labels is None or source.labels[at] < 0 else source.classes[source.labels[at]]

    def labels_differ(self, rows: list[int]) -> bool:
        return len({label for i in rows if (label := self.label(i)) is not None}) > 1

    def counts(self) -> dict[str, int]:
        return dict(zip(self.sides, np.bincount(self.side, minlength=len(self.sides)).tolist(), strict=True))

    def classes(self) -> dict[str, int] | None:
        found: dict[str, int] | None = self.sources[0].describe()["classes"]
        return found


@dataclass
class _Chunk:
    """What is kept of some pictures: 34 bytes each, and counts."""

    rows: list[int] = field(default_factory=list)
    exact: list[bytes] = field(default_factory=list)
    copies: list[np.ndarray] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    words: list[tuple[str, str, bool, bool, bool]] = field(default_factory=list)
    faulty: list[tuple[str, str, str]] = field(default_factory=list)
    near: np.ndarray | None = None
    plain: np.ndarray | None = None


def _look(data: _Data, first: int, quit: threading.Event) -> _Chunk:
    chunk = _Chunk()
    for i in range(first, min(first + _CHUNK, len(data))):
        if quit.is_set():
            break
        with used_here():
            _look_at(data, i, chunk)
    if chunk.rows:
        copies = np.stack(chunk.copies)
        chunk.near = duplicates.perceptual(copies)
        chunk.plain = copies.std((1, 2)).mean(1) < duplicates.PLAIN
    chunk.copies.clear()
    return chunk


def _look_at(data: _Data, i: int, chunk: _Chunk) -> None:
    try:
        record = data.record(i)
    except PictureError as error:
        chunk.faulty.append((data.name(i), error.reason, error.detail))
        return
    a, meta = record.data, record.meta
    chunk.rows.append(i)
    chunk.sizes.append(meta.get("size") or a.shape[:2])
    digest = hashlib.blake2b(repr((a.shape, a.dtype.str)).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(a))
    chunk.exact.append(digest.digest())
    chunk.copies.append(duplicates.small(a))
    coloured = a.shape[2] >= 3
    grey = coloured and bool((a[..., 0] == a[..., 1]).all() and (a[..., 1] == a[..., 2]).all())
    clear = a.shape[2] == 4 and a.dtype.kind == "u" and bool((a[..., 3] < np.iinfo(a.dtype).max).any())
    kind = {1: "grey", 3: "RGB", 4: "RGBA"}.get(a.shape[2], f"{a.shape[2]} channels")
    depth = "float" if a.dtype.kind == "f" else f"{8 * a.dtype.itemsize}-bit"
    words = (f"{kind} {depth}", str(meta.get("format", "array")), grey, clear, bool(meta.get("animated")))
    chunk.words.append(words)


def _chunks(data: _Data) -> Iterator[_Chunk]:
    quit = threading.Event()
    firsts = range(0, len(data), _CHUNK)
    return in_order(lambda first: _look(data, first, quit), firsts, os.cpu_count() or 1, "check", quit)


class _Scan:
    """The compact table over all pictures."""

    def __init__(self, count: int) -> None:
        self.good = np.zeros(count, bool)
        self.exact = np.zeros(count, "V16")
        self.near = np.zeros(count, np.uint64)
        self.plain = np.zeros(count, bool)
        self.sizes = np.zeros((count, 2), np.int32)
        self.modes, self.formats, self.faults = Counter[str](), Counter[str](), Counter[str]()
        self.faulty: list[dict[str, str]] = []
        self.grey = self.clear = self.animated = self.done = 0

    def add(self, chunk: _Chunk) -> None:
        self.done += len(chunk.rows) + len(chunk.faulty)
        for name, reason, detail in chunk.faulty:
            self.faults[reason] += 1
            if len(self.faulty) < 10_000:
                self.faulty.append({"name": name, "reason": reason, "detail": detail})
        if chunk.near is None:
            return
        rows = np.array(chunk.rows)
        self.good[rows], self.near[rows], self.plain[rows] = True, chunk.near, chunk.plain
        self.exact[rows] = np.array(chunk.exact, "V16")
        self.sizes[rows] = chunk.sizes
        for mode, kind, grey, clear, animated in chunk.words:
            self.modes[mode] += 1
            self.formats[kind] += 1
            self.grey, self.clear, self.animated = self.grey + grey, self.clear + clear, self.animated + animated


def _exact(scan: _Scan) -> list[list[int]]:
    rows = np.flatnonzero(scan.good)
    words = scan.exact[rows].view(np.uint64).reshape(-1, 2)
    order = np.lexsort((words[:, 1], words[:, 0]))
    same = (words[order[1:]] == words[order[:-1]]).all(1)
    return duplicates.groups(zip(rows[order[:-1][same]], rows[order[1:][same]], strict=True))


def _near(data: _Data, scan: _Scan, exact: list[list[int]]) -> tuple[list[list[int]], bool]:
    """Groups of near duplicates among pictures that differ; candidates are decoded again and compared."""
    keep = scan.good & ~scan.plain
    for group in exact:
        sides: set[int] = set()
        for i in group:  # one of each side stands for all of its copies
            keep[i] &= int(data.side[i]) not in sides
            sides.add(int(data.side[i]))
    rows = np.flatnonzero(keep)
    pairs, crowded = duplicates.candidates(scan.near[rows])
    pairs, crowd = duplicates.thinned(pairs, scan.near[rows])
    pairs = rows[pairs]
    differ = scan.exact[pairs[:, 0]] != scan.exact[pairs[:, 1]]
    pairs, crowd = pairs[differ], crowd[differ]
    if not len(pairs):
        return [], crowded
    involved = np.unique(pairs)
    found = []
    with tempfile.TemporaryFile(prefix="kakusan-") as file:
        copies = np.memmap(file, np.uint8, "w+", shape=(len(involved), duplicates.SIDE, duplicates.SIDE, 3))
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for at, copy in enumerate(pool.map(data.small, involved)):
                copies[at] = copy
        for first in range(0, len(pairs), 4096):
            some = pairs[first : first + 4096]
            a, b = (copies[np.searchsorted(involved, some[:, k])] for k in (0, 1))
            found.append(some[duplicates.alike(a, b, crowd[first : first + 4096])])
        del copies
    return duplicates.groups(map(tuple, np.concatenate(found))), crowded


def _sizes(scan: _Scan) -> dict[str, Any]:
    sizes = scan.sizes[scan.good]
    if not len(sizes):
        return {}
    found, counts = np.unique(sizes, axis=0, return_counts=True)
    common = np.argsort(-counts, kind="stable")[:5]
    return {
        "distinct": len(found),
        "smallest": [int(n) for n in sizes[sizes.prod(1, dtype=np.int64).argmin()]],
        "median": [int(n) for n in np.median(sizes, 0)],
        "largest": [int(n) for n in sizes[sizes.prod(1, dtype=np.int64).argmax()]],
        "common": [{"size": [int(n) for n in found[i]], "count": int(counts[i])} for i in common],
    }


def _listed(data: _Data, found: list[list[int]], limit: int) -> dict[str, Any]:
    """Groups as names: how many groups, how many pictures beyond the first of each, and examples."""
    names = [[data.name(i) for i in group[:20]] for group in found[:limit]]
    return {"groups": len(found), "extra": sum(len(g) - 1 for g in found), "examples": names}


def _named(count: int, first: list[str]) -> dict[str, Any]:
    return {"count": count, "first": first}


def _leaks(data: _Data, exact: list[list[int]], near: list[list[int]], limit: int) -> dict[str, Any] | None:
    """Pictures of the first side that occur on another one too; None where there is one side only."""
    if len(data.sides) < 2:
        return None
    result: dict[str, Any] = {"between": data.sides}
    for kind, found in (("exact", exact), ("near", near)):
        across = [g for g in found if len({int(data.side[i]) for i in g}) > 1]
        count = sum(int((data.side[g] != data.side[g].min()).sum()) for g in map(np.array, across))
        examples = []
        for group in across[:limit]:
            first = group[0]
            other = next(i for i in group if data.side[i] != data.side[first])
            examples.append([data.name(first), data.name(other)])
        result[kind] = {"pictures": count, "examples": examples}
    return result


def _sheet(data: _Data, scan: _Scan, near: list[list[int]], path: Path) -> Path:
    """64 pictures spread over the data set, and below them up to 16 pairs of near duplicates side by side."""
    rows = np.flatnonzero(scan.good)
    if not len(rows):
        raise KakusanError(f"{data.sources[0].path}: no picture could be read, so there is no sheet to draw")
    spread = rows[np.linspace(0, len(rows) - 1, min(64, len(rows))).astype(int)]
    cell = int(np.clip(np.median(scan.sizes[rows]), 32, 96))

    def tile(i: int) -> Pil.Image:
        return ImageOps.contain(Pil.fromarray(shown(data.record(i).data)), (cell, cell))

    parts = [grid([tile(int(i)) for i in spread], 16, scale=1)]
    if near:
        parts.append(grid([tile(i) for group in near[:16] for i in group[:2]], 16, scale=1))
    whole = Pil.new("RGB", (max(p.width for p in parts), sum(p.height + 8 for p in parts)), "white")
    for at, part in enumerate(parts):
        whole.paste(part, (0, sum(p.height + 8 for p in parts[:at])))
    return save(whole, path)
