"""A figure and how sure it is; and the check that two sets of features can be compared at all."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kakusan.part import KakusanError

__all__ = ["LEVEL", "Figure", "checked"]

LEVEL = 0.95  # of all intervals


@dataclass(frozen=True)
class Figure:
    """A value with its 95% interval; ``method`` says in a few words where the interval comes from."""

    value: float
    low: float
    high: float
    method: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


def checked(a: np.ndarray, b: np.ndarray, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of features (N, D) and (M, D) in float64, of at least ``least`` rows each; raises KakusanError."""
    for x in (a, b):
        if x.ndim != 2 or not x.shape[1]:
            raise KakusanError(f"features have shape {x.shape}: need (pictures, numbers)")
        if len(x) < least:
            raise KakusanError(
                f"only {len(x)} pictures: this figure needs at least {least} real and as many drawn ones"
            )
        if not np.isfinite(x).all():
            raise KakusanError("features are not finite: some pictures or the feature network are broken")
    if a.shape[1] != b.shape[1]:
        raise KakusanError(
            f"features have {a.shape[1]} and {b.shape[1]} numbers: both sets need the same features and channels"
        )
    return np.asarray(a, np.float64), np.asarray(b, np.float64)
