"""The Fréchet distance: closed forms, its bias removed, and intervals that hold what they say."""

from __future__ import annotations

import numpy as np
import pytest

from kakusan.evaluation.frechet import (
    _influenced,
    frechet,
    frechet_infinity,
    frechet_infinity_interval,
    frechet_interval,
)
from kakusan.part import KakusanError

SPECTRUM = 1 / np.sqrt(1 + np.arange(48))  # features' spread falls off, as real ones' does


def exact(n: int, dim: int, seed: int = 0) -> np.ndarray:
    """Rows whose mean is 0 and whose covariance is the identity, exactly."""
    x = np.random.default_rng(seed).standard_normal((n, dim))
    q, _ = np.linalg.qr(x - x.mean(0))
    return q * np.sqrt(n - 1)


def drawn(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((n, len(SPECTRUM))) * SPECTRUM


def test_a_shift_gives_its_square_and_a_scale_the_closed_form():
    x, mu = exact(200, 12), np.linspace(-1, 2, 12)
    assert frechet(x, x + mu) == pytest.approx((mu**2).sum(), rel=1e-10)
    assert frechet(x, 1.5 * exact(300, 12, 1)) == pytest.approx(12 * 0.25, rel=1e-10)
    scale = np.linspace(0.2, 3, 12)
    assert frechet(x, exact(300, 12, 2) * scale + mu) == pytest.approx((mu**2).sum() + ((1 - scale) ** 2).sum())


@pytest.mark.parametrize("n, m", [(40, 60), (60, 40), (10, 60), (60, 10), (10, 14)])
def test_every_way_of_computing_agrees_with_the_plain_formula(n, m):
    """More or fewer samples than features, on either side: 20 features."""
    rng = np.random.default_rng(n)
    a, b = rng.standard_normal((n, 20)), rng.standard_normal((m, 20)) @ rng.standard_normal((20, 20)) / 4 + 0.3
    product = np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(product).real.clip(1e-12)).sum()
    traces = np.cov(a, rowvar=False).trace() + np.cov(b, rowvar=False).trace()
    plain = ((a.mean(0) - b.mean(0)) ** 2).sum() + traces - 2 * roots
    assert frechet(a, b) == pytest.approx(plain, rel=1e-4 if min(n, m) < 20 else 1e-9)
    # of a singular covariance the roots of what rounding leaves count, and machines round differently
    same = 1e-7 if min(n, m) <= 20 else 1e-9
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=same)
    assert frechet_interval(a, b).value == pytest.approx(frechet(a, b), rel=same)
    assert frechet(a, a) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("n, m", [(12, 40), (30, 50), (50, 30), (12, 14)])
def test_influences_are_the_derivatives_in_the_samples_weights(n, m):
    """Against finite differences of the distance between weighted Gaussians."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((n, 20)), rng.standard_normal((m, 20)) * 1.4 + 0.5

    def weighted(w: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mu = w @ x / w.sum()
        return mu, (x - mu).T @ ((x - mu) * (w / w.sum())[:, None]) * len(x) / (len(x) - 1)

    def distance(u: np.ndarray, v: np.ndarray) -> float:
        (mu, s), (nu, t) = weighted(u, a), weighted(v, b)
        values, vectors = np.linalg.eigh(s)
        root = vectors * np.sqrt(values.clip(0))
        inner = np.linalg.eigvalsh(root.T @ t @ root).clip(0)
        return float(((mu - nu) ** 2).sum() + s.trace() + t.trace() - 2 * np.sqrt(inner).sum())

    found, step = _influenced(a, b), 1e-4
    for i in (0, 5):
        for which, influence in ((0, found.a), (1, found.b)):
            ends = []
            for sign in (1, -1):
                weights = [np.full(n, 1 / n), np.full(m, 1 / m)]
                weights[which][i] += sign * step / len(weights[which])
                ends.append(distance(*weights))
            numeric = (ends[0] - ends[1]) / (2 * step) * len(influence)
            assert influence[i] == pytest.approx(numeric, rel=2e-3, abs=2e-3)


def test_halves_of_the_same_data_are_at_distance_0_within_the_interval():
    """The published figure is far from 0 with so few pictures, the extrapolated one is not, in 95% of draws."""
    rng, hits = np.random.default_rng(2), 0
    for _ in range(40):
        x = drawn(160, rng)
        found = frechet_infinity_interval(x[:80], x[80:])
        hits += found.low <= 0 <= found.high
        assert frechet_interval(x[:80], x[80:]).low > 0
    assert hits >= 36


def test_a_known_shift_is_found_without_the_bias():
    rng, shift = np.random.default_rng(3), np.full(48, 0.15)
    truth = float((shift**2).sum())
    found = [frechet_infinity_interval(drawn(200, rng), drawn(60, rng) + shift) for _ in range(30)]
    assert sum(f.low <= truth <= f.high for f in found) >= 27
    assert np.mean([f.value for f in found]) == pytest.approx(truth, abs=0.1)
    plain = np.mean([frechet(drawn(200, rng), drawn(60, rng) + shift) for _ in range(5)])
    assert plain > 1.5 * truth


def test_the_interval_is_as_wide_as_other_draws_differ():
    rng = np.random.default_rng(4)
    found = [frechet_interval(drawn(150, rng), 1.3 * drawn(60, rng)) for _ in range(60)]
    spread, half = np.std([f.value for f in found]), np.mean([f.high - f.low for f in found]) / 2
    assert 0.85 < half / (1.96 * spread) < 1.6


def test_few_real_pictures_and_many_drawn_ones():
    """Drawn ones are compared in groups of as many as there are real ones to measure the error with."""
    rng = np.random.default_rng(5)
    found = frechet_infinity_interval(drawn(40, rng), drawn(300, rng))
    assert found.low <= 0 <= found.high and found.value == frechet_infinity(*_again(5))


def _again(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return drawn(40, rng), drawn(300, rng)


@pytest.mark.parametrize(
    "a, b, said",
    [
        (np.zeros((1, 4)), np.zeros((5, 4)), "only 1 pictures: this figure needs at least 2"),
        (np.zeros((5, 4)), np.zeros((5, 3)), "4 and 3 numbers"),
        (np.zeros(5), np.zeros((5, 3)), "shape"),
        (np.full((5, 4), np.nan), np.zeros((5, 4)), "not finite"),
    ],
)
def test_sets_that_can_not_be_compared(a, b, said):
    with pytest.raises(KakusanError, match=said):
        frechet(a, b)
    with pytest.raises(KakusanError):
        frechet_infinity(a, b)
