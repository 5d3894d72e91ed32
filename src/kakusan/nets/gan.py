"""Generator and Discriminator: the residual networks of R3GAN (Huang et al. 2024), cut down to small pictures.

No normalisation: residual branches start at zero and their inner layers are scaled by the depth (Fixup; Zhang et al.
2019). Resampling is bilinear. As in this package's U-Net, pixels are folded into channels before the first layer, so
that both kinds of model spend their time where it counts on small machines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kakusan.nets.layers import fold, pad_to, unfold
from kakusan.part import KakusanError, Part

__all__ = ["Conv", "Discriminator", "Generator", "sides", "towards_input"]

SLOPE = 0.2  # of the leaky rectifier
GAIN = math.sqrt(2 / (1 + SLOPE**2))  # keeps the variance through it (He et al. 2015)
GROUP = 16  # channels of a group of the 3x3 convolutions
LEAST = 4  # pixels a side at the lowest resolution


_towards_input = False


@contextmanager
def towards_input() -> Iterator[None]:
    """Inside, the backward pass of a ``Conv`` leaves its weights out: for gradients with respect to pictures."""
    global _towards_input
    before, _towards_input = _towards_input, True
    try:
        yield
    finally:
        _towards_input = before


class _Convolve(torch.autograd.Function):
    """Convolution whose input gradient is a transposed convolution, to be differentiated again by its own fast kernel.

    The same numbers as the built-in one, whose second derivative takes the groups apart: a discriminator's step with
    penalties was 1.7 times as slow (measured, one AVX-512 core).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, groups: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.groups, ctx.biased = padding, groups, bias is not None
        return F.conv2d(x, weight, bias, padding=padding, groups=groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = F.conv_transpose2d(grad, weight, padding=ctx.padding, groups=ctx.groups)
        if ctx.needs_input_grad[1] and not _towards_input:
            sizes = [weight.shape[0]] if ctx.biased else None
            _, of_weight, of_bias = torch.ops.aten.convolution_backward(
                grad, x, weight, sizes, [1, 1], [ctx.padding] * 2, [1, 1], False, [0, 0], ctx.groups,
                [False, True, ctx.biased],
            )  # fmt: skip
        return of_x, of_weight, of_bias, None, None


class Conv(nn.Conv2d):
    """A convolution of odd kernel that keeps the size, quick to differentiate twice with respect to its input."""

    def __init__(self, inputs: int, outputs: int, kernel: int, groups: int = 1, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        padding = self.padding[0]
        assert isinstance(padding, int)
        return _Convolve.apply(x, self.weight, self.bias, padding, self.groups)


def sides(size: Sequence[int], unshuffle: int) -> list[tuple[int, int]]:
    """The resolutions of the stages, the lowest first: halved until no side is above ``LEAST``; odd ones round up."""
    height, width = (-(-int(n) // unshuffle) for n in size)
    found = [(height, width)]
    while max(found[0]) > LEAST:
        found.insert(0, (-(-found[0][0] // 2), -(-found[0][1] // 2)))
    return found


def _scaled(layer: nn.Module, gain: float) -> nn.Module:
    """Weights of deviation gain/sqrt(inputs of one output)."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        weight.normal_(0, gain / math.sqrt(weight[0].numel()))
    return layer


class _Block(nn.Module):
    """x + out(act(spread(act(widen x)))), act(y) = leaky(y + bias); ``out`` starts at zero."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        inner, gain = 2 * channels, GAIN * depth**-0.25  # three layers: depth^(-1/(2 * 3 - 2))
        self.widen = _scaled(Conv(channels, inner, 1), gain)
        self.spread = _scaled(Conv(inner, inner, 3, groups=inner // GROUP), gain)
        self.out = _scaled(Conv(inner, channels, 1, bias=False), 0.0)
        for layer in (self.widen, self.spread):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.widen(x), SLOPE)
        y = F.leaky_relu(self.spread(y), SLOPE)
        return x + self.out(y)


class Generator(Part, nn.Module):
    """Latents z (B, latent) and classes to pictures (B, channels, *size), about [-1, 1].

    ``widths``: channels of each stage, the lowest resolution first, one for each of ``sides(size, unshuffle)`` and all
    multiples of 8; ``blocks`` residual blocks a stage. ``classes``: how many, 0 = none; index ``classes`` = unknown.
    """

    kind = "gan/generator"

    def __init__(
        self,
        channels: int,
        size: list[int],
        widths: list[int] = [256, 128, 64],  # noqa: B006  (the signature is the schema)
        blocks: int = 2,
        latent: int = 64,
        unshuffle: int = 2,
        classes: int = 0,
    ) -> None:
        super().__init__()
        stages = _check(channels, size, widths, blocks, unshuffle, classes)
        self.channels, self.size, self.latent, self.classes = channels, (int(size[0]), int(size[1])), latent, classes
        self.stages, self.steps, cells = stages, [unshuffle] * 2, unshuffle**2
        self.embed = nn.Embedding(classes + 1, latent) if classes else None
        self.basis = nn.Parameter(torch.randn(widths[0], *stages[0]))
        given = latent * (2 if classes else 1)
        self.lift = _scaled(nn.Linear(given, widths[0], bias=False), 1.0)
        depth = blocks * len(widths)
        self.blocks = nn.ModuleList(nn.Sequential(*(_Block(width, depth) for _ in range(blocks))) for width in widths)
        self.thin = nn.ModuleList(_scaled(Conv(a, b, 1, bias=False), 1.0) for a, b in pairwise(widths))
        self.out = _scaled(Conv(widths[-1], channels * cells, 1, bias=False), 1.0)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """z (B, latent) standard normal, label (B,) indices or None = unknown; returns (B, channels, *size)."""
        if self.embed is not None:
            z = torch.cat([z, self.embed(_known(label, z.shape[0], self.classes, z.device))], 1)
        x = self.basis * self.lift(z)[:, :, None, None]
        x = self.blocks[0](x.contiguous(memory_format=torch.channels_last))
        for side, thin, blocks in zip(self.stages[1:], self.thin, self.blocks[1:]):
            x = blocks(F.interpolate(thin(x), size=side, mode="bilinear", align_corners=False))
        return unfold(self.out(x), self.steps)[:, :, : self.size[0], : self.size[1]]


class Discriminator(Part, nn.Module):
    """Pictures (B, channels, *size) and classes to scores (B,): the generator's mirror image.

    With classes, the score is the product of the features and the class's own vector (projection; Miyato & Koyama
    2018).
    """

    kind = "gan/discriminator"

    def __init__(
        self,
        channels: int,
        size: list[int],
        widths: list[int] = [256, 128, 64],  # noqa: B006
        blocks: int = 2,
        unshuffle: int = 2,
        classes: int = 0,
    ) -> None:
        super().__init__()
        stages = _check(channels, size, widths, blocks, unshuffle, classes)
        self.channels, self.classes, self.steps = channels, classes, [unshuffle] * 2
        depth = blocks * len(widths)
        rising = list(reversed(widths))
        self.stem = _scaled(Conv(channels * unshuffle**2, rising[0], 1, bias=False), 1.0)
        self.blocks = nn.ModuleList(nn.Sequential(*(_Block(width, depth) for _ in range(blocks))) for width in rising)
        self.widen = nn.ModuleList(_scaled(Conv(a, b, 1, bias=False), 1.0) for a, b in pairwise(rising))
        self.basis = nn.Parameter(torch.randn(widths[0], *stages[0]) / math.sqrt(math.prod(stages[0])))
        features = widths[0] if classes else 1
        self.head = _scaled(nn.Linear(widths[0], features, bias=False), 1.0)
        self.embed = nn.Embedding(classes + 1, features) if classes else None
        if self.embed is not None:
            nn.init.normal_(self.embed.weight, 0, features**-0.5)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, channels, *size), label (B,) indices or None = unknown; returns (B,)."""
        h = self.blocks[0](self.stem(fold(pad_to(x, self.steps), self.steps)))
        for widen, blocks in zip(self.widen, self.blocks[1:]):
            h = F.avg_pool2d(h, 2, ceil_mode=True, count_include_pad=False)  # halving by bilinear interpolation
            h = blocks(widen(h))
        h = self.head((h * self.basis).sum((2, 3)))
        if self.embed is None:
            return h[:, 0]
        return (h * self.embed(_known(label, x.shape[0], self.classes, x.device))).sum(1)


def _known(label: Tensor | None, batch: int, classes: int, device: torch.device) -> Tensor:
    """Class indices; where there are none, the index of the unknown class."""
    return torch.full((batch,), classes, device=device) if label is None else label


def _check(
    channels: int, size: Sequence[int], widths: Sequence[int], blocks: int, unshuffle: int, classes: int
) -> list[tuple[int, int]]:
    if len(size) != 2 or min(size) < 1 or unshuffle < 1 or channels < 1 or blocks < 1 or classes < 0:
        raise KakusanError(
            f"channels={channels}, size={list(size)}, blocks={blocks}, unshuffle={unshuffle}, classes={classes}: give "
            "[height, width] in pixels, and at least 1 of everything but classes"
        )
    stages = sides(size, unshuffle)
    if len(widths) != len(stages) or any(w < 8 or w % 8 for w in widths):
        raise KakusanError(
            f"widths={list(widths)}: {len(stages)} multiples of 8 are needed, one for each resolution "
            f"{', '.join(f'{h}x{w}' for h, w in stages)}"
        )
    return stages
