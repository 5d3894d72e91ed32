"""The kernel distance, KID (Binkowski et al. 2018): squared maximum mean discrepancy, cubic polynomial kernel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kakusan.evaluation.figure import Figure, checked
from kakusan.evaluation.intervals import bootstrap_counts, percentiles

__all__ = ["kernel_distance", "kernel_distance_interval"]

ROWS = 1024  # of the kernel matrix in memory at one time
METHOD = "bootstrap of both sets, pairs of a picture with itself left out"


def kernel_distance(a: np.ndarray, b: np.ndarray, subsets: int | None = None, size: int = 1000, seed: int = 0) -> float:
    """Unbiased MMD^2 of features (N, D), (M, D) with ``k(x, y) = (x.y / D + 1)^3``; it can be below 0.

    ``mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean_{ij} k(a_i, b_j)``. Over all pairs at once, which
    is the least uncertain, or as published: the mean over ``subsets`` draws of ``size`` from each set.
    """
    a, b = checked(a, b)
    if subsets is None:
        return float(_distances(a, b, np.ones((len(a), 1)), np.ones((len(b), 1)))[0])
    rng, size = np.random.Generator(np.random.Philox(key=seed)), min(size, len(a), len(b))
    draws = [(rng.permutation(len(a))[:size], rng.permutation(len(b))[:size]) for _ in range(subsets)]
    one = np.ones((size, 1))
    return float(np.mean([_distances(a[i], b[j], one, one)[0] for i, j in draws]))


def kernel_distance_interval(a: np.ndarray, b: np.ndarray, rounds: int = 200, seed: int = 0) -> Figure:
    """The distance over all pairs, with the percentiles of a bootstrap that resamples both sets.

    A picture drawn twice makes no pair with itself, so that the resampled distances stay unbiased, centred on the
    value. Between equal sets the interval is wider than need be (the bootstrap of a degenerate U-statistic is), never
    narrower.
    """
    a, b = checked(a, b)
    rng = np.random.Generator(np.random.Philox(key=seed))
    u = np.column_stack([np.ones(len(a)), bootstrap_counts(len(a), rounds, rng)])
    v = np.column_stack([np.ones(len(b)), bootstrap_counts(len(b), rounds, rng)])
    value, *drawn = _distances(a, b, u, v)
    return Figure(float(value), *percentiles(np.array(drawn)), METHOD)


def _distances(a: np.ndarray, b: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """MMD^2 (R,) under each column of counts u (N, R) and v (M, R)."""
    cross = np.zeros(u.shape[1])
    for rows, k in _kernel(a, b):
        cross += np.einsum("nr,nr->r", u[rows], k @ v)
    return _within(a, u) + _within(b, v) - 2 * cross / (u.sum(0) * v.sum(0))


def _within(x: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Weighted mean of k over pairs of different pictures."""
    total = np.zeros(u.shape[1])
    for start in range(0, len(x), ROWS):  # blocks on and above the diagonal, those above count twice
        rows = slice(start, start + ROWS)
        k = _cubed(x[rows] @ x[start:].T, x.shape[1])
        height = len(k)
        own, rest = k[:, :height].copy(), k[:, height:]
        np.fill_diagonal(own, 0)
        total += np.einsum("nr,nr->r", u[rows], own @ u[rows] + 2 * (rest @ u[start + height :]))
    return total / (u.sum(0) ** 2 - (u**2).sum(0))


def _kernel(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, len(a), ROWS):
        rows = slice(start, start + ROWS)
        yield rows, _cubed(a[rows] @ b.T, a.shape[1])


def _cubed(products: np.ndarray, dim: int) -> np.ndarray:
    """(x.y / D + 1)^3 in place: powers of whole matrices are slow."""
    products /= dim
    products += 1
    return products * products * products
