"""Precision, recall, density and coverage: the definitions, what each of them notices, and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from kakusan.evaluation.manifold import Neighbourhoods, density_coverage, precision_recall
from kakusan.part import KakusanError


def plainly(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    """The definitions, by sorting all distances."""

    def radius(x: np.ndarray) -> np.ndarray:
        return np.sort(np.linalg.norm(x[:, None] - x[None], axis=2), 1)[:, k]  # the first is the sample itself

    d = np.linalg.norm(fake[:, None] - real[None], axis=2)
    in_real, in_fake = d <= radius(real), d <= radius(fake)[:, None]
    return {
        "precision": in_real.any(1).mean(),
        "recall": in_fake.any(0).mean(),
        "density": in_real.sum() / (k * len(fake)),
        "coverage": (d.min(0) <= radius(real)).mean(),
    }


def modes(rng: np.random.Generator, n: int, count: int = 4, spread: float = 1.0) -> np.ndarray:
    """Draws from ``count`` clusters in 8 dimensions."""
    centres = 8 * np.eye(8)
    return centres[rng.integers(0, count, n)] + spread * rng.standard_normal((n, 8))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_definitions(k):
    rng = np.random.default_rng(k)
    real, fake = rng.standard_normal((60, 3)), 1.3 * rng.standard_normal((40, 3)) + 0.5
    found = Neighbourhoods(real, fake, k).values()
    assert found == pytest.approx(plainly(real, fake, k), rel=1e-12)
    assert precision_recall(real, fake, k) == (found["precision"], found["recall"])
    assert density_coverage(real, fake, k) == (found["density"], found["coverage"])


def test_samples_left_out_are_as_if_they_had_never_been():
    rng = np.random.default_rng(0)
    real, fake = rng.standard_normal((50, 3)), rng.standard_normal((40, 3)) + 0.3
    alive, living = np.arange(50) % 10 != 3, np.arange(40) % 10 != 7
    found = Neighbourhoods(real, fake, 3)
    assert found.values(alive, None) == pytest.approx(plainly(real[alive], fake, 3))
    assert found.values(None, living) == pytest.approx(plainly(real, fake[living], 3))


def test_a_dropped_mode_lowers_recall_and_coverage_and_not_precision():
    rng = np.random.default_rng(1)
    real = modes(rng, 600)
    whole = Neighbourhoods(real, modes(rng, 300)).figures()
    dropped = Neighbourhoods(real, modes(rng, 300, count=3)).figures()
    assert dropped["recall"].high < whole["recall"].low and dropped["coverage"].high < whole["coverage"].low
    assert dropped["recall"].value == pytest.approx(0.75 * whole["recall"].value, abs=0.08)
    assert abs(dropped["precision"].value - whole["precision"].value) < 0.05


def test_noise_lowers_precision_first():
    """While it grows, precision has left its interval when recall is still in its own."""
    rng = np.random.default_rng(2)
    real = modes(rng, 600)
    start = Neighbourhoods(real, modes(rng, 300)).figures()
    noisy = Neighbourhoods(real, modes(rng, 300, spread=1.4)).figures()
    assert noisy["precision"].high < start["precision"].low and noisy["density"].high < start["density"].low
    assert noisy["recall"].value > start["recall"].low
    assert noisy["precision"].value < 0.8 * start["precision"].value


def test_a_collapsed_model_is_precise_and_recalls_nothing():
    rng = np.random.default_rng(3)
    real = modes(rng, 400)
    precision, recall = precision_recall(real, np.repeat(real[:1], 100, 0) + 0.01 * rng.standard_normal((100, 8)))
    assert precision == 1 and recall < 0.05


def test_the_intervals_are_as_wide_as_other_draws_differ():
    rng = np.random.default_rng(4)
    found = [Neighbourhoods(modes(rng, 200), modes(rng, 100, 3, 1.3)).figures(seed=i) for i in range(40)]
    for name in found[0]:
        mean = np.mean([f[name].value for f in found])
        assert sum(f[name].low <= mean <= f[name].high for f in found) >= 34, name
        half = np.mean([f[name].high - f[name].low for f in found]) / 2
        assert half < 2.5 * 1.96 * np.std([f[name].value for f in found]), name


def test_too_few_samples_for_the_neighbours():
    with pytest.raises(KakusanError, match="only 5 pictures: this figure needs at least 6"):
        precision_recall(np.zeros((50, 2)), np.zeros((5, 2)))
    with pytest.raises(KakusanError, match="k = 0"):
        precision_recall(np.zeros((50, 2)), np.zeros((50, 2)), k=0)
