"""ConvAutoencoder: a KL-regularised convolutional autoencoder, small and quick on a CPU in channels-last.

Pixels are folded 2 x 2 before the first convolution and unfolded after the last, so that nothing runs at full
resolution. There is no normalisation: it would take a picture's level and contrast out of what is kept of it (flat
colours come back flat), and residual branches that begin at zero train without it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kakusan.core.autoencoder import Autoencoder
from kakusan.nets.layers import fold, matrices, unfold, zero
from kakusan.part import KakusanError

__all__ = ["ConvAutoencoder"]

LOGVAR = (-12.0, 4.0)  # bounds of the log-variance
BEGIN = -5.0  # where it begins: little noise, so that shapes are learnt first


class ConvAutoencoder(Autoencoder):
    """Encoder (B, channels, H, W) -> mean and log-variance (B, latent, H/factor, W/factor), and decoder back.

    ``factor``: 2, 4, 8 or 16. ``width``: channels at half the resolution; they double at each halving, to at most four
    times that. ``blocks``: residual blocks of the encoder at each resolution; the decoder, which has to draw, has
    ``extra`` more. H and W are multiples of ``factor``.
    """

    kind = "net/autoencoder"

    def __init__(
        self, channels: int = 3, latent: int = 8, factor: int = 4, width: int = 48, blocks: int = 1, extra: int = 1
    ) -> None:
        super().__init__()
        if factor not in (2, 4, 8, 16):
            raise KakusanError(f"factor={factor}: an autoencoder folds by 2, 4, 8 or 16 (4 is usual)")
        if not 1 <= latent <= 64:
            raise KakusanError(f"latent={latent}: give 1 to 64 channels (4 to 16 are usual)")
        if min(channels, width) < 1 or min(blocks, extra) < 0:
            raise KakusanError(
                f"channels={channels}, width={width}, blocks={blocks}, extra={extra}: channels and width are at least 1"
            )
        self.channels, self.latent, self.factor = channels, latent, factor
        widths = [width * min(2**i, 4) for i in range(int(math.log2(factor)))]
        self.enter = nn.Conv2d(4 * channels, widths[0], 3, padding=1)
        down: list[nn.Module] = []
        for i, w in enumerate(widths):
            down += [nn.Conv2d(widths[i - 1], w, 3, stride=2, padding=1)] if i else []
            down += [_Block(w) for _ in range(blocks)]
        self.down = nn.Sequential(*down)
        self.moments = nn.Conv2d(widths[-1], 2 * latent, 1)
        nn.init.constant_(self.moments.bias[latent:], BEGIN)  # type: ignore[index]
        self.leave = nn.Conv2d(latent, widths[-1], 3, padding=1)
        up: list[nn.Module] = []
        for i, w in reversed(list(enumerate(widths))):
            up += [_Block(w) for _ in range(blocks + extra)]
            up += [_Double(w, widths[i - 1])] if i else []
        self.up = nn.Sequential(*up)
        self.paint = nn.Conv2d(widths[0], 4 * channels, 3, padding=1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) in [-1, 1] to the mean and log-variance of z."""
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise KakusanError(f"x has shape {tuple(x.shape)}: this autoencoder takes (batch, {self.channels}, H, W)")
        if any(n % self.factor or not n for n in x.shape[2:]):
            raise KakusanError(f"x has shape {tuple(x.shape)}: its sides have to be multiples of {self.factor}")
        h = self.down(self.enter(_last(fold(x, (2, 2)))))
        mean, logvar = self.moments(F.silu(h)).chunk(2, 1)
        return mean, logvar.clamp(*LOGVAR)

    def decode(self, z: Tensor) -> Tensor:
        """z (B, latent, h, w) to x (B, C, h factor, w factor)."""
        if z.ndim != 4 or z.shape[1] != self.latent:
            raise KakusanError(f"z has shape {tuple(z.shape)}: this autoencoder decodes (batch, {self.latent}, h, w)")
        return unfold(self.paint(F.silu(self.up(self.leave(_last(z))))), (2, 2))

    def hidden(self) -> set[str]:
        """The matrices between first and last layers of each side: Muon's."""
        return matrices(self, ("enter", "moments", "leave", "paint"))


class _Block(nn.Module):
    """x + conv(silu(conv(silu(x)))), which begins as x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = zero(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.second(F.silu(self.first(F.silu(x))))
        return x + h


class _Double(nn.Module):
    """Twice the sides: every position makes four, by a 1x1 convolution (Shi et al. 2016)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(width, 4 * out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return unfold(self.spread(x), (2, 2))


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
