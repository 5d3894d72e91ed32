"""Per-sample random draws: each belongs to (seed, purpose, step) of one sample, never to a global state.

A counter-based generator (SplitMix64; Steele, Lea & Flood 2014): word i of a stream is a hash of its key and i. A draw
therefore does not depend on the batch it was made in, on what was drawn before, or on the device.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Rng", "mix"]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def _signed(value: int) -> int:
    """A 64-bit word as torch's int64 writes it."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def mix(*words: int | str) -> int:
    """A 63-bit seed from integers and strings, the same on every machine and in every version."""
    text = "\0".join(f"{type(w).__name__}:{w}" for w in words)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's is arithmetic)."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _splitmix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift(z, 31)


class Rng:
    """Random draws for a batch of samples, one seed each.

    ``normal`` and ``uniform`` are pure functions of (seed, purpose, step, shape of the sample): asking twice gives
    the same numbers, and sample i of a batch gets what it would get alone.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.seeds = [int(s) for s in seeds]
        self.device = torch.device(device)

    def __len__(self) -> int:
        return len(self.seeds)

    def subset(self, rows: Sequence[int]) -> Rng:
        """The draws of some of the samples."""
        return Rng([self.seeds[i] for i in rows], self.device)

    def _words(self, rows: Sequence[int], count: int, purpose: str, step: int) -> Tensor:
        """(len(rows), count) words of 64 random bits."""
        keys = torch.tensor([_signed(mix(self.seeds[i], purpose, step) << 1) for i in rows])
        counter = torch.arange(1, count + 1, device=self.device) * _signed(_GOLDEN)
        return _splitmix(keys.to(self.device, non_blocking=True)[:, None] + counter)

    def _normal(self, rows: Sequence[int], shape: tuple[int, ...], purpose: str, step: int) -> Tensor:
        """Box-Muller: two normals from the two halves of each word."""
        n = math.prod(shape)
        words = self._words(rows, (n + 1) // 2, purpose, step)
        high = (_shift(words, 40).float() + 0.5) * 2.0**-24  # (0, 1)
        low = (words & 0xFFFFFF).float() * 2.0**-24
        radius, angle = torch.sqrt(-2.0 * torch.log(high)), low.mul_(2 * math.pi)
        pairs = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], 2)
        return pairs.reshape(len(rows), -1)[:, :n].reshape(len(rows), *shape)

    def normal(self, shapes: Sequence[tuple[int, ...]], purpose: str, step: int = 0) -> Tensor:
        """Standard normal draws, each made at its sample's own shape, then zero-padded to the largest, (B, *S)."""
        if len(shapes) != len(self.seeds):
            raise ValueError(f"{len(shapes)} shapes for {len(self.seeds)} seeds: one each is needed")
        if all(tuple(s) == tuple(shapes[0]) for s in shapes):
            return self._normal(range(len(shapes)), tuple(shapes[0]), purpose, step)
        largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
        out = torch.zeros(len(shapes), *largest, device=self.device)
        for i, shape in enumerate(shapes):
            where: tuple[int | slice, ...] = (i, *(slice(n) for n in shape))
            out[where] = self._normal([i], tuple(shape), purpose, step)[0]
        return out

    def uniform(self, purpose: str, step: int = 0, count: int = 1) -> Tensor:
        """(B, count) float64 draws on [0, 1), on the CPU: they decide times and coin flips, which live there."""
        cpu = Rng(self.seeds)
        return _shift(cpu._words(range(len(self)), count, purpose, step), 11).double() * 2.0**-53
