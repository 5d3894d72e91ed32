"""Maps: a picture beside each picture of a data set (edges, depth, segments), found by its name, as a condition."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kakusan.domains.image import Image
from kakusan.part import KakusanError
from kakusan.training.cache import Cache, build_cache
from kakusan.training.source import Source, open_source

__all__ = ["MAP", "Maps", "beside"]

MAP = "map"  # the condition that maps are inputs of
MODES = ("L", "RGB", "RGBA")


@dataclass(frozen=True)
class Maps:
    """Fitted maps and which of them belongs to each row, (n,) int64."""

    pixels: np.ndarray  # (N, H, W, C), memory-mapped
    rows: np.ndarray
    domain: Image
    name: str = MAP

    def subset(self, at: np.ndarray) -> Maps:
        return replace(self, rows=self.rows[at])

    def inputs(self, at: np.ndarray, turned: Tensor | None = None) -> dict[str, Tensor]:
        """The maps of some rows as ``condition/map`` takes them; ``turned`` (b,) bool: which are mirrored."""
        x = self.domain.floats(np.asarray(self.pixels[self.rows[at]]))
        if turned is not None:
            x = torch.where(turned[:, None, None, None], x.flip(3), x)
        return {"map": x, "given": torch.ones(len(at), dtype=torch.bool)}


def beside(source: Source, cache: Cache, folder: str | Path, domain: Image) -> Maps:
    """The maps in a folder (or zip) whose names are those of the pictures, whatever their suffix."""
    theirs = open_source(folder, labels="none", split=None)
    fitted = Image.fit(theirs.sample(64), size=list(domain.size), fit=domain.how)
    if fitted.mode not in MODES or fitted.depth == 32:
        raise KakusanError(
            f"--control {folder}: its pictures are {fitted.mode}; maps are grey or coloured, 8 or 16 bits"
        )
    made = build_cache(theirs, fitted)
    place = {_stem(theirs.name(int(row))): i for i, row in enumerate(made.rows)}
    names = [_stem(source.name(int(row))) for row in cache.rows]
    missing = [name for name in names if name not in place]
    if missing:
        raise KakusanError(
            f"--control {folder}: {len(missing):,} of {len(names):,} pictures have no map of their name, first "
            f"{missing[0]!r}; put one beside each, as {Path(folder) / missing[0]}.png"
        )
    return Maps(made.pixels, np.array([place[name] for name in names], np.int64), fitted)


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name
