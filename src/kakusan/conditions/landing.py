"""Landing: where a step ends, as a condition of students whose one evaluation is a jump (the r of a mean velocity)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kakusan.core.batch import Cond
from kakusan.core.model import Encoder
from kakusan.core.process import place
from kakusan.part import KakusanError

__all__ = ["Landing"]


class Landing(Encoder):
    """How far a step falls, d = place(t) - place(s) in [0, 1), as a vector (B, dim) =
    ``[sin(w_j d), 1 - cos(w_j d)]``, w_j = pi/2 2^j (``core.process.place`` spreads the noise levels).

    It is 0 where s = t: a network then gives what it would give without this condition, and at first, since vectors
    enter by zeros, everywhere. It has no parameters. The sampler tells it at every evaluation.
    """

    kind = "condition/landing"
    droppable = False  # every step lands somewhere
    guided = False
    timed = True

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        if dim < 2 or dim % 2:
            raise KakusanError(f"dim={dim}: need an even number, 2 at least")
        self.dim = dim

    def prepare(self, values: list[Any]) -> dict[str, Tensor]:
        """None, the only value there is, to a step that stays where it is: ``{"drop": (B,)}`` of zeros."""
        if told := [v for v in values if v is not None and v != ""]:
            raise KakusanError(f"landing={told[0]!r}: the sampler says where its steps land; leave it out")
        return {"drop": torch.zeros(len(values))}

    def between(self, lam_t: Tensor, lam_s: Tensor) -> dict[str, Tensor]:
        """Falls from lam_t to lam_s, (B,) each; what climbs counts as staying."""
        return {"drop": (place(lam_t) - place(lam_s)).clamp(min=0).to(torch.float32)}

    def forward(self, inputs: dict[str, Tensor], keep: Tensor) -> Cond:
        """``drop`` (B,) to ``Cond(vector=(B, dim))``."""
        angle = inputs["drop"][:, None] * (
            math.pi / 2 * 2.0 ** torch.arange(self.dim // 2, device=inputs["drop"].device)
        )
        return Cond(vector=torch.cat([angle.sin(), 1 - angle.cos()], 1))
