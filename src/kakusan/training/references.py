"""References: for each picture another one that is alike in one way (its style), drawn anew at every step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from kakusan.core.rng import Rng
from kakusan.domains.image import Image

__all__ = ["STYLE", "References"]

STYLE = "style_image"  # the condition that references are inputs of


@dataclass(frozen=True)
class References:
    """The pictures of a view by group: each has for a reference any other of its own group in the same view.

    A picture without a group, or alone in it, has none.
    """

    pixels: np.ndarray  # (N, H, W, C), memory-mapped
    rows: np.ndarray  # (n,) int64: of ``pixels``
    groups: np.ndarray  # (n,) int32, -1 = none
    domain: Image

    def subset(self, at: np.ndarray) -> References:
        return replace(self, rows=self.rows[at], groups=self.groups[at])

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The view's rows by group, each row's place in that order, and where its group begins and how large it is."""
        order = np.argsort(self.groups, kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        _, group, count = np.unique(self.groups, return_inverse=True, return_counts=True)
        return order, place, (np.cumsum(count) - count)[group], np.where(self.groups < 0, 0, count[group])

    @property
    def alone(self) -> int:
        """How many pictures have no reference."""
        return int((self._sorted[3] < 2).sum())

    def drawn(self, at: np.ndarray, rng: Rng) -> np.ndarray:
        """A reference of each of some rows, as rows of the view, (b,) int64; -1 where there is none."""
        order, place, begin, count = (values[at] if i else values for i, values in enumerate(self._sorted))
        others = np.maximum(count - 1, 1)
        which = np.minimum((rng.uniform("style image")[:, 0].numpy() * others).astype(np.int64), others - 1)
        which += which >= place - begin  # of the others: the row itself is passed over
        return np.where(count > 1, order[np.minimum(begin + which, len(order) - 1)], -1)

    def inputs(self, at: np.ndarray, rng: Rng) -> dict[str, Tensor]:
        """Those of some rows as ``condition/picture`` takes them, by the draws of their step."""
        found = self.drawn(at, rng)
        x = self.domain.floats(np.asarray(self.pixels[self.rows[np.maximum(found, 0)]]))
        return {"picture": x, "given": torch.from_numpy(found >= 0)}
