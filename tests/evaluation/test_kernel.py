"""The kernel distance: its formula, its blocks, no bias, intervals that hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from kakusan.evaluation import kernel
from kakusan.evaluation.kernel import kernel_distance, kernel_distance_interval


def plainly(a: np.ndarray, b: np.ndarray) -> float:
    """The published sums, one pair at a time."""

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    n, m = len(a), len(b)
    within = sum(k(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    other = sum(k(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within + other - 2 * sum(k(x, y) for x in a for y in b) / (n * m)


def test_the_formula_whatever_the_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((17, 6)), rng.standard_normal((23, 6)) + 0.4
    assert kernel_distance(a, b) == pytest.approx(plainly(a, b), rel=1e-12)
    monkeypatch.setattr(kernel, "ROWS", 5)
    assert kernel_distance(a, b) == pytest.approx(plainly(a, b), rel=1e-12)
    assert kernel_distance_interval(a, b, rounds=3).value == pytest.approx(plainly(a, b), rel=1e-12)


def test_counts_stand_for_resampled_sets():
    """Drawing rows is counting them, when pairs of a row with its own copy are left out."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((9, 4)), rng.standard_normal((8, 4))
    i, j = rng.integers(0, 9, 9), rng.integers(0, 8, 8)

    def within(x: np.ndarray, drawn: np.ndarray) -> float:
        k = (x @ x.T / 4 + 1) ** 3
        pairs = [(p, q) for p in drawn for q in drawn if p != q]
        return float(np.mean([k[p, q] for p, q in pairs]))

    cross = np.mean((a[i] @ b[j].T / 4 + 1) ** 3)
    counts = [np.bincount(i, minlength=9)[:, None].astype(float), np.bincount(j, minlength=8)[:, None].astype(float)]
    found = kernel._distances(a, b, *counts)[0]
    assert found == pytest.approx(within(a, i) + within(b, j) - 2 * cross, rel=1e-10)


def test_between_equal_sets_it_is_0_on_average_and_within_its_interval():
    rng = np.random.default_rng(2)
    found = [kernel_distance_interval(*rng.standard_normal((2, 50, 16)), rounds=100) for _ in range(60)]
    values = np.array([f.value for f in found])
    assert abs(values.mean()) < 3 * values.std() / 60**0.5 and values.min() < 0
    assert sum(f.low <= 0 <= f.high for f in found) >= 56


def test_the_interval_of_different_sets_holds_what_many_samples_give():
    rng = np.random.default_rng(3)
    truth = kernel_distance(rng.standard_normal((3000, 16)), rng.standard_normal((3000, 16)) * 1.2 + 0.3)
    pairs = [(rng.standard_normal((120, 16)), rng.standard_normal((80, 16)) * 1.2 + 0.3) for _ in range(40)]
    found = [kernel_distance_interval(a, b, rounds=100) for a, b in pairs]
    assert sum(f.low <= truth <= f.high for f in found) >= 34 and min(f.low for f in found) > 0


def test_subsets_are_drawn_by_the_seed():
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((60, 8)), rng.standard_normal((50, 8)) + 1
    some = [kernel_distance(a, b, subsets=5, size=20, seed=s) for s in (0, 0, 1)]
    assert some[0] == some[1] != some[2] and some[0] == pytest.approx(kernel_distance(a, b), rel=0.3)
