"""Guidance: the weight of guidance as a condition, of students that have guidance inside."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from kakusan.core.batch import Cond
from kakusan.core.model import Encoder
from kakusan.core.rng import Rng
from kakusan.part import KakusanError

__all__ = ["Guidance"]

MOST = 100.0  # of a weight


class Guidance(Encoder):
    """A weight w of guidance in [low, high] as a vector (B, dim) = [cos(w_j z), sin(w_j z)], z = (w - low)/(high - low)
    and w_j = pi/2 2^j (Meng et al. 2023, arXiv 2210.03142, section 3.1, who draw w evenly in training too).

    No value is the weight ``usual``. It has no parameters: what is learnt is how it enters the network, from zero on.
    """

    kind = "condition/guidance"
    droppable = False  # it says how the other conditions act, and has no null of its own

    def __init__(self, low: float = 1.0, high: float = 4.0, usual: float = 2.0, dim: int = 8) -> None:
        super().__init__()
        if not -MOST <= low < high <= MOST or not low <= usual <= high:
            raise KakusanError(f"low={low}, high={high}, usual={usual}: need low <= usual <= high within +-{MOST:g}")
        if dim < 2 or dim % 2:
            raise KakusanError(f"dim={dim}: need an even number, 2 at least")
        self.low, self.high, self.usual, self.dim = float(low), float(high), float(usual), dim

    def prepare(self, values: list[Any]) -> dict[str, Tensor]:
        """Numbers, "2.5", or None = the usual weight, to ``{"guidance": (B,)}``."""
        return {"guidance": torch.tensor([self.usual if v is None or v == "" else self._read(v) for v in values])}

    def _read(self, value: Any) -> float:
        try:
            weight = float(value) if isinstance(value, (str, Real)) else math.nan
        except ValueError:
            weight = math.nan
        if not self.low <= weight <= self.high:
            raise KakusanError(
                f"guidance {value}: this student was made for weights from {self.low:g} to {self.high:g}"
            )
        return weight

    def draw(self, x0: Tensor, inputs: dict[str, Tensor], rng: Rng) -> dict[str, Tensor]:
        """Weights drawn evenly."""
        share = rng.uniform("guidance")[:, 0].to(torch.float32)
        return {"guidance": self.low + (self.high - self.low) * share}

    def forward(self, inputs: dict[str, Tensor], keep: Tensor) -> Cond:
        """``guidance`` (B,) to ``Cond(vector=(B, dim))``."""
        z = (inputs["guidance"][:, None] - self.low) / (self.high - self.low)
        angle = z * (math.pi / 2 * 2.0 ** torch.arange(self.dim // 2, device=z.device))
        return Cond(vector=torch.cat([angle.cos(), angle.sin()], 1))
