"""What may have happened to a picture, as linear operators: each maps x0 (B, C, H, W) to what was measured of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from kakusan.part import KakusanError

__all__ = ["Operator", "blurred", "grey", "pooled"]

Operator = Callable[[Tensor], Tensor]
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as pictures are turned grey everywhere else here


def pooled(factor: int) -> Operator:
    """Means of ``factor`` x ``factor`` pixels: (B, C, H, W) to (B, C, H/factor, W/factor)."""
    if factor < 1:
        raise KakusanError(f"factor={factor}: need a whole number of at least 1")
    return lambda x0: functional.avg_pool2d(x0, factor)


def blurred(spread: float) -> Operator:
    """A Gaussian blur of standard deviation ``spread`` in pixels, borders repeated."""
    if not spread > 0:
        raise KakusanError(f"spread={spread}: a blur needs a standard deviation > 0, in pixels")
    reach = max(1, round(3 * spread))
    kernel = torch.exp(-torch.arange(-reach, reach + 1, dtype=torch.float64).square() / (2 * spread**2))
    kernel = kernel / kernel.sum()

    def apply(x0: Tensor) -> Tensor:
        channels = x0.shape[1]
        taps = kernel.to(x0).repeat(channels, 1)
        wide = functional.pad(x0, (reach, reach, reach, reach), mode="replicate")
        wide = functional.conv2d(wide, taps[:, None, None], groups=channels)
        return functional.conv2d(wide, taps[:, None, :, None], groups=channels)

    return apply


def grey(x0: Tensor) -> Tensor:
    """The luminance of red, green and blue, ``0.299 R + 0.587 G + 0.114 B``: (B, >= 3, H, W) to (B, 1, H, W)."""
    return sum((w * x0[:, i : i + 1] for i, w in enumerate(_LUMA)), torch.zeros_like(x0[:, :1]))
