"""Resampling: counts, thinned sets, quantiles, and the jackknife of a figure whose error is known."""

from __future__ import annotations

import numpy as np
import pytest

from kakusan.evaluation.distances import LEAST, measure
from kakusan.evaluation.figure import Figure
from kakusan.evaluation.intervals import bootstrap_counts, interval, percentiles, student, thinned, thinned_error
from kakusan.part import KakusanError


@pytest.mark.parametrize("groups, quantile", [(5, 2.7764), (10, 2.2622), (20, 2.0930), (100, 1.9842)])
def test_students_quantile_is_the_tables(groups, quantile):
    assert student(groups) == pytest.approx(quantile, rel=3e-3)


def test_counts_are_those_of_drawing_with_repeats():
    counts = bootstrap_counts(50, 400, np.random.default_rng(0))
    assert counts.shape == (50, 400) and (counts.sum(0) == 50).all()
    assert counts.var() == pytest.approx(1 - 1 / 50, rel=0.05)
    assert percentiles(np.arange(1001.0)) == pytest.approx((25, 975))


def test_half_is_left_out_at_random():
    masks = thinned(41, 500, np.random.default_rng(0))
    assert (masks.sum(1) == 21).all() and masks.mean(0) == pytest.approx(np.full(41, 21 / 41), abs=0.1)
    with pytest.raises(KakusanError, match="only 7 pictures"):
        thinned(7, 5, np.random.default_rng(0))


def test_the_error_of_a_mean_is_its_standard_error():
    x = np.random.default_rng(1).standard_normal(200)
    values = np.array([x[alive].mean() for alive in thinned(200, 4000, np.random.default_rng(2))])
    assert thinned_error(values, 200) == pytest.approx(x.std(ddof=1) / 200**0.5, rel=0.05)


def test_the_interval_of_any_figure():
    """A difference of means: known error, both sets counted."""
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((400, 1)), 2 * rng.standard_normal((100, 1)) + 5
    found = interval(lambda x, y: float(y.mean() - x.mean()), a, b, rounds=200)
    assert found.low <= 5 <= found.high
    assert (found.high - found.low) / 2 / student(200) == pytest.approx(np.hypot(1 / 20, 2 / 10), rel=0.2)


def test_all_figures_at_once():
    rng = np.random.default_rng(3)
    real, fake = rng.standard_normal((120, 10)), rng.standard_normal((60, 10))
    found = measure(real, fake, seed=1)
    assert all(f.low <= f.value <= f.high for f in found.values()) and len(found) == 8
    assert found == measure(real, fake, seed=1)
    assert found["frechet_infinity"].low <= 0 <= found["frechet_infinity"].high < found["frechet"].high
    assert str(Figure(1.23456, 1, 2, "")) == "1.235 (1 to 2)"
    with pytest.raises(KakusanError, match=f"only 19 pictures: this figure needs at least {LEAST}"):
        measure(real, fake[:19])
