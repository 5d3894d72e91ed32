"""DCGenerator and DCDiscriminator: the classic convolutional GAN (Radford et al. 2016), as its paper has it.

Strided and transposed 4x4 convolutions, batch normalisation, ReLU and leaky ReLU, weights of deviation 0.02. Classes
enter as an embedding beside the latent and as a projection of the discriminator's features (the paper has none).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kakusan.part import KakusanError, Part

__all__ = ["DCDiscriminator", "DCGenerator", "levels_for", "start_side"]

SLOPE = 0.2
LEAST = 4  # pixels a side at the lowest resolution


def start_side(size: Sequence[int], levels: int) -> tuple[int, int]:
    """The lowest resolution, halved ``levels`` times and rounded up."""
    return -(-int(size[0]) // 2**levels), -(-int(size[1]) // 2**levels)


def levels_for(size: Sequence[int]) -> int:
    """Halvings until no side is above ``LEAST``: 3 for 28 and 32 pixels, 4 for 64."""
    levels = 1
    while max(start_side(size, levels)) > LEAST:
        levels += 1
    return levels


class DCGenerator(Part, nn.Module):
    """Latents z (B, latent) and classes to pictures (B, channels, *size) in [-1, 1].

    ``widths``: channels at each resolution but the last, the lowest first. ``classes``: how many, 0 = none; index
    ``classes`` = unknown.
    """

    kind = "gan/dc-generator"

    def __init__(
        self,
        channels: int,
        size: list[int],
        widths: list[int] = [128, 64],  # noqa: B006  (the signature is the schema)
        latent: int = 100,
        classes: int = 0,
    ) -> None:
        super().__init__()
        _check(channels, size, widths, classes)
        self.channels, self.size, self.latent, self.classes = channels, (int(size[0]), int(size[1])), latent, classes
        self.start = start_side(size, len(widths))
        self.embed = nn.Embedding(classes + 1, latent) if classes else None
        given = latent * (2 if classes else 1)
        self.lift = nn.ConvTranspose2d(given, widths[0], self.start, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        ways = [*pairwise(widths), (widths[-1], channels)]
        self.rise = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, bias=i == len(widths)) for i, (a, b) in enumerate(ways, 1)
        )
        _drawn(self)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """z (B, latent) standard normal, label (B,) indices or None = unknown; returns (B, channels, *size)."""
        if self.embed is not None:
            z = torch.cat([z, self.embed(_known(label, z.shape[0], self.classes, z.device))], 1)
        h = self.lift(z[:, :, None, None].contiguous(memory_format=torch.channels_last))
        for norm, rise in zip(self.norms, self.rise):
            h = rise(F.relu(norm(h)))
        top, left = ((have - want) // 2 for have, want in zip(h.shape[2:], self.size))
        return torch.tanh(h[:, :, top : top + self.size[0], left : left + self.size[1]])

    @torch.no_grad()
    def settle(self, batches: list[tuple[Tensor, Tensor | None]]) -> None:
        """Take the statistics of batch normalisation from these latents and classes: those of averaged weights."""
        was, usual = self.training, [norm.momentum for norm in self.norms]  # type: ignore[union-attr]
        self.train()
        for norm in self.norms:
            assert isinstance(norm, nn.BatchNorm2d)
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean
        for z, label in batches:
            self(z, label)
        for norm, momentum in zip(self.norms, usual):
            norm.momentum = momentum  # type: ignore[assignment]
        self.train(was)


class DCDiscriminator(Part, nn.Module):
    """Pictures (B, channels, *size) and classes to scores (B,); no normalisation in the first and last layer."""

    kind = "gan/dc-discriminator"

    def __init__(
        self,
        channels: int,
        size: list[int],
        widths: list[int] = [128, 64],  # noqa: B006
        classes: int = 0,
    ) -> None:
        super().__init__()
        _check(channels, size, widths, classes)
        self.channels, self.classes = channels, classes
        rising = list(reversed(widths))
        self.start, self.levels = start_side(size, len(widths)), len(widths)
        self.fall = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1, bias=i == 0)
            for i, (a, b) in enumerate(pairwise([channels, *rising]))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in rising[1:])
        self.head = nn.Conv2d(rising[-1], 1, self.start)
        self.embed = nn.Embedding(classes + 1, rising[-1]) if classes else None
        _drawn(self)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, channels, *size), label (B,) indices or None = unknown; returns (B,)."""
        extra = [s * 2**self.levels - n for s, n in zip(self.start, x.shape[2:])]
        if any(extra):  # as the generator cuts
            (top, bottom), (left, right) = ((e // 2, e - e // 2) for e in extra)
            x = F.pad(x, (left, right, top, bottom), value=-1.0)
        h = F.leaky_relu(self.fall[0](x), SLOPE)
        for fall, norm in zip(self.fall[1:], self.norms):
            h = F.leaky_relu(norm(fall(h)), SLOPE)
        score = self.head(h).flatten()
        if self.embed is None:
            return score
        return score + (h.mean((2, 3)) * self.embed(_known(label, x.shape[0], self.classes, x.device))).sum(1)


def _known(label: Tensor | None, batch: int, classes: int, device: torch.device) -> Tensor:
    """Class indices; where there are none, the index of the unknown class."""
    return torch.full((batch,), classes, device=device) if label is None else label


def _drawn(net: nn.Module) -> None:
    """Initial weights: N(0, 0.02), gains N(1, 0.02), embeddings of classes as they come."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _check(channels: int, size: Sequence[int], widths: Sequence[int], classes: int) -> None:
    if len(size) != 2 or min(size) < 1 or channels < 1 or classes < 0 or not widths or min(widths) < 1:
        raise KakusanError(
            f"channels={channels}, size={list(size)}, widths={list(widths)}, classes={classes}: give [height, width] "
            "in pixels, at least one width, and at least 1 of everything but classes"
        )
