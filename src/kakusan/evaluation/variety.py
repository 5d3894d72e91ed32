"""Variety: how much pictures differ from each other inside their class, beside real ones; tells collapse from blur."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["coarse", "within"]

SIDE = 8  # blocks along each side of a coarse picture


def within(x: np.ndarray, groups: Sequence[str] | None = None) -> float:
    """Trace of the covariance of rows x (N, D) about the mean of each one's group: ``mean_i |x_i - mean_g(i)|^2``.

    Without groups all rows are one. Groups of a single row say nothing and are left out; 0 where nothing is left. With
    groups, classes that are one and the same picture each count as no variety at all, however much they differ.
    """
    x = np.asarray(x, np.float64)
    names = np.zeros(len(x)) if groups is None else np.asarray(groups)
    total, count = 0.0, 0
    for name in np.unique(names):
        rows = x[names == name]
        if len(rows) > 1:
            total += float(rows.var(0, ddof=1).sum()) * len(rows)
            count += len(rows)
    return total / count if count else 0.0


def coarse(pictures: np.ndarray) -> np.ndarray:
    """Pictures (N, H, W, C) as means of up to 8 x 8 blocks, (N, D) in [0, 1]: what blur leaves as it is."""
    top = float(np.iinfo(pictures.dtype).max) if pictures.dtype.kind in "ui" else 1.0
    x = pictures
    for axis in (1, 2):
        edges = np.linspace(0, x.shape[axis], min(SIDE, x.shape[axis]) + 1).astype(int)
        sizes = np.diff(edges).reshape([-1 if a == axis else 1 for a in range(4)])
        x = np.add.reduceat(x, edges[:-1], axis=axis, dtype=np.float64) / sizes
    return (x / top).reshape(len(x), -1)
