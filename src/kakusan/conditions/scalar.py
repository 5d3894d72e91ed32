"""Vector: a few numbers (augmentation parameters, physical quantities) as a vector condition."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from kakusan.core.batch import Cond
from kakusan.core.model import Encoder
from kakusan.part import KakusanError

__all__ = ["Vector"]

MOST = 65_536  # numbers a sample


class Vector(Encoder):
    """``size`` numbers a sample as a vector (B, dim) = W (value - mean) / std, without bias.

    ``null`` says what no condition is: "learned", a vector of its own, or "zero", the numbers all zero. The second is
    for non-leaking augmentation, where zero means an untouched picture (Karras et al. 2022, arXiv 2206.00364,
    appendix F.2).
    ``mean`` and ``std``, ``size`` numbers each, bring raw units near one.
    """

    kind = "condition/vector"

    def __init__(
        self,
        size: int,
        dim: int = 64,
        null: str = "learned",
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= size <= MOST:
            raise KakusanError(f"size={size}: need 1 to {MOST} numbers")
        if null not in ("learned", "zero"):
            raise KakusanError(f"null={null!r}: use 'learned', or 'zero' where all zeros means no condition")
        if null == "zero" and mean is not None and any(mean):
            raise KakusanError(f"mean={mean}: with null='zero' the mean must be zero (leave it out)")
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != size:
                raise KakusanError(f"{name} has {len(values)} numbers: size={size} needs as many")
        if std is not None and min(std) <= 0:
            raise KakusanError(f"std={std}: every number must be above 0")
        self.size = size
        self.droppable = null == "learned"  # with null="zero" a dropped row would claim that nothing was done to it
        self.linear = nn.Linear(size, dim, bias=False)
        self.null_vector = nn.Parameter(0.02 * torch.randn(dim)) if null == "learned" else None
        self.register_buffer("mean", torch.tensor(mean or [0.0] * size), persistent=False)
        self.register_buffer("std", torch.tensor(std or [1.0] * size), persistent=False)

    def prepare(self, values: list[Any]) -> dict[str, Tensor]:
        """``size`` numbers a sample (one may stand alone), or None, to ``{"value": (B, size), "given": (B,) bool}``."""
        rows = [[0.0] * self.size if value is None else self._row(value) for value in values]
        given = torch.tensor([value is not None for value in values], dtype=torch.bool)
        return {"value": torch.tensor(rows, dtype=torch.float32).reshape(-1, self.size), "given": given}

    def _row(self, value: Any) -> list[float]:
        numbers = [value] if isinstance(value, Real) else value
        try:
            row = [float(n) for n in numbers]
        except (TypeError, ValueError):
            raise KakusanError(f"condition {value!r}: give {self.size} number(s), or None") from None
        if len(row) != self.size:
            raise KakusanError(f"condition {value!r} has {len(row)} number(s): this model takes {self.size}")
        if not all(math.isfinite(n) for n in row):
            raise KakusanError(f"condition {value!r}: every number must be finite")
        return row

    def forward(self, inputs: dict[str, Tensor], keep: Tensor) -> Cond:
        """``value`` (B, size), perhaps ``given`` (B,) bool, and keep (B,) bool to ``Cond(vector=(B, dim))``."""
        given = inputs.get("given")
        keep = (keep if given is None else keep & given)[:, None]
        vector = self.linear((inputs["value"] - self.mean) / self.std)
        null = torch.zeros_like(vector) if self.null_vector is None else self.null_vector
        return Cond(vector=torch.where(keep, vector, null))
