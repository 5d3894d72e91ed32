"""Layout: where on a picture a model of another size works, at which scale, and back onto the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kakusan.core.windows import places
from kakusan.part import KakusanError

__all__ = ["Layout", "lay_out"]

Size = tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """A picture of ``size``, seen by the model at ``work``, of which it paints the ``region`` (top, left, H, W)."""

    size: Size
    work: Size
    region: tuple[int, int, int, int]
    model: Size

    @property
    def cut(self) -> tuple[slice, slice]:
        """The region's rows and columns."""
        top, left, height, width = self.region
        return slice(top, top + height), slice(left, left + width)

    @property
    def windows(self) -> int:
        """How many windows of half overlap cover the region."""
        sides = zip(self.region[2:], self.model, strict=True)
        return int(np.prod([len(places(total, side, max(1, side // 2))) for total, side in sides]))

    def padded(self, x: Tensor, fill: float) -> Tensor:
        """x (..., work) with ``fill`` below and to the right, up to the model's size."""
        missing = [max(0, m - w) for m, w in zip(self.model, self.work, strict=True)]
        return functional.pad(x, (0, missing[1], 0, missing[0]), value=fill)

    def shrunk(self, mask: np.ndarray) -> Tensor:
        """A mask of the picture's size at the region, (1, h, w): 1 beyond the picture's own borders."""
        m = torch.from_numpy(mask)[None, None]
        if self.work != self.size:
            m = functional.interpolate(m, self.work, mode="bilinear", antialias=True).clamp(0, 1)
        return self.padded(m, 1.0)[0][(..., *self.cut)]

    def placed(self, seen: Tensor, x: Tensor) -> Tensor:
        """The picture as seen (C, work) with x (C, region), or more below and to the right, in its place, at the
        picture's own size."""
        whole = self.padded(seen, 0.0).clone()
        whole[(..., *self.cut)] = x[:, : self.region[2], : self.region[3]]
        whole = whole[:, : self.work[0], : self.work[1]]
        if self.work == self.size:
            return whole
        return functional.interpolate(whole[None], self.size, mode="bicubic", antialias=True)[0]


def lay_out(
    size: Size, model: Size, tile: bool, resize: bool, mask: np.ndarray | None = None, basis: Size | None = None
) -> Layout:
    """How a model of size ``model`` works on a picture of ``size``: at its own scale (``tile``), or scaled until it
    just covers the model (``resize``); on the whole picture, or around what is white in ``mask`` (H, W).

    ``basis`` is the size that decides the scale, where a picture has been extended.
    """
    basis = basis or size
    if basis != model and not tile and not resize:
        theirs, ours = (f"{s[1]} x {s[0]}" for s in (basis, model))
        raise KakusanError(
            f"the picture is {theirs} pixels, the model paints {ours}: add --tile (at the picture's own scale, in a "
            "window of the model's size or several) or --resize (the picture scaled for the model, the result back)"
        )
    scale = max(m / b for m, b in zip(model, basis, strict=True)) if resize else 1.0
    work = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    spans = []
    for axis in (0, 1):
        total = max(work[axis], model[axis])
        low, high = 0, total
        if mask is not None and (used := np.flatnonzero(mask.max(1 - axis) > 0)).size:
            low, high = int(used[0] * scale), min(total, int(np.ceil((used[-1] + 1) * scale)))
        spans.append(_span(low, high, model[axis], total))
    (top, height), (left, width) = spans
    return Layout(size, work, (top, left, height, width), model)


def _span(low: int, high: int, side: int, total: int) -> tuple[int, int]:
    """Begin and length of what is painted for [low, high): one window where an eighth of it is left on both sides, else
    as much as is needed with a quarter on both sides."""
    length = side if high - low + 2 * (side // 8) <= side else min(total, max(side, high - low + 2 * (side // 4)))
    return min(max(0, round((low + high - length) / 2)), total - length), length
