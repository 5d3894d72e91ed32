"""What conditions draw on pictures: holes of many shapes, and the edges of what is there."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kakusan.core.rng import Rng

__all__ = ["edges", "holes"]

BOXES, JOINTS = 3, 6  # at most, of one hole
SHARES = (0.35, 0.7, 0.9, 0.97)  # up to which u is boxes, strokes, halves, everything; nothing above


def holes(rng: Rng, height: int, width: int) -> Tensor:
    """A hole for each sample, (B, 1, H, W) of 0 and 1 (inside): boxes 35%, strokes 35%, halves 20%, everything 7%,
    nothing 3%. Sizes are shares of the picture's."""
    u = rng.uniform("hole", count=2 + 5 * BOXES + 3 * JOINTS).float()
    kind, rest = u[:, 0], u[:, 1:]
    y = ((torch.arange(height) + 0.5) / height)[None, :, None]
    x = ((torch.arange(width) + 0.5) / width)[None, None, :]
    boxes = _boxes(rest[:, 1 : 1 + 5 * BOXES].reshape(len(u), BOXES, 5), y, x)
    strokes = _strokes(rest[:, 1 + 5 * BOXES :].reshape(len(u), JOINTS, 3), y, x)
    side = (rest[:, 0] * 4).floor()[:, None, None]
    along = torch.where(side < 2, y, x)
    halves = torch.where(side % 2 == 0, along < 0.5, along >= 0.5)
    k = kind[:, None, None]
    hole = torch.where(k < SHARES[0], boxes, torch.where(k < SHARES[1], strokes, halves))
    hole = torch.where(k < SHARES[2], hole, k < SHARES[3])
    return hole[:, None].float()


def _boxes(u: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """One to three boxes, sides of 10% to 70%; u (B, BOXES, 5)."""
    out = torch.zeros(len(u), y.shape[1], x.shape[2], dtype=torch.bool)
    for i in range(BOXES):
        top, left, tall, wide, there = (v[:, None, None] for v in u[:, i].unbind(1))
        tall, wide = 0.1 + 0.6 * tall, 0.1 + 0.6 * wide
        top, left = top * (1 - tall), left * (1 - wide)
        inside = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
        out |= inside if i == 0 else inside & (there < 0.5)
    return out


def _strokes(u: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """A line through JOINTS points, of 4% to 16% of the picture's width; u (B, JOINTS, 3)."""
    points, half = u[..., :2], (0.02 + 0.06 * u[:, 0, 2])[:, None, None]
    out = torch.zeros(len(u), y.shape[1], x.shape[2], dtype=torch.bool)
    for i in range(JOINTS - 1):
        y0, x0 = (v[:, None, None] for v in points[:, i].unbind(1))
        y1, x1 = (v[:, None, None] for v in points[:, i + 1].unbind(1))
        dy, dx = y1 - y0, x1 - x0
        at = (((y - y0) * dy + (x - x0) * dx) / (dy.square() + dx.square()).clamp(min=1e-9)).clamp(0, 1)
        out |= (y - y0 - at * dy).square() + (x - x0 - at * dx).square() < half.square()
    return out


def edges(x: Tensor) -> Tensor:
    """How sharply pictures change, (B, C, H, W) in [-1, 1] to (B, 1, H, W): -1 nowhere, 1 as from black to white.

    The largest slope among the channels by Sobel's kernels, borders repeated; half a step is as good as a whole one.
    """
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=x.device, dtype=x.dtype) / 8
    taps = torch.stack([kernel, kernel.T])[:, None]
    flat = F.pad(x, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    slope = F.conv2d(flat, taps).square().sum(1).sqrt()
    return 2 * (2 * slope.reshape(x.shape).amax(1, keepdim=True)).clamp(max=1) - 1
