"""Layers that the networks share: fast on CPUs in channels-last, and correct under a mask of valid positions.

Measured on 2 AVX-512 cores, torch 2.13: a 1x1 convolution is twice as fast as ``nn.Linear`` on the same numbers, hence
``Dense``; native group norm followed by scale, shift and SiLU beats every hand-written norm that was tried.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kakusan.core.batch import Cond
from kakusan.part import KakusanError

__all__ = [
    "Attention",
    "Dense",
    "GroupNorm",
    "PixelNorm",
    "attend",
    "check_ports",
    "crop",
    "embedded",
    "fold",
    "fourier",
    "keep_memory",
    "matrices",
    "pad_to",
    "plain_attention",
    "unfold",
    "with_null",
    "zero",
]

_plain = False
FEW_KEYS = 256  # up to so many, written-out attention in bf16 trains faster on a CPU than the fused one, 1.2 to 8 times


@contextmanager
def plain_attention() -> Iterator[None]:
    """Writes attention out inside: the CPU's ``scaled_dot_product_attention`` has no forward-mode derivative."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


def keep_memory() -> bool:
    """Asks glibc to keep freed memory instead of returning it to the system; False where there is no glibc.

    PyTorch's CPU tensors come from malloc, which maps and unmaps every large one: the page faults were a fifth
    of a training step. For a process that trains or samples; the settings hold for the whole process.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    trim_threshold, mmap_threshold = -1, -3
    return bool(mallopt(mmap_threshold, 1 << 30)) and bool(mallopt(trim_threshold, 2**31 - 1))


def zero(module: nn.Module) -> nn.Module:
    """The module with all its parameters set to zero."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def matrices(net: nn.Module, outer: Sequence[str]) -> set[str]:
    """Names of ``net``'s weight matrices and kernels (two or more dimensions) outside the submodules in ``outer``."""
    names = (name for name, p in net.named_parameters() if p.ndim >= 2)
    return {name for name in names if not any(f"{name}.".startswith(f"{part}.") for part in outer)}


def fourier(lam: Tensor, size: int) -> Tensor:
    """cos and sin of lam (B,) in [-10, 10] at ``size`` / 2 frequencies, periods from 64 down to 1: (B, size)."""
    count = size // 2
    octaves = torch.linspace(0, 1, count, device=lam.device, dtype=torch.float32)
    angle = lam.float()[:, None] * (2 * math.pi / 64 * 64**octaves)
    return torch.cat([angle.cos(), angle.sin()], 1)


def embedded(embed: nn.ModuleList, vector_in: nn.Module | None, lam: Tensor, vector: Tensor | None) -> Tensor:
    """lam (B,) and the vector condition (B, V) through the three layers of ``embed``, after SiLU: (B, width)."""
    first, second, third = embed
    e = first(fourier(lam, first.in_features).to(first.weight.dtype))
    if vector_in is not None and vector is not None:
        e = e + vector_in(vector)
    return F.silu(third(F.silu(second(F.silu(e)))))


def with_null(null: Tensor | None, cond: Cond, batch: int) -> tuple[Tensor | None, Tensor | None]:
    """The condition's tokens behind the learned ``null`` (1, 1, D), and which are real; None without a port."""
    if null is None:
        return None, None
    null = null.expand(batch, -1, -1)
    if cond.tokens is None:
        return null, None
    tokens = torch.cat([null.to(cond.tokens.dtype), cond.tokens], 1)
    return tokens, None if cond.tokens_mask is None else F.pad(cond.tokens_mask, (1, 0), value=True)


