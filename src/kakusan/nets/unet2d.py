"""UNet2D: the U-Net of Hugging Face Diffusers' ``UNet2DModel``, so that weights go both ways as they are.

Modules carry that library's names, so its state dict is this one's. Only the noise level differs: kakusan speaks
lam = log(alpha/sigma), that library whole time steps of a table of betas, the ``clock``.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kakusan.core.batch import Cond
from kakusan.core.denoiser import LAM_MAX, Net
from kakusan.core.process import Tabulated
from kakusan.nets.layers import Dense, attend, crop, matrices, zero
from kakusan.part import KakusanError

__all__ = ["UNet2D"]

_OUTER = ("conv_in", "time_embedding.linear_1", "vector_in", "conv_out")  # no hidden matrices: AdamW's


class _Resnet(nn.Module):
    """x + conv2(silu(norm2(conv1(silu(norm1 x)) + e))), the embedding e added to every position; x through a 1x1
    convolution where the channels change. The second convolution starts at zero."""

    def __init__(self, cin: int, cout: int, emb: int, groups: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, cin, eps)
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.time_emb_proj = nn.Linear(emb, cout)
        self.norm2 = nn.GroupNorm(groups, cout, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(cout, cout, 3, padding=1))
        self.conv_shortcut = nn.Conv2d(cin, cout, 1) if cin != cout else None

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(e)[..., None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class _Attention(nn.Module):
    """x + softmax attention over all positions, in heads of ``head_dim`` channels (0 = one head)."""

    def __init__(self, channels: int, head_dim: int, groups: int, eps: float) -> None:
        super().__init__()
        self.heads = channels // (head_dim or channels)
        self.group_norm = nn.GroupNorm(groups, channels, eps)
        self.to_q, self.to_k, self.to_v = (Dense(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([zero(Dense(channels, channels))])

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            each(h).reshape(*h.shape[:2], self.heads, -1).transpose(1, 2) for each in (self.to_q, self.to_k, self.to_v)
        )
        h = self.to_out[0](attend(q, k, v).transpose(1, 2).reshape(h.shape))
        return x + h.transpose(1, 2).reshape(x.shape)


class _Downsample(nn.Module):
    """A 3x3 convolution of stride 2; without ``padding`` only the far ends are padded. Odd sizes are rounded up."""

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        if not self.conv.padding[0]:
            x = F.pad(x, (0, 1 + x.shape[-1] % 2, 0, 1 + x.shape[-2] % 2))
        return self.conv(x)


class _Upsample(nn.Module):
    """Every pixel twice along each axis, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, sizes: tuple[int, ...]) -> Tensor:
        return self.conv(crop(F.interpolate(x, scale_factor=2.0), sizes))


class _Stage(nn.Module):
    """The blocks of one resolution on one way, an attention behind each where ``head_dim`` is not None."""

    def __init__(
        self, pairs: list[tuple[int, int]], emb: int, groups: int, eps: float, dropout: float, head_dim: int | None
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_Resnet(cin, cout, emb, groups, eps, dropout) for cin, cout in pairs)
        self.attentions = None
        if head_dim is not None:
            self.attentions = nn.ModuleList(_Attention(cout, head_dim, groups, eps) for _, cout in pairs)
        self.downsamplers: nn.ModuleList | None = None
        self.upsamplers: nn.ModuleList | None = None

    def block(self, index: int, x: Tensor, e: Tensor) -> Tensor:
        x = self.resnets[index](x, e)
        return x if self.attentions is None else self.attentions[index](x)


class _Middle(nn.Module):
    """Two blocks with one attention between them."""

    def __init__(self, channels: int, emb: int, groups: int, eps: float, dropout: float, head_dim: int | None) -> None:
        super().__init__()
        self.attentions = None
        if head_dim is not None:
            self.attentions = nn.ModuleList([_Attention(channels, head_dim, groups, eps)])
        self.resnets = nn.ModuleList(_Resnet(channels, channels, emb, groups, eps, dropout) for _ in range(2))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        x = self.resnets[0](x, e)
        if self.attentions is not None:
            x = self.attentions[0](x)
        return self.resnets[1](x, e)


class _TimeEmbedding(nn.Module):
    """Two layers on the sines of a time step."""

    def __init__(self, size: int, emb: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(size, emb), nn.Linear(emb, emb)

    def forward(self, sines: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(sines)))


