"""Windows: a denoiser of one size at work on something larger, by overlapping windows that agree at every step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kakusan.core.guide import Denoise
from kakusan.part import KakusanError

__all__ = ["places", "windows"]


def places(total: int, size: int, stride: int) -> list[int]:
    """Where windows of ``size`` begin so that they cover ``total`` evenly, at most ``stride`` apart."""
    if size > total:
        raise KakusanError(f"a window of {size} does not fit into {total}")
    count = 1 + -(-(total - size) // stride)
    return [round(i * (total - size) / max(count - 1, 1)) for i in range(count)]


def windows(
    f: Denoise,
    size: tuple[int, int],
    overlap: float = 0.5,
    at: Callable[[tuple[slice, slice]], Denoise] | None = None,
) -> Denoise:
    """f for x (B, C, H, W) at least as large as ``size``: the mean of its estimates of x0 in overlapping windows
    (MultiDiffusion; Bar-Tal et al. 2023, eq. 5), each weighing less towards its border. Differentiable.

    ``at``: the denoiser of a window's rows and columns, where conditions lie on the picture; else f in all of them.
    """
    if not 0 <= overlap < 1:
        raise KakusanError(f"overlap={overlap}: need a share of the window, 0 to below 1 (0.5 is usual)")
    height, width = size
    strides = [max(1, round(side * (1 - overlap))) for side in size]
    tent = [torch.arange(1, side + 1).minimum(torch.arange(side, 0, -1)) for side in size]
    weight = (tent[0][:, None] * tent[1]).float() / (tent[0].max() * tent[1].max())

    made: dict[tuple[int, int], Denoise] = {}

    def inside(top: int, left: int) -> Denoise:
        if at is None:
            return f
        if (top, left) not in made:
            made[top, left] = at((slice(top, top + height), slice(left, left + width)))
        return made[top, left]

    def denoise(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        if tuple(x.shape[2:]) == size:
            return f(x, t, s)
        share = weight.to(x)
        total, cover = torch.zeros_like(x), torch.zeros_like(x[:1, :1])
        for top in places(x.shape[2], height, strides[0]):
            for left in places(x.shape[3], width, strides[1]):
                where = (..., slice(top, top + height), slice(left, left + width))
                piece = torch.zeros_like(x)
                piece[where] = inside(top, left)(x[where].contiguous(), t, s) * share
                total = total + piece
                cover[where] += share
        return total / cover

    return denoise
