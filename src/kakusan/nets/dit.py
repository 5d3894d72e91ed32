"""DiT: a transformer on patches, with adaLN-zero blocks, for signals, pictures and volumes of any size.

After Peebles & Xie 2022 (arXiv 2212.09748). Positions are sines and cosines of patch coordinates counted from the
centre, computed for the size at hand, so that a trained network runs at other sizes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kakusan.core.batch import Cond
from kakusan.core.denoiser import Net
from kakusan.nets.layers import (
    Attention,
    Dense,
    check_ports,
    crop,
    embedded,
    fold,
    matrices,
    pad_to,
    unfold,
    with_null,
    zero,
)
from kakusan.part import KakusanError

__all__ = ["DiT"]

_OUTER = ("stem", "field_stem", "embed.0", "vector_in", "null", "out")  # no hidden matrices: AdamW's


def positions(sizes: tuple[int, ...], width: int, like: Tensor) -> Tensor:
    """Sines and cosines of each cell's coordinates, counted from the centre: (1, prod(sizes), width).

    An axis gets width / len(sizes) features, wavelengths from 2 pi to 2 pi 10^4 patches; what is left over stays zero.
    """
    count = width // (2 * len(sizes))
    octaves = torch.arange(count, device=like.device, dtype=torch.float32) / count
    rates = torch.exp(-math.log(1e4) * octaves)
    features = []
    for axis, size in enumerate(sizes):
        place = torch.arange(size, device=like.device, dtype=torch.float32) - (size - 1) / 2
        angle = place[:, None] * rates
        shape = [1] * axis + [size] + [1] * (len(sizes) - axis - 1) + [2 * count]
        features.append(torch.cat([angle.sin(), angle.cos()], 1).reshape(shape).expand(*sizes, 2 * count))
    joint = torch.cat(features, -1).reshape(1, -1, 2 * count * len(sizes))
    return F.pad(joint, (0, width - joint.shape[2])).to(like.dtype)


class _Block(nn.Module):
    """adaLN-zero: h + gate f(norm(h) (1 + scale) + shift), f = attention, then feed-forward; gates start at zero."""

    def __init__(self, width: int, heads: int, tokens: int, dropout: float) -> None:
        super().__init__()
        self.width, self.dropout = width, dropout
        self.modulate = zero(Dense(width, 6 * width))
        self.attention = Attention(width, heads)
        nn.init.xavier_uniform_(self.attention.out.weight)  # the gate is zero already
        self.cross_norm = nn.LayerNorm(width) if tokens else None
        self.cross_attention = Attention(width, heads, tokens) if tokens else None
        self.wide = Dense(width, 4 * width)
        self.narrow = Dense(4 * width, width)

    def _norm(self, h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return F.layer_norm(h, (self.width,), eps=1e-6) * (scale + 1) + shift

    def forward(
        self, h: Tensor, e: Tensor, mask: Tensor | None, tokens: Tensor | None, tokens_mask: Tensor | None
    ) -> Tensor:
        """h (B, N, width); e (B, 1, width), the embedded noise level and vector, after SiLU."""
        scale0, shift0, gate0, scale1, shift1, gate1 = self.modulate(e).chunk(6, 2)
        h = h + gate0 * self.attention(self._norm(h, scale0, shift0), mask)
        if self.cross_attention is not None and self.cross_norm is not None:
            h = h + self.cross_attention(self.cross_norm(h), tokens_mask, tokens)
        wide = F.gelu(self.wide(self._norm(h, scale1, shift1)), approximate="tanh")
        if self.dropout:
            wide = F.dropout(wide, self.dropout, self.training)
        return h + gate1 * self.narrow(wide)


class DiT(Net):
    """A diffusion transformer F(x, lam, cond) for x (B, C, *S) with ``dims`` spatial sizes of any value.

    Patches of ``patch`` along every axis become tokens of ``width``; ``depth`` blocks of ``heads`` attention heads.
    ``vector``, ``tokens`` and ``field`` are the widths of the condition's ports, 0 = unused. The output layer starts at
    zero, and so does all that a condition enters through. With a mask, patches without any valid position are not
    attended to, and the result is zero at positions that are not valid.
    """

    kind = "net/dit"

    def __init__(
        self,
        channels: int,
        dims: int = 2,
        patch: int = 4,
        width: int = 256,
        depth: int = 8,
        heads: int = 4,
        vector: int = 0,
        tokens: int = 0,
        field: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if dims not in (1, 2, 3):
            raise KakusanError(f"dims={dims}: a DiT takes 1 (signals), 2 (pictures) or 3 (volumes)")
        if channels < 1:
            raise KakusanError(f"channels={channels}: at least one is needed")
        if patch < 1 or depth < 1 or width < 2 * dims:
            raise KakusanError(f"patch={patch}, depth={depth}, width={width}: at least 1, 1 and {2 * dims} are needed")
        if heads < 1 or width % heads:
            raise KakusanError(f"heads={heads} does not divide width={width}: choose a divisor")
        self.channels, self.dims, self.width = channels, dims, width
        self.ports = {"vector": vector, "tokens": tokens, "field": field}
        self.steps = [patch] * dims
        cells = patch**dims
        self.stem = Dense(channels * cells, width)
        self.field_stem = zero(Dense(field * cells, width)) if field else None
        self.embed = nn.ModuleList([nn.Linear(64, width), nn.Linear(width, width), nn.Linear(width, width)])
        self.vector_in = zero(nn.Linear(vector, width, bias=False)) if vector else None
        self.null = nn.Parameter(torch.randn(1, 1, tokens)) if tokens else None  # a token that is always there
        self.blocks = nn.ModuleList(_Block(width, heads, tokens, dropout) for _ in range(depth))
        self.modulate = zero(Dense(width, 2 * width))
        self.out = zero(Dense(width, channels * cells))

    def hidden(self) -> set[str]:
        """Names of the hidden matrices: what Muon trains; the rest is AdamW's."""
        return matrices(self, _OUTER)

    def taps(self) -> list[nn.Module]:
        """Every second block, the last among them."""
        return list(self.blocks)[::-1][::2][::-1]

    def forward(self, x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
        """x (B, C, *S), lam (B,) in [-10, 10]; returns (B, C, *S), of x's dtype."""
        check_ports(x, cond, self.channels, self.dims, self.ports)
        valid = None if cond.mask is None else cond.mask.unsqueeze(1)
        patches = self._patches(x if valid is None else x * valid)
        sizes = patches.shape[2:]
        h = self.stem(patches.flatten(2).transpose(1, 2))
        h = h + positions(sizes, self.width, h)
        if self.field_stem is not None and cond.field is not None:
            field = self._patches(cond.field if valid is None else cond.field * valid)
            h = h + self.field_stem(field.flatten(2).transpose(1, 2))
        keys = None if valid is None else self._patches(valid).any(1).flatten(1)
        e = embedded(self.embed, self.vector_in, lam, cond.vector)[:, None]
        tokens, tokens_mask = with_null(self.null, cond, x.shape[0])
        for block in self.blocks:
            h = block(h, e, keys, tokens, tokens_mask)
        scale, shift = self.modulate(e).chunk(2, 2)
        h = self.out(F.layer_norm(h, (self.width,), eps=1e-6) * (scale + 1) + shift)
        out = unfold(h.transpose(1, 2).reshape(x.shape[0], -1, *sizes), self.steps)
        out = crop(out, x.shape[2:])
        return (out if valid is None else out * valid).to(x.dtype)

    def _patches(self, x: Tensor) -> Tensor:
        return fold(pad_to(x, self.steps), self.steps)