class UNet2D(Net):
    """A U-Net F(x, lam, cond) for pictures x (B, C, H, W) with the structure of Diffusers' ``UNet2DModel``.

    ``widths`` are the channels of its levels, each half the size of the one before, ``layers`` blocks each on the way
    down and one more on the way up; attention at the levels of ``attention`` and, with ``middle``, between the ways, in
    heads of ``head_dim`` channels (0 = one head). ``groups`` and ``eps`` of every group normalisation. ``embedding``:
    width of the embedded noise level, 0 = four times the first of ``widths``; its sines are ordered by ``cos_first``,
    their lowest frequency decided by ``freq_shift``. ``down_padding`` 0 pads a halved picture at its far ends only.

    ``clock``: the discrete process whose time steps the network is told (DDPM's linear betas by default). ``vector``:
    width of the condition's vector, 0 = unused; the net has no other port. Sizes that are no multiple of
    2^(levels - 1) are rounded up on the way, which that library does not know.
    """

    kind = "net/unet2d"

    def __init__(
        self,
        channels: int,
        widths: list[int] = [64, 128, 128],  # noqa: B006  (the signature is the schema)
        layers: int = 2,
        attention: list[int] = [2],  # noqa: B006
        middle: bool = True,
        head_dim: int = 32,
        groups: int = 32,
        eps: float = 1e-5,
        embedding: int = 0,
        cos_first: bool = True,
        freq_shift: float = 0.0,
        down_padding: int = 1,
        vector: int = 0,
        dropout: float = 0.0,
        clock: Tabulated | None = None,
    ) -> None:
        super().__init__()
        _check(channels, widths, layers, attention, middle, head_dim, groups, freq_shift, down_padding)
        self.channels, self.vector, self.multiple = channels, vector, 2 ** (len(widths) - 1)
        self.cos_first, self.freq_shift = cos_first, float(freq_shift)
        emb = embedding or 4 * widths[0]

        def stage(pairs: list[tuple[int, int]], level: int) -> _Stage:
            return _Stage(pairs, emb, groups, eps, dropout, head_dim if level in attention else None)

        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.time_embedding = _TimeEmbedding(widths[0], emb)
        self.vector_in = zero(nn.Linear(vector, emb, bias=False)) if vector else None
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        held, at = [widths[0]], widths[0]  # channels of the skips
        for level, width in enumerate(widths):
            down = stage(list(pairwise([at, *[width] * layers])), level)
            held, at = held + [width] * layers, width
            if level + 1 < len(widths):
                down.downsamplers = nn.ModuleList([_Downsample(width, down_padding)])
                held.append(width)
            self.down_blocks.append(down)
        self.mid_block = _Middle(at, emb, groups, eps, dropout, head_dim if middle else None)
        for level in reversed(range(len(widths))):
            pairs = []
            for _ in range(layers + 1):
                pairs.append((at + held.pop(), widths[level]))
                at = widths[level]
            up = stage(pairs, level)
            if level:
                up.upsamplers = nn.ModuleList([_Upsample(at)])
            self.up_blocks.append(up)
        self.conv_norm_out = nn.GroupNorm(groups, widths[0], eps)
        self.conv_out = zero(nn.Conv2d(widths[0], channels, 3, padding=1))
        self.clock = clock or Tabulated()
        self.register_buffer("levels", _levels(self.clock), persistent=False)
        self.to(memory_format=torch.channels_last)

    def hidden(self) -> set[str]:
        """Names of the hidden matrices and kernels: what Muon trains; the rest is AdamW's."""
        return matrices(self, _OUTER)

    def taps(self) -> list[nn.Module]:
        """The last block of every level, on the way down and on the way up."""
        stages = [*self.down_blocks, *self.up_blocks]
        return [stage.resnets[-1] for stage in stages]

    def forward(self, x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
        """x (B, C, H, W), lam (B,) in [-10, 10]; returns the same shape, of x's dtype."""
        _check_input(x, cond, self.channels, self.vector)
        return self.at(x, self.step(lam), cond).to(x.dtype)

    def step(self, lam: Tensor) -> Tensor:
        """The time step (B,) float32 of a noise level: whole at the clock's entries, straight in lam between them, and
        no further than the first and last."""
        levels = self.get_buffer("levels")
        lam = lam.float()
        left = ((lam[:, None] <= levels).sum(1) - 1).clamp(0, len(levels) - 2)
        high, low = levels[left], levels[left + 1]
        return left + ((high - lam) / (high - low)).clamp(0, 1)

    def at(self, x: Tensor, step: Tensor, cond: Cond) -> Tensor:
        """The network at time steps (B,) of the clock: what ``UNet2DModel`` computes."""
        sines = _sines(step, self.time_embedding.linear_1.in_features, self.freq_shift, self.cos_first)
        e = self.time_embedding(sines.to(self.conv_in.weight.dtype))
        if self.vector_in is not None and cond.vector is not None:
            e = e + self.vector_in(cond.vector)
        e = F.silu(e)
        h = self.conv_in(x)
        skips = [h]
        for stage in self.down_blocks:
            for index in range(len(stage.resnets)):
                h = stage.block(index, h, e)
                skips.append(h)
            if stage.downsamplers is not None:
                h = stage.downsamplers[0](h)
                skips.append(h)
        h = self.mid_block(h, e)
        for stage in self.up_blocks:
            for index in range(len(stage.resnets)):
                h = stage.block(index, torch.cat([h, skips.pop()], 1), e)
            if stage.upsamplers is not None:
                h = stage.upsamplers[0](h, tuple(skips[-1].shape[2:]))
        return self.conv_out(F.silu(self.conv_norm_out(h)))


def _levels(clock: Tabulated) -> Tensor:
    """lam at the clock's entries, falling, (T,) float32."""
    with torch.device("cpu"):  # where times live, also while a network is built without memory
        t = (torch.arange(clock.steps, dtype=torch.float64) + 1) / clock.steps
        found = clock.logsnr(t).clamp(-LAM_MAX, LAM_MAX).float()
    if not bool((found.diff() < 0).all()):
        raise KakusanError(
            f"clock: its noise levels must fall within lam = +-{LAM_MAX:g}; begin and end less extreme, or take fewer "
            "steps"
        )
    return found


def _sines(step: Tensor, size: int, shift: float, cos_first: bool) -> Tensor:
    """sin and cos of time steps (B,) at ``size`` / 2 frequencies from 1 down to about 1/10,000, (B, size)
    (Vaswani et al. 2017, section 3.5)."""
    half = size // 2
    places = torch.arange(half, dtype=torch.float32, device=step.device)
    angle = step[:, None] * torch.exp(-math.log(10_000) * places / (half - shift))
    both = [angle.cos(), angle.sin()] if cos_first else [angle.sin(), angle.cos()]
    return torch.cat(both, 1)


def _check_input(x: Tensor, cond: Cond, channels: int, vector: int) -> None:
    if x.ndim != 4 or x.shape[1] != channels or 0 in x.shape:
        raise KakusanError(f"x has shape {tuple(x.shape)}: this network was built for (batch, {channels}, H, W)")
    for name in ("tokens", "field", "mask"):
        if getattr(cond, name) is not None:
            raise KakusanError(f"the condition uses the port {name!r}, which net/unet2d does not have: use net/unet")
    if cond.vector is not None and cond.vector.shape[1] != vector:
        raise KakusanError(f"port 'vector' is {cond.vector.shape[1]} wide: this network was built with vector={vector}")


def _check(
    channels: int,
    widths: list[int],
    layers: int,
    attention: list[int],
    middle: bool,
    head_dim: int,
    groups: int,
    freq_shift: float,
    down_padding: int,
) -> None:
    """Refuses sizes that can not work."""
    if channels < 1 or layers < 1 or groups < 1 or head_dim < 0 or not widths or min(widths) < 4:
        raise KakusanError(
            f"channels={channels}, widths={widths}, layers={layers}, groups={groups}, head_dim={head_dim}: at least 1, "
            "4 each, 1, 1 and 0 are needed"
        )
    if odd := [w for w in widths if w % groups or w % 2]:
        raise KakusanError(f"widths={widths}: {odd[0]} is not an even multiple of groups={groups}; choose one that is")
    if down_padding not in (0, 1) or not 0 <= freq_shift <= 1:
        raise KakusanError(f"down_padding={down_padding}, freq_shift={freq_shift}: need 0 or 1, and 0 to 1")
    for level in attention:
        if not 0 <= level < len(widths):
            raise KakusanError(
                f"attention={attention}: level {level} does not exist; widths has levels 0 to {len(widths) - 1}"
            )
    attended = [widths[level] for level in attention] + ([widths[-1]] if middle else [])
    if head_dim and (odd := [w for w in attended if w % head_dim]):
        raise KakusanError(f"head_dim={head_dim} does not divide the {odd[0]} channels of a level with attention")
