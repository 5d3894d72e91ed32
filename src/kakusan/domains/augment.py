"""Affine: geometric augmentation that does not leak, because the network is told what was done (EDM, appendix F)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kakusan.core.rng import Rng
from kakusan.part import KakusanError, Part

__all__ = ["Affine"]

_NAMES = ("x_flip", "y_flip", "rotate90", "shift", "scale", "rotate", "stretch", "slide", "brightness")


class Affine(Part):
    """Random flips, quarter turns, shifts, scales, rotations and stretches, as one resampling of each picture.

    Each operation acts with probability ``p`` times its own factor (0 = off, 1 = at rate p); ``x_flip`` and
    ``y_flip`` half of the time then. ``transparent``: RGBA as premultiplied colour and alpha, where nothing (-1)
    lies outside; other pictures continue in the colour of their border where that is one colour, else by
    reflection. The (B, 14) parameters returned are zero where nothing was done: feed them to the network as a
    condition, and zeros when sampling. Karras et al. 2022 (EDM), appendix F.2, table 6.
    """

    kind = "augment/affine"
    parameters = 14  # columns of the value, whatever is switched on

    def __init__(
        self,
        p: float = 0.12,
        x_flip: float = 1.0,
        y_flip: float = 0.0,
        rotate90: float = 0.0,
        shift: float = 1.0,
        scale: float = 1.0,
        rotate: float = 1.0,
        stretch: float = 1.0,
        slide: float = 1.0,
        brightness: float = 0.0,
        shift_max: float = 0.125,
        scale_std: float = 0.2,
        rotate_max: float = 1.0,
        stretch_std: float = 0.2,
        slide_std: float = 0.125,
        brightness_std: float = 0.2,
        transparent: bool = False,
    ) -> None:
        factors = (x_flip, y_flip, rotate90, shift, scale, rotate, stretch, slide, brightness)
        for name, value in zip(("p", *_NAMES), (p, *factors), strict=True):
            if not value >= 0:
                raise KakusanError(f"{name} is {value!r}; a rate is 0 or more")
        self.rates = torch.tensor([min(1.0, p * f) for f in factors], dtype=torch.float64)
        self.shift_max, self.scale_std, self.rotate_max = shift_max, scale_std, rotate_max
        self.stretch_std, self.slide_std, self.brightness_std = stretch_std, slide_std, brightness_std
        self.transparent = transparent

    def draw(self, rng: Rng, height: int, width: int, step: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """What happens to each sample: matrices (B, 2, 3), brightness (B,), and the parameters (B, 14) float32.

        The matrices (float64, CPU) go from output to input pixels about the centre.
        """
        u = rng.uniform("augment", step, count=9 + 12)
        on = (u[:, :9] < self.rates).double()
        v = u[:, 9:]
        x_flip, y_flip = on[:, 0] * (v[:, 0] < 0.5), on[:, 1] * (v[:, 1] < 0.5)
        turns = on[:, 2] * torch.floor(v[:, 2] * 4) * (math.pi / 2)
        shift = on[:, 3:4] * (2 * v[:, 3:5] - 1) * self.shift_max
        side = torch.tensor([width, height], dtype=torch.float64)
        shift = torch.round(shift * side) / side
        scale = on[:, 4] * _normal(v[:, 5]) * self.scale_std
        angle = on[:, 5] * (2 * v[:, 6] - 1) * math.pi * self.rotate_max
        stretch, axis = on[:, 6] * _normal(v[:, 7]) * self.stretch_std, v[:, 8] * math.pi
        slide = on[:, 7:8] * torch.stack([_normal(v[:, 9]), _normal(v[:, 10])], 1) * self.slide_std
        bright = on[:, 8] * _normal(v[:, 11]) * self.brightness_std
        inverse = _turn(-turns) @ _flip(x_flip, y_flip)
        inverse = inverse @ _diagonal(torch.exp2(-scale), torch.exp2(-scale))
        inverse = inverse @ _turn(-angle)
        inverse = inverse @ _turn(axis) @ _diagonal(torch.exp2(-stretch), torch.exp2(stretch)) @ _turn(-axis)
        offset = -(inverse @ ((shift + slide) * side)[..., None])
        columns = [x_flip, y_flip, turns.cos() - 1, turns.sin(), *shift.T, scale, angle.cos() - 1, angle.sin()]
        columns += [stretch * axis.cos(), stretch * axis.sin(), *slide.T, bright]
        value = torch.stack(columns, 1)
        value = torch.where(value.abs() < 1e-12, 0.0, value).float()
        return torch.cat([inverse, offset], 2), bright, value

    def apply(self, x0: Tensor, rng: Rng, step: int = 0) -> tuple[Tensor, Tensor]:
        """Augmented x0 (B, C, H, W), on its device in its memory format, and the parameters (B, 14) float32, CPU.

        Rows without a change are returned as they are, bit for bit.
        """
        height, width = x0.shape[2:]
        matrices, bright, value = self.draw(rng, height, width, step)
        rows = value.ne(0).any(1).nonzero()[:, 0]
        if not len(rows):
            return x0, value
        on = rows.to(x0.device, non_blocking=True)
        theta = _normalised(matrices[rows], height, width).to(x0.device, x0.dtype, non_blocking=True)
        moved = self._resampled(x0[on], theta)
        if bool(bright.ne(0).any()):
            moved = self._brightened(moved, bright[rows].to(x0.device, x0.dtype, non_blocking=True))
        return x0.index_copy(0, on, moved).contiguous(memory_format=_format(x0)), value

    def _resampled(self, x: Tensor, theta: Tensor) -> Tensor:
        lines = F.affine_grid(theta, list(x.shape), align_corners=False)
        if self.transparent:
            out = F.grid_sample(x + 1, lines, "bicubic", "zeros", align_corners=False).clamp(0, 2) - 1
            colour, alpha = out[:, :-1], out[:, -1:]
            return torch.cat([torch.minimum(colour, alpha), alpha], 1)
        border = torch.cat([x[:, :, 0], x[:, :, -1], x[:, :, :, 0], x[:, :, :, -1]], 2)
        low, high = border.amin(2), border.amax(2)
        plain = (high - low).amax(1) < 0.05
        fill = ((low + high) / 2)[:, :, None, None]
        filled = F.grid_sample(x - fill, lines, "bicubic", "zeros", align_corners=False) + fill
        mirrored = F.grid_sample(x, lines, "bicubic", "reflection", align_corners=False)
        return torch.where(plain[:, None, None, None], filled, mirrored).clamp(-1, 1)

    def _brightened(self, x: Tensor, by: Tensor) -> Tensor:
        by = by[:, None, None, None]
        if not self.transparent:
            return (x + by).clamp(-1, 1)
        colour, alpha = x[:, :-1], x[:, -1:]
        lit = torch.minimum((colour + by * (alpha + 1) / 2).clamp(min=-1), alpha)
        return torch.cat([lit, alpha], 1)


def _format(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _normal(u: Tensor) -> Tensor:
    """Standard normal from uniform on [0, 1)."""
    return torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12))


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([torch.stack([a, b], 1), torch.stack([c, d], 1)], 1)


def _turn(angle: Tensor) -> Tensor:
    cos, sin = torch.round(angle.cos(), decimals=15), torch.round(angle.sin(), decimals=15)
    return _matrix(cos, -sin, sin, cos)


def _diagonal(a: Tensor, b: Tensor) -> Tensor:
    return _matrix(a, torch.zeros_like(a), torch.zeros_like(a), b)


def _flip(x: Tensor, y: Tensor) -> Tensor:
    return _diagonal(1 - 2 * x, 1 - 2 * y)


def _normalised(matrices: Tensor, height: int, width: int) -> Tensor:
    """Pixel matrices about the centre as ``affine_grid`` wants them, both axes in [-1, 1]."""
    half = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    linear = matrices[:, :, :2] * half[None, None] / half[None, :, None]
    return torch.cat([linear, matrices[:, :, 2:] / half[None, :, None]], 2)
