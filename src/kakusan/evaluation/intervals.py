"""Intervals: resampling that is honest about figures which dislike repeated samples, and cheap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kakusan.evaluation.figure import LEVEL, Figure, checked
from kakusan.part import KakusanError

__all__ = ["ROUNDS", "THINNED", "bootstrap_counts", "interval", "percentiles", "student", "thinned", "thinned_error"]

ROUNDS = 30  # thinned sets of each side
LEFT_OUT = 0.5  # share of a set that is left out at one time
THINNED = "delete-d jackknife, half of each set left out"  # what these intervals are called
LEAST = 8


def bootstrap_counts(n: int, rounds: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of n samples was drawn, in each of the rounds: (n, rounds) float64, columns that sum to n.

    Counts stand for the resampled set, so that nothing as large as the features is copied.
    """
    return rng.multinomial(n, np.full(n, 1 / n), size=rounds).T.astype(np.float64)


def percentiles(drawn: np.ndarray) -> tuple[float, float]:
    """The middle 95% of resampled values (R,)."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def student(count: int) -> float:
    """Half the width of the 95% interval, in standard errors, for an error estimated from ``count`` values.

    Cornish-Fisher expansion of Student's quantile in 1 / degrees of freedom (Abramowitz & Stegun 26.7.5).
    """
    z, f = 1.959964, count - 1
    terms = [z**3 + z, 5 * z**5 + 16 * z**3 + 3 * z, 3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z]
    return z + terms[0] / (4 * f) + terms[1] / (96 * f**2) + terms[2] / (384 * f**3)


def thinned(n: int, rounds: int, rng: np.random.Generator) -> np.ndarray:
    """Masks (rounds, n) of a set with half left out at random; raises KakusanError for fewer than 8 samples."""
    if n < LEAST:
        raise KakusanError(f"only {n} pictures: an interval needs at least {LEAST} real and {LEAST} drawn ones")
    order = np.argsort(rng.random((rounds, n)), 1)
    return order >= round(LEFT_OUT * n)


def thinned_error(values: np.ndarray, n: int) -> float:
    """Standard error of a figure of n samples from its values (rounds,) for thinned sets.

    ``sqrt((n - d) / d  var)`` with d left out at a time (Shao & Wu 1989).
    """
    d = round(LEFT_OUT * n)
    return float(np.sqrt((n - d) / d * values.var(ddof=1)))


def interval(
    function: Callable[[np.ndarray, np.ndarray], float],
    a: np.ndarray,
    b: np.ndarray,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> Figure:
    """Any figure of two sets of features with a delete-d jackknife interval, 2 ``rounds`` + 1 calls.

    Half of one set is left out at random, many times, then of the other; the two variances add up. Unlike a
    bootstrap it repeats no sample, which would make a set look nearer to itself and bias neighbour counts.
    """
    a, b = checked(a, b)
    rng = np.random.Generator(np.random.Philox(key=seed))
    value = float(function(a, b))
    ours = np.array([function(a[alive], b) for alive in thinned(len(a), rounds, rng)])
    theirs = np.array([function(a, b[alive]) for alive in thinned(len(b), rounds, rng)])
    error = np.hypot(thinned_error(ours, len(a)), thinned_error(theirs, len(b)))
    half = float(error) * student(rounds)
    return Figure(value, value - half, value + half, THINNED)
