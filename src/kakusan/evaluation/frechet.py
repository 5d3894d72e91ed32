"""The Fréchet distance between two sets of features taken for Gaussians (Dowson & Landau 1982; Heusel et al. 2017).

With N samples its expectation is too high by about c / N, more than a good model's whole distance when N is near the
number of features. Two figures are therefore given: ``frechet``, as published, comparable only at equal counts, and
``frechet_infinity``, an estimate for infinitely many pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kakusan.evaluation.figure import Figure, checked

__all__ = ["frechet", "frechet_infinity", "frechet_infinity_interval", "frechet_interval"]

LEAST = 8  # pictures of each set for an extrapolation, which halves both twice
Z = 1.959964  # standard errors on each side of a 95% interval


@dataclass(frozen=True)
class Influenced:
    """A figure and the influence of each sample of both sets on it, (N,) and (M,), with mean 0."""

    value: float
    a: np.ndarray
    b: np.ndarray

    def error(self) -> float:
        """Standard error by the infinitesimal jackknife: the variance of the influences over their number."""
        return float(np.sqrt(self.a.var(ddof=1) / len(self.a) + self.b.var(ddof=1) / len(self.b)))


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """``|mu_a - mu_b|^2 + tr A + tr B - 2 tr (A B)^(1/2)`` of features (N, D), (M, D); covariances unbiased."""
    a, b = checked(a, b)
    return _Pair(*((a, b) if len(a) <= len(b) else (b, a))).value()


def frechet_interval(a: np.ndarray, b: np.ndarray) -> Figure:
    """The distance with the spread that other draws of as many pictures would show, bias and all.

    A bootstrap would add the bias a second time: resampled sets are as far from a set as that is from the truth. The
    infinitesimal jackknife (Efron 1982), the limit of the bootstrap for small changes, is centred on the value and
    costs one eigendecomposition: each sample's influence is the derivative of the distance in its weight.
    """
    a, b = checked(a, b)
    found = _influenced(a, b)
    half = Z * found.error()
    return Figure(found.value, found.value - half, found.value + half, "infinitesimal jackknife, at these counts")


def frechet_infinity(real: np.ndarray, fake: np.ndarray, seed: int = 0) -> float:
    """The distance for infinitely many pictures; it can be a little below 0. See ``frechet_infinity_interval``."""
    return frechet_infinity_interval(real, fake, seed).value


def frechet_infinity_interval(real: np.ndarray, fake: np.ndarray, seed: int = 0) -> Figure:
    """The distance extrapolated in 1 / count, less what real pictures show under the same treatment.

    Both sets are thinned to halves, and twice the distance less the mean of the halves' removes c / N (Chong & Forsyth
    2020, arXiv:1911.07023, with two points and both sets thinned alike). Where counts are near the number of features,
    the bias is no longer c / N and most of the error of that line is the same for real pictures against other real
    ones, whose distance is 0: so as many real pictures as drawn ones (or half of the real ones) are extrapolated too,
    against the same rest, and the result is taken off. The influences of each picture on all of this give the interval.
    """
    real, fake = checked(real, fake, least=LEAST)
    rng = np.random.Generator(np.random.Philox(key=seed))
    real, fake = real[rng.permutation(len(real))], fake[rng.permutation(len(fake))]
    count = min(len(fake), len(real) // 2)
    control, rest = real[:count], real[count:]
    zero = _extrapolated(control, rest)
    groups = len(fake) // count
    found = [_extrapolated(fake[i : i + count], rest) for i in range(0, groups * count, count)]
    value = float(np.mean([f.value for f in found])) - zero.value
    ours = np.concatenate([f.a for f in found])
    theirs = np.mean([f.b for f in found], 0) - zero.b
    variances = [x.var(ddof=1) / len(x) for x in (ours, zero.a, theirs)]
    half = Z * float(np.sqrt(sum(variances)))
    return Figure(value, value - half, value + half, "infinitesimal jackknife of the extrapolation")


def _extrapolated(a: np.ndarray, b: np.ndarray) -> Influenced:
    """Twice the distance less the mean of two halves' distances."""
    whole = _influenced(a, b)
    value, ours, theirs = 2 * whole.value, 2 * whole.a, 2 * whole.b
    for i in range(2):
        half = _influenced(a[i::2], b[i::2])
        value -= half.value / 2
        ours[i::2] -= half.a
        theirs[i::2] -= half.b
    return Influenced(value, ours, theirs)


def _influenced(a: np.ndarray, b: np.ndarray) -> Influenced:
    if len(a) > len(b):
        turned = _Pair(b, a).influenced()
        return Influenced(turned.value, turned.b, turned.a)
    return _Pair(a, b).influenced()


class _Pair:
    """Centred sets, the first not the larger, and ``S B S^T``, whose eigenvalues' roots sum to tr (A B)^(1/2).

    ``S^T S`` = A: S is the first set's centred rows, or their triangular factor if there are more rows than features.
    With fewer samples than features the covariances are singular, where roots of A B itself fail or turn complex.
    """

    def __init__(self, a: np.ndarray, b: np.ndarray) -> None:
        self.shift = a.mean(0) - b.mean(0)
        self.a, self.b = a - a.mean(0), b - b.mean(0)
        n, m, dim = len(a), len(b), a.shape[1]
        rows = self.a / np.sqrt(n - 1)
        self.basis, self.small = np.linalg.qr(rows) if n > dim else (None, rows)
        if m > dim:
            inner = self.small @ (self.b.T @ self.b) @ self.small.T
        else:
            cross = self.small @ self.b.T
            inner = cross @ cross.T
        self.inner = (inner + inner.T) / (2 * (m - 1))
        self.outer = self.shift @ self.shift + (rows**2).sum() + (self.b**2).sum() / (m - 1)

    def value(self) -> float:
        roots = np.sqrt(np.linalg.eigvalsh(self.inner).clip(0))  # rounding makes some a little negative
        return float(self.outer - 2 * roots.sum())

    def influenced(self) -> Influenced:
        """Derivatives in the samples' weights: ``+-2 x.(mu_a - mu_b) + (|x|^2 - x^T T x) n / (n - 1)``, x centred.

        T is the transport from the sample's own Gaussian to the other, ``S^+ (S B S^T)^(1/2) S^+T`` for the first set
        and ``S^T (S B S^T)^(-1/2) S`` for the second.
        """
        values, vectors = np.linalg.eigh(self.inner)
        roots = np.sqrt(values.clip(0))
        own = vectors if self.basis is None else self.basis @ vectors
        n, m = len(self.a), len(self.b)
        moved = (own**2) @ roots * (n - 1)
        first = 2 * self.a @ self.shift + ((self.a**2).sum(1) - moved) * n / (n - 1)
        keep = values > values[-1] * 1e-10
        along = self.b @ (self.small.T @ vectors[:, keep])
        moved = (along**2) @ (1 / roots[keep])
        second = -2 * self.b @ self.shift + ((self.b**2).sum(1) - moved) * m / (m - 1)
        return Influenced(float(self.outer - 2 * roots.sum()), first - first.mean(), second - second.mean())
