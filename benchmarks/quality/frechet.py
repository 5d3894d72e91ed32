"""The Fréchet distance between two sets of feature vectors, each taken for a Gaussian (Dowson & Landau 1982)."""

from __future__ import annotations

import numpy as np

__all__ = ["frechet", "moments"]

Moments = tuple[np.ndarray, np.ndarray]  # mean (D,), covariance (D, D)


def moments(features: np.ndarray) -> Moments:
    """Mean and unbiased covariance of features (N, D), in float64."""
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"features have shape {x.shape}: need (N, D) with N of at least 2")
    return x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))


def frechet(a: Moments, b: Moments) -> float:
    """``|mu_a - mu_b|^2 + tr A + tr B - 2 tr (A^(1/2) B A^(1/2))^(1/2)``.

    Both roots come from symmetric eigendecompositions: with fewer samples than dimensions the covariances are singular,
    where Newton and Schur methods of the matrix root of A B fail or turn complex. Eigenvalues that rounding has made
    negative count as zero.
    """
    (mu_a, cov_a), (mu_b, cov_b) = a, b
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(
        values.clip(0)
    )  # root root^T = A; the orthogonal factor left out does not change the trace
    inner = root.T @ cov_b @ root
    trace = np.sqrt(np.linalg.eigvalsh((inner + inner.T) / 2).clip(0)).sum()
    return float(((mu_a - mu_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * trace)
