"""Numbers as conditions: Scalar, one with a name and a unit, and Vector, a few bare ones."""

from __future__ import annotations

import math
import re
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from kakusan.core.batch import Cond
from kakusan.core.model import Encoder
from kakusan.part import KakusanError

__all__ = ["Scalar", "Vector"]

MOST = 65_536  # numbers a sample
FAR = 10.0  # standard deviations from the mean within which a scalar may lie
_OCTAVES = 6  # of Fourier features: periods from 16 standard deviations down to 1/2
_WRITTEN = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*")


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
        self.null_vector = nn.Parameter(torch.randn(dim).mul_(0.02)) if null == "learned" else None
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


class Scalar(Encoder):
    """One number with a name and a unit, as a vector (B, dim) = W [z, cos(w_j z), sin(w_j z)] + b with
    ``z = (value - mean)/std``, or ``(log value - mean)/std`` with ``log``; None is a learned vector.

    w_j = 2 pi 2^j/16 for j = 0..5 (random Fourier features are from Tancik et al. 2020; here in octaves).
    """

    kind = "condition/scalar"

    def __init__(
        self, name: str, unit: str = "", mean: float = 0.0, std: float = 1.0, log: bool = False, dim: int = 64
    ) -> None:
        super().__init__()
        if not std > 0 or not math.isfinite(mean):
            raise KakusanError(f"mean={mean}, std={std}: need a finite mean and std > 0")
        self.name, self.unit, self.mean, self.std, self.log = name, unit, float(mean), float(std), bool(log)
        self.linear = nn.Linear(1 + 2 * _OCTAVES, dim)
        self.null_vector = nn.Parameter(torch.randn(dim).mul_(0.02))

    def prepare(self, values: list[Any]) -> dict[str, Tensor]:
        """Numbers, "3.5", "3.5 mm", or None (or not a number) = unsaid, to ``{"value": (B,) = z, "given": (B,) bool}``;
        z is 0 where none is given."""
        read = [None if v is None or v == "" else self._read(v) for v in values]
        z = [0.0 if v is None else self._scaled(v) for v in read]
        given = torch.tensor([v is not None for v in read], dtype=torch.bool)
        return {"value": torch.tensor(z, dtype=torch.float32), "given": given}

    def _read(self, value: Any) -> float:
        """A number in the model's unit."""
        if isinstance(value, str):
            found = _WRITTEN.fullmatch(value)
            if found is None:
                raise KakusanError(f"{self.name} {value!r}: write a number{self._in(', as 3.5')}")
            if found[2] and found[2] != self.unit:
                said = (
                    f"counts it in {self.unit}: write {found[1]} {self.unit}" if self.unit else "knows no unit for it"
                )
                raise KakusanError(f"{self.name} {value!r}: this model {said}, or the number alone")
            value = found[1]
        elif isinstance(value, bool) or not isinstance(value, Real):
            raise KakusanError(f"{self.name} {value!r}: give a number{self._in()}")
        number = float(value)
        if not math.isfinite(number):
            raise KakusanError(f"{self.name} {value!r}: give a finite number{self._in()}")
        return number

    def _in(self, words: str = "") -> str:
        return f"{words} {self.unit}" if words and self.unit else f" in {self.unit}" if self.unit else words

    def _scaled(self, number: float) -> float:
        """z; raises KakusanError with the bounds where a number is nothing like what the model has seen."""
        if self.log and number <= 0:
            raise KakusanError(f"{self.name} {number:g}: must be above 0")
        z = ((math.log(number) if self.log else number) - self.mean) / self.std
        if abs(z) > FAR:
            low, high = (self.mean + side * FAR * self.std for side in (-1, 1))
            low, high = (math.exp(min(v, 700.0)) if self.log else v for v in (low, high))
            unit = f" {self.unit}" if self.unit else ""
            raise KakusanError(f"{self.name} {number:g}{unit}: this model takes {low:g} to {high:g}{unit}")
        return z

    def same(self, inputs: dict[str, Tensor], others: dict[str, Tensor]) -> Tensor:
        """Equal numbers, or both unsaid."""
        equal = inputs["value"][:, None] == others["value"]
        return equal & (inputs["given"][:, None] == others["given"])

    def forward(self, inputs: dict[str, Tensor], keep: Tensor) -> Cond:
        """``value`` (B,) = z, ``given`` (B,) bool and keep (B,) bool to ``Cond(vector=(B, dim))``."""
        z = inputs["value"][:, None]
        angle = z * (2 * math.pi / 16 * 2.0 ** torch.arange(_OCTAVES, device=z.device))
        vector = self.linear(torch.cat([z, angle.cos(), angle.sin()], 1).to(self.linear.weight.dtype))
        return Cond(vector=torch.where((keep & inputs["given"])[:, None], vector, self.null_vector))
