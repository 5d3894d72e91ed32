"""UNet: a residual convolutional network with skips, for signals, pictures and volumes of any size.

After Ronneberger et al. 2015, Ho et al. 2020 and Karras et al. 2022 (arXiv 2206.00364, appendix F.2), cut down to what
pays on small machines: pixels are folded into channels before the first convolution, a level's odd sizes are padded by
one rather than the whole input to a power of two, and everything stays channels-last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kakusan.core.batch import Cond
from kakusan.core.denoiser import Net
from kakusan.nets.layers import (
    Attention,
    GroupNorm,
    PixelNorm,
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

__all__ = ["UNet"]

NORMS: dict[str, type[GroupNorm | PixelNorm]] = {"group": GroupNorm, "pixel": PixelNorm}
_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
_OUTER = (
    "stem",
    "field_stem",
    "field_bypass",
    "field_gain",
    "embed.0",
    "vector_in",
    "null",
    "bypass",
    "out",
)  # no hidden matrices: AdamW's


class _Conv:
    """How this network's convolutions and norms are made: 1-D signals are pictures of height 1, which have the fast
    kernels."""

    def __init__(self, dims: int, padding: str, norm: str) -> None:
        self.make = nn.Conv3d if dims == 3 else nn.Conv2d
        self.flat = (1,) if dims == 1 else ()  # the height of a 1-D signal
        self.axes = dims
        self.padding = padding
        self.norm = NORMS[norm]

    def __call__(self, cin: int, cout: int, size: int) -> nn.Module:
        kernel = (*(1 for _ in self.flat), *[size] * self.axes)
        pad = tuple(k // 2 for k in kernel)
        return self.make(cin, cout, kernel, padding=pad, padding_mode=self.padding)

    def halve(self, cin: int, cout: int) -> nn.Module:
        kernel = (*(1 for _ in self.flat), *[2] * self.axes)
        return self.make(cin, cout, kernel, stride=kernel)


class _Block(nn.Module):
    """x + conv(silu(norm(conv(silu(norm x))) scale + shift)), or with one activation
    x + conv(silu(conv(norm x) scale + shift)); the second convolution starts at zero. ``kernels``: their sizes."""

    def __init__(self, conv: _Conv, size: int, dropout: float, activations: int, kernels: Sequence[int]) -> None:
        super().__init__()
        self.norm0 = conv.norm(size)
        self.conv0 = conv(size, size, kernels[0])
        self.norm1 = conv.norm(size, affine=False) if activations == 2 else None
        self.dropout = dropout
        self.conv1 = zero(conv(size, size, kernels[1]))

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor, mask: Tensor | None) -> Tensor:
        h = self.norm0(x, mask)
        h = h if self.norm1 is None else F.silu(h)
        h = self.conv0(h if mask is None else h * mask)
        h = h if self.norm1 is None else self.norm1(h, mask)
        h = F.silu(torch.addcmul(shift, h, scale))
        if self.dropout:
            h = F.dropout(h, self.dropout, self.training)
        return x + self.conv1(h if mask is None else h * mask)


class _Attend(nn.Module):
    """Self-attention over all positions of a level, then cross-attention to the tokens where the network has them."""

    def __init__(self, channels: int, heads: int, tokens: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels)
        self.self_attention = Attention(channels, heads)
        self.cross_norm = GroupNorm(channels) if tokens else None
        self.cross_attention = Attention(channels, heads, tokens) if tokens else None

    def forward(self, x: Tensor, mask: Tensor | None, tokens: Tensor | None, tokens_mask: Tensor | None) -> Tensor:
        keys = None if mask is None else mask.flatten(1) > 0
        h = self.self_attention(self.norm(x, mask).flatten(2).transpose(1, 2), keys)
        x = x + h.transpose(1, 2).reshape(x.shape)
        if self.cross_attention is None or self.cross_norm is None:
            return x
        h = self.cross_attention(self.cross_norm(x, mask).flatten(2).transpose(1, 2), tokens_mask, tokens)
        return x + h.transpose(1, 2).reshape(x.shape)


class _Level(nn.Module):
    """One resolution: its blocks on the way down and up, its attention, and the steps to and from the level below."""

    def __init__(
        self,
        conv: _Conv,
        size: int,
        below: int,
        blocks: int,
        heads: int,
        tokens: int,
        block: Callable[[], _Block],
    ) -> None:
        super().__init__()
        self.down = nn.ModuleList(block() for _ in range(blocks))
        self.up = nn.ModuleList(block() for _ in range(blocks))
        self.down_attend = _Attend(size, heads, tokens) if heads else None
        self.up_attend = _Attend(size, heads, tokens) if heads and below else None
        self.halve = conv.halve(size, below) if below else None
        self.widen = conv(below, size, 1) if below else None
        self.merge = conv(2 * size, size, 1) if below else None


class UNet(Net):
    """A U-Net F(x, lam, cond) for x (B, C, *S) with ``dims`` spatial sizes of any value.

    ``width`` times ``mults[i]`` channels at level i, each level half the size of the one before; ``blocks`` residual
    blocks a level on each way; attention at the levels listed in ``attention`` (indices into ``mults``), to the tokens
    too where ``tokens`` is set. ``unshuffle`` folds that many pixels along each axis into channels first. ``vector``,
    ``tokens`` and ``field`` are the widths of the condition's ports, 0 = unused. ``padding`` is "zeros", or "circular"
    for seamless tiles (sizes that are multiples of unshuffle 2^(levels - 1) then tile exactly). ``norm`` is "group", or
    "pixel": without attention, what is learnt from pieces of pictures then holds for whole ones, borders aside.
    ``activations``: 2 = a norm and a SiLU before each of a block's two convolutions (Ho et al. 2020); 1 = the norm
    before the first and the SiLU before the second alone, as in a transformer's feed-forward layers: faster, and no
    worse where it was measured (docs/explanation/planning.md). ``kernels``: the sizes of those two convolutions; with
    [3, 1] the second mixes the channels of each place alone: little more than half of the arithmetic, faster to train
    and to draw from, and after as many minutes about as good (there too).

    The output layer starts at zero, and so does all that a condition enters through, so that adding one to a trained
    network changes nothing at first. With a mask whose valid part begins at index 0, the result there is what that part
    alone would give.
    """

    kind = "net/unet"

    def __init__(
        self,
        channels: int,
        dims: int = 2,
        width: int = 64,
        mults: list[int] = [1, 2, 2],  # noqa: B006  (the signature is the schema)
        blocks: int = 2,
        attention: list[int] = [2],  # noqa: B006
        heads: int = 4,
        unshuffle: int = 1,
        vector: int = 0,
        tokens: int = 0,
        field: int = 0,
        dropout: float = 0.0,
        padding: str = "zeros",
        norm: str = "group",
        activations: int = 2,
        kernels: list[int] = [3, 3],  # noqa: B006
    ) -> None:
        super().__init__()
        _check(channels, dims, width, mults, blocks, attention, heads, unshuffle, padding, norm, activations, kernels)
        self.channels, self.dims, self.padding = channels, dims, padding
        self.ports = {"vector": vector, "tokens": tokens, "field": field}
        lift = [1] if dims == 1 else []
        self.steps = [*lift, *[unshuffle] * dims]
        self.halves = [*lift, *[2] * dims]
        self.multiple = unshuffle * 2 ** (len(mults) - 1)  # sizes that are multiples need no padding at any level
        conv, cells = _Conv(dims, padding, norm), unshuffle**dims
        sizes = [width * m for m in mults]

        self.stem = conv(channels * cells, width * mults[0], 3)
        self.field_stem = zero(conv(field * cells, width * mults[0], 3)) if field else None
        emb = 2 * width
        self.embed = nn.ModuleList([nn.Linear(64, emb), nn.Linear(emb, emb), nn.Linear(emb, emb)])
        self.vector_in = zero(nn.Linear(vector, emb, bias=False)) if vector else None
        self.null = nn.Parameter(torch.randn(1, 1, tokens)) if tokens else None  # a token that is always there
        self.levels = nn.ModuleList()
        for i, (size, below) in enumerate(zip(sizes, [*sizes[1:], 0])):
            block = partial(_Block, conv, size, dropout, activations, kernels)
            self.levels.append(_Level(conv, size, below, blocks, heads if i in attention else 0, tokens, block))
        self.norm = conv.norm(sizes[0])
        self.out = zero(conv(sizes[0], channels * cells, 3))
        self.bypass = zero(conv(channels * cells, channels * cells, 1))  # a full-rank way for x, whatever the width
        self.field_bypass = zero(conv(field * cells, channels * cells, 1)) if field else None  # and for the field
        self.field_gain = zero(nn.Linear(emb, channels * cells)) if field else None  # by noise level, 1 at first
        way = [size for size in sizes for _ in range(2 * blocks)]
        self.splits = [*way, *reversed(way), channels * cells]
        self.modulate = zero(nn.Linear(emb, sum(self.splits)))  # every block's scale and shift in one product
        with torch.no_grad():
            for scale in self.modulate.bias.split(self.splits)[::2]:
                scale.fill_(1)  # scales and the bypass's gain start at one, shifts at zero
        self.to(memory_format=_LAST[3 if dims == 3 else 2])

    def hidden(self) -> set[str]:
        """Names of the hidden matrices and kernels: what Muon trains; the rest is AdamW's."""
        return matrices(self, _OUTER)

    def taps(self) -> list[nn.Module]:
        """The last block of every level, on the way down and on the way up."""
        levels = list(self.levels)
        return [level.down[-1] for level in levels] + [level.up[-1] for level in reversed(levels)]

    def forward(self, x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
        """x (B, C, *S), lam (B,) in [-10, 10]; returns (B, C, *S), of x's dtype."""
        check_ports(x, cond, self.channels, self.dims, self.ports)
        inner, mask = self._lift(x), None
        if cond.mask is not None:
            mask = self._lift(cond.mask.unsqueeze(1).to(x.dtype))
            inner = inner * mask
        folded = fold(inner, self.steps)
        h = self.stem(folded)
        field = None if self.field_stem is None or cond.field is None else self._lift(cond.field)
        if field is not None:
            field = fold(field if mask is None else field * mask, self.steps)
            h = h + self.field_stem(field)
        masks = self._masks(mask)
        e = embedded(self.embed, self.vector_in, lam, cond.vector)
        mods = self._modulation(e, h.ndim)
        h = self._trunk(h, mods, masks, *with_null(self.null, cond, x.shape[0]))
        h = F.silu(self.norm(h, masks[0]))
        h = self.out(h if mask is None else h * masks[0]) + self.bypass(folded) * mods[-1]
        if field is not None:
            gain = 1 + self.field_gain(e)
            h = h + self.field_bypass(field) * gain.reshape(*gain.shape, *[1] * (h.ndim - 2))
        out = unfold(h, self.steps)
        if mask is not None:
            out = out * mask
        out = crop(out, [*[1] * (out.ndim - x.ndim), *x.shape[2:]])
        return out.reshape(x.shape).to(x.dtype)

    def _lift(self, x: Tensor) -> Tensor:
        """A signal as a picture of height 1; then every size padded to a multiple of ``unshuffle``."""
        return pad_to(x.unsqueeze(2) if self.dims == 1 else x, self.steps, self.padding)

    def _masks(self, mask: Tensor | None) -> list[Tensor | None]:
        """The valid positions at every level, (B, 1, *S): a cell is valid where any of its pixels is."""
        if mask is None:
            return [None] * len(self.levels)
        masks: list[Tensor | None] = [fold(mask, self.steps).amax(1, keepdim=True)]
        for _ in self.levels[1:]:
            mask = fold(pad_to(masks[-1], self.halves), self.halves)
            masks.append(mask.amax(1, keepdim=True))
        return masks

    def _modulation(self, e: Tensor, ndim: int) -> list[Tensor]:
        """Noise level and vector condition, embedded, to every block's scale and shift, each (B, C, 1, ...)."""
        joint = self.modulate(e).reshape(e.shape[0], -1, *[1] * (ndim - 2))
        return list(joint.split(self.splits, 1))

    def _trunk(
        self,
        h: Tensor,
        mods: list[Tensor],
        masks: list[Tensor | None],
        tokens: Tensor | None,
        tokens_mask: Tensor | None,
    ) -> Tensor:
        """Down through the levels and up again."""
        given, skips = iter(mods), []
        for level, mask in zip(self.levels, masks):
            for block in level.down:
                h = block(h, next(given), next(given), mask)
            if level.down_attend is not None:
                h = level.down_attend(h, mask, tokens, tokens_mask)
            if level.halve is not None:
                skips.append(h)
                h = level.halve(pad_to(h if mask is None else h * mask, self.halves, self.padding))
        for level, mask in zip(reversed(self.levels), reversed(masks)):
            if level.merge is not None:
                skip = skips.pop()
                h = F.interpolate(level.widen(h), scale_factor=tuple(float(n) for n in self.halves))
                h = crop(h, skip.shape[2:])
                h = level.merge(torch.cat([h, skip], 1))
            for block in level.up:
                h = block(h, next(given), next(given), mask)
            if level.up_attend is not None:
                h = level.up_attend(h, mask, tokens, tokens_mask)
        return h


def _check(
    channels: int,
    dims: int,
    width: int,
    mults: list[int],
    blocks: int,
    attention: list[int],
    heads: int,
    unshuffle: int,
    padding: str,
    norm: str,
    activations: int,
    kernels: list[int],
) -> None:
    """Refuses sizes that can not work."""
    if dims not in (1, 2, 3):
        raise KakusanError(f"dims={dims}: a U-Net takes 1 (signals), 2 (pictures) or 3 (volumes)")
    if channels < 1:
        raise KakusanError(f"channels={channels}: at least one is needed")
    if width < 2 or blocks < 1 or unshuffle < 1 or not mults or min(mults) < 1:
        raise KakusanError(
            f"width={width}, mults={mults}, blocks={blocks}, unshuffle={unshuffle}: all must be at least 1, width 2"
        )
    if padding not in ("zeros", "circular"):
        raise KakusanError(f"padding={padding!r}: use 'zeros', or 'circular' for seamless textures")
    if norm not in NORMS:
        raise KakusanError(f"norm={norm!r}: use 'group', or 'pixel' for networks that learn from pieces of pictures")
    if activations not in (1, 2):
        raise KakusanError(f"activations={activations}: a block has 2 (each after a norm), or 1, which is faster")
    if len(kernels) != 2 or any(k not in (1, 3, 5, 7) for k in kernels):
        raise KakusanError(f"kernels={kernels}: two odd sizes up to 7, one for each convolution of a block, as [3, 1]")
    for level in attention:
        if not 0 <= level < len(mults):
            raise KakusanError(
                f"attention={attention}: level {level} does not exist; mults has levels 0 to {len(mults) - 1}"
            )
        if heads < 1 or width * mults[level] % heads:
            raise KakusanError(
                f"heads={heads} does not divide the {width * mults[level]} channels of attention level {level}"
            )
