"""Labels told right and wrong: accuracy with its interval, figures of each class, which is taken for which."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kakusan.part import KakusanError

__all__ = ["Accuracy", "accuracy", "accuracy_by_class", "confusion", "mistaken", "wilson"]

Z = 1.959963984540054  # of a two-sided 95% interval


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers among ``count``, with its 95% interval (Wilson)."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f}% ({100 * self.low:.1f} to {100 * self.high:.1f}, {self.count:,} pictures)"


def wilson(right: int, count: int) -> tuple[float, float]:
    """95% interval of a share, ``(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`` (Wilson 1927): it stays
    inside [0, 1] and holds for few pictures and for shares near 0 and 1. Of none, it is all of [0, 1].
    """
    if not 0 <= right <= count:
        raise KakusanError(f"{right} right of {count}: a share lies between 0 and 1")
    if count == 0:
        return 0.0, 1.0
    share, square = right / count, Z * Z / count
    half = Z * math.sqrt(share * (1 - share) / count + square / (4 * count))
    low, high = (share + square / 2 - half) / (1 + square), (share + square / 2 + half) / (1 + square)
    return 0.0 if right == 0 else low, 1.0 if right == count else high


def accuracy(truth: np.ndarray, guess: np.ndarray) -> Accuracy:
    """How often two lists of labels (N,) agree."""
    truth, guess = _alike(truth, guess)
    right, count = int((truth == guess).sum()), len(truth)
    return Accuracy(right / count if count else math.nan, *wilson(right, count), count)


def accuracy_by_class(truth: np.ndarray, guess: np.ndarray, classes: Sequence[str]) -> dict[str, Accuracy]:
    """For each class, how often its pictures are taken for it."""
    truth, guess = _alike(truth, guess)
    return {name: accuracy(truth[truth == i], guess[truth == i]) for i, name in enumerate(classes)}


def confusion(truth: np.ndarray, guess: np.ndarray, classes: int) -> np.ndarray:
    """Counts (K, K): row = the true class, column = what it was taken for."""
    truth, guess = _alike(truth, guess)
    both = np.concatenate([truth, guess])
    if len(both) and not 0 <= both.min() <= both.max() < classes:
        raise KakusanError(f"labels run from {both.min()} to {both.max()}: {classes} classes have 0 to {classes - 1}")
    return np.bincount(truth * classes + guess, minlength=classes * classes).reshape(classes, classes)


def mistaken(table: np.ndarray, classes: Sequence[str], most: int = 5) -> list[tuple[str, str, float]]:
    """The commonest mistakes of a confusion table: (true class, taken for, share of the true class), worst first."""
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    np.fill_diagonal(share, 0)
    order = np.argsort(-share, axis=None, kind="stable")[:most]
    rows, columns = np.unravel_index(order, share.shape)
    return [(classes[i], classes[j], float(share[i, j])) for i, j in zip(rows, columns) if share[i, j] > 0]


def _alike(truth: np.ndarray, guess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    truth, guess = np.asarray(truth), np.asarray(guess)
    if truth.ndim != 1 or truth.shape != guess.shape:
        raise KakusanError(f"labels of shape {truth.shape} and {guess.shape}: two lists of one length are needed")
    return truth.astype(np.int64), guess.astype(np.int64)
