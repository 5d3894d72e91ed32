"""The two-sample classifier: 0.5 for equal sets, 1 for sets apart, an interval that holds the truth."""

from __future__ import annotations

import numpy as np
import pytest

from kakusan.evaluation.twosample import two_sample, two_sample_interval
from kakusan.part import KakusanError


def test_equal_sets_are_told_by_chance_alone_even_with_more_features_than_samples():
    rng = np.random.default_rng(0)
    found = [two_sample_interval(*rng.standard_normal((2, 60, 150)), seed=i) for i in range(60)]
    assert sum(f.low <= 0.5 <= f.high for f in found) >= 53
    assert np.mean([f.value for f in found]) == pytest.approx(0.5, abs=0.03)


def test_sets_apart_are_told_and_the_nearer_the_less():
    rng = np.random.default_rng(1)
    found = [two_sample(rng.standard_normal((300, 20)), rng.standard_normal((200, 20)) + s) for s in (0.1, 0.3, 3.0)]
    assert 0.5 < found[0] < found[1] < found[2] == 1


def test_a_known_shift_gives_the_best_possible_accuracy():
    """Two Gaussians a distance d apart: Phi(d / 2), here of d = 2."""
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, 1200, 2))
    found = two_sample_interval(a, b + np.array([2, 0]))
    assert found.low <= 0.8413 <= found.high and found.high - found.low < 0.06


def test_features_that_never_vary_do_no_harm():
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 100, 5))
    a[:, 2] = b[:, 2] = 7
    assert two_sample(a, b + 5) == 1
    assert two_sample(np.ones((40, 3)), np.ones((40, 3))) == 0.5


def test_too_few():
    with pytest.raises(KakusanError, match="only 9 pictures"):
        two_sample(np.zeros((9, 3)), np.zeros((20, 3)))