def fold(x: Tensor, steps: Sequence[int]) -> Tensor:
    """Pixel-unshuffle in any dimension: (B, C, *S) to (B, C prod(steps), *S/steps), laid out channels-last."""
    d = len(steps)
    split = [n for size, step in zip(x.shape[2:], steps) for n in (size // step, step)]
    parts = x.reshape(*x.shape[:2], *split)  # B, C, s1, u1, s2, u2, ...
    outer, inner = range(2, 2 + 2 * d, 2), range(3, 3 + 2 * d, 2)
    parts = parts.permute(0, *outer, 1, *inner)
    return parts.reshape(*parts.shape[: 1 + d], -1).movedim(-1, 1)


def unfold(x: Tensor, steps: Sequence[int]) -> Tensor:
    """Pixel-shuffle in any dimension, the inverse of ``fold``."""
    d, channels = len(steps), x.shape[1] // math.prod(steps)
    parts = x.movedim(1, -1).reshape(x.shape[0], *x.shape[2:], channels, *steps)  # B, s1, s2, C, u1, u2
    order = [n for i in range(d) for n in (1 + i, 2 + d + i)]
    sizes = [size * step for size, step in zip(x.shape[2:], steps)]
    return parts.permute(0, 1 + d, *order).reshape(x.shape[0], channels, *sizes)


def pad_to(x: Tensor, steps: Sequence[int], mode: str = "zeros") -> Tensor:
    """x (B, C, *S) padded at the far ends until every size is a multiple of its step; ``circular`` wraps around."""
    extra = [-size % step for size, step in zip(x.shape[2:], steps)]
    if not any(extra):
        return x
    if mode != "circular":
        return F.pad(x, [n for e in reversed(extra) for n in (0, e)])
    for axis, e in enumerate(extra, 2):
        wrap = torch.arange(x.shape[axis] + e, device=x.device) % x.shape[axis]
        x = x.index_select(axis, wrap)
    return x


def crop(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """The first ``sizes`` of x (B, C, *S) along its last axes, batch and channels whole: what ``pad_to`` added, off."""
    return x[(slice(None), slice(None), *(slice(n) for n in sizes))]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention; q (B, H, N, D), k and v (B, H, M, D), mask (B, M) bool, True = may be attended to."""
    bias = None
    if mask is not None:  # finite, so that a row without any valid key gives numbers and not NaN
        bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, -1e9)[:, None, None]
    if not _plain and not _fused_is_slow(q, k):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return torch.softmax(scores if bias is None else scores + bias, -1) @ v


def _fused_is_slow(q: Tensor, k: Tensor) -> bool:
    """Whether this is training in bf16 on a CPU with few keys: the fused attention's backward pass is slow there."""
    here = q.dtype is torch.bfloat16 and q.device.type == "cpu" and k.shape[-2] <= FEW_KEYS
    return here and torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)


class Dense(nn.Linear):
    """A linear layer on tokens (B, N, C); on a CPU it runs as a 1x1 convolution, about twice as fast."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        columns = x.transpose(1, 2).unsqueeze(2)  # (B, C, 1, N), channels-last without a copy
        return F.conv2d(columns, self.weight[..., None, None], self.bias).squeeze(2).transpose(1, 2)


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018) whose statistics leave out masked positions; about 16 channels a group."""

    def __init__(self, channels: int, affine: bool = True) -> None:
        super().__init__()
        self.groups = max(g for g in range(1, max(1, channels // 16) + 1) if channels % g == 0)
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, C, *S), mask (B, 1, *S) of ones and zeros or None."""
        if mask is None:
            return F.group_norm(x, self.groups, self.weight, self.bias, 1e-5)
        shape = (x.shape[0], self.groups, -1)
        count = mask.flatten(1).sum(1).clamp(min=1)[:, None, None] * (x.shape[1] // self.groups)
        rest = [1] * (x.ndim - 2)
        spread = (x.shape[0], x.shape[1], *rest)
        mean = (x * mask).flatten(2).sum(2).reshape(shape).sum(2, keepdim=True) / count
        x = x - mean.expand(-1, -1, x.shape[1] // self.groups).reshape(spread)
        var = (x * mask).square().flatten(2).sum(2).reshape(shape).sum(2, keepdim=True) / count
        x = x * (var + 1e-5).rsqrt().expand(-1, -1, x.shape[1] // self.groups).reshape(spread)
        if self.weight is None or self.bias is None:
            return x
        return x * self.weight.reshape(-1, *rest) + self.bias.reshape(-1, *rest)


class PixelNorm(nn.Module):
    """Normalisation over the channels of each position alone (layer normalisation; Ba et al. 2016): what is around a
    piece of a picture, or how large that is, does not change it."""

    def __init__(self, channels: int, affine: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, C, *S)."""
        last = x.movedim(1, -1)  # contiguous where x is channels-last
        return F.layer_norm(last, (self.channels,), self.weight, self.bias, 1e-5).movedim(-1, 1)


class Attention(nn.Module):
    """Multi-head attention of tokens (B, N, C) to themselves, or to a context (B, M, D) where ``context`` = D > 0."""

    def __init__(self, channels: int, heads: int, context: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.query = Dense(channels, channels) if context else None
        self.mix = Dense(context, 2 * channels) if context else Dense(channels, 3 * channels)
        self.out = zero(Dense(channels, channels))

    def _split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, N, parts C) to ``parts`` tensors (B, H, N, C / H)."""
        x = x.reshape(*x.shape[:2], parts, self.heads, -1)
        return x.permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """``mask`` (B, N) or (B, M) bool: which keys are real."""
        if self.query is None:
            q, k, v = self._split(self.mix(x), 3)
        else:
            (q,) = self._split(self.query(x), 1)
            k, v = self._split(self.mix(context), 2)
        return self.out(attend(q, k, v, mask).transpose(1, 2).reshape(x.shape))


def check_ports(x: Tensor, cond: Cond, channels: int, dims: int, ports: dict[str, int]) -> None:
    """Refuses input that this network was not built for, naming the argument; ``ports`` = {"vector": size, ...}."""
    if x.ndim != dims + 2 or x.shape[1] != channels:
        form = f"(batch, {channels}, {', '.join('DHW'[3 - dims :])})"
        raise KakusanError(f"x has shape {tuple(x.shape)}: this network was built for {form}")
    if 0 in x.shape:
        raise KakusanError(f"x has shape {tuple(x.shape)}: no size may be 0")
    for name, size in ports.items():
        value = getattr(cond, name)
        if value is None:
            continue
        axis = 2 if name == "tokens" else 1
        if not size:
            raise KakusanError(
                f"the condition uses the port {name!r}: build the network with {name}={value.shape[axis]}"
            )
        if value.shape[axis] != size:
            raise KakusanError(f"port {name!r} is {value.shape[axis]} wide: this network was built with {name}={size}")
    if cond.field is not None and cond.field.shape[2:] != x.shape[2:]:
        raise KakusanError(
            f"field has sizes {tuple(cond.field.shape[2:])}, x {tuple(x.shape[2:])}: resize the field to x"
        )
    if cond.mask is not None and cond.mask.shape != (x.shape[0], *x.shape[2:]):
        raise KakusanError(
            f"mask has shape {tuple(cond.mask.shape)}: expected {(x.shape[0], *x.shape[2:])}, as x without channels"
        )
