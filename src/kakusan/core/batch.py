"""Batch and Cond: what travels between data, conditions and networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["NO_COND", "Batch", "Cond", "Inputs", "joined"]

Inputs = dict[str, dict[str, Tensor]]  # condition name -> that encoder's prepared inputs, each (B, ...)


@dataclass(frozen=True)
class Cond:
    """The ports through which every condition reaches a network; a port that is not used is None."""

    vector: Tensor | None = None  # (B, D)     class, scalars, pooled text
    tokens: Tensor | None = None  # (B, L, D)  text, boxes: cross-attention
    tokens_mask: Tensor | None = None  # (B, L) bool, True = a real token
    field: Tensor | None = None  # (B, C, *S), or constant (B, C, 1, ...): image, mask, low resolution: joined to x
    mask: Tensor | None = None  # valid positions of x itself, True = real (molecules, variable length)

    def map(self, f: Callable[[Tensor], Tensor]) -> Cond:
        """The same ports with ``f`` applied to each one in use (move, repeat, index)."""
        values = {p.name: getattr(self, p.name) for p in fields(self)}
        return Cond(**{name: None if v is None else f(v) for name, v in values.items()})

    def lengthened(self, count: int) -> Cond:
        """The same with ``count`` tokens: what is added is masked."""
        if self.tokens is None or self.tokens.shape[1] == count:
            return self
        more = count - self.tokens.shape[1]
        mask = F.pad(_tokens_mask(self), (0, more), value=False)
        return replace(self, tokens=F.pad(self.tokens, (0, 0, 0, more)), tokens_mask=mask)

    def over(self, sizes: Sequence[int]) -> Cond:
        """The same with a field that is constant, (B, C, 1, ...), spread over ``sizes``."""
        if self.field is None or not _constant(self.field):
            return self
        return replace(self, field=self.field.expand(*self.field.shape[:2], *sizes))

    def within(self, rows: slice, columns: slice) -> Cond:
        """The same with the field cut to a window; what is constant stays."""
        if self.field is None or _constant(self.field):
            return self
        return replace(self, field=self.field[..., rows, columns])

    @staticmethod
    def merge(conds: list[Cond], mask: Tensor | None = None) -> Cond:
        """Several conditions as one: vectors, tokens and fields are concatenated in the order given."""
        vectors = [c.vector for c in conds if c.vector is not None]
        tokens = [c for c in conds if c.tokens is not None]
        masks = [_tokens_mask(c) for c in tokens]
        maps = [c.field for c in conds if c.field is not None]
        return Cond(
            vector=torch.cat(vectors, 1) if vectors else None,
            tokens=torch.cat([c.tokens for c in tokens if c.tokens is not None], 1) if tokens else None,
            tokens_mask=torch.cat(masks, 1) if masks else None,
            field=joined(maps, 1) if maps else None,
            mask=mask,
        )


def _tokens_mask(cond: Cond) -> Tensor:
    assert cond.tokens is not None
    if cond.tokens_mask is not None:
        return cond.tokens_mask
    return torch.ones(cond.tokens.shape[:2], dtype=torch.bool, device=cond.tokens.device)


def _constant(field: Tensor) -> bool:
    return field.shape[2:].numel() == 1


def joined(fields: Sequence[Tensor], dim: int) -> Tensor:
    """Fields along a dimension; those that are constant, (B, C, 1, ...), are spread over the sizes of the others."""
    sizes = next((f.shape[2:] for f in fields if not _constant(f)), fields[0].shape[2:])
    return torch.cat([f.expand(*f.shape[:2], *sizes) if _constant(f) else f for f in fields], dim)


NO_COND = Cond()


@dataclass(frozen=True)
class Batch:
    """One training batch: clean data and the prepared inputs of every condition."""

    x0: Tensor  # (B, C, *S), or (B, N, D) for sets
    mask: Tensor | None = None  # valid positions of x0, True = real
    inputs: Inputs = field(default_factory=dict)
    stratum: Tensor | None = None  # (B,) float64 in [0, 1): the row's place in the global batch, spreads noise levels
    reference: Batch | None = None  # other pictures of the data with their inputs, for stable targets
