"""Variety: analytic values, and that collapse, also inside classes, is told from blur."""

from __future__ import annotations

import numpy as np
import pytest

from kakusan.evaluation.variety import coarse, within


def test_the_variance_about_each_groups_mean_is_the_known_one():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(4, 6)) * 100
    groups = np.repeat(list("abcd"), 5000)
    x = np.repeat(means, 5000, 0) + rng.normal(size=(20000, 6)) * [1, 2, 3, 1, 1, 2]
    assert within(x, groups) == pytest.approx(1 + 4 + 9 + 1 + 1 + 4, rel=0.03)
    assert within(x) > 1000 * within(x, groups) / 20
    assert within(np.repeat(means, 50, 0), np.repeat(list("abcd"), 50)) < 1e-20
    assert within(x[:1]) == 0 and within(x[:3], ["a", "b", "c"]) == 0
    assert within(x[:50], ["a"] * 50) == pytest.approx(x[:50].var(0, ddof=1).sum())


@pytest.mark.parametrize("shape", [(28, 28, 1), (30, 21, 3), (5, 64, 4), (8, 8, 1)])
def test_coarse_pictures_are_block_means(shape):
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 256, (6, *shape), np.uint8)
    made = coarse(pictures)
    assert made.shape == (6, min(8, shape[0]) * min(8, shape[1]) * shape[2])
    assert made.min() >= 0 and made.max() <= 1
    assert np.array_equal(coarse(pictures[3:4])[0], made[3])
    flat = np.full((1, *shape), 102, np.uint8)
    assert np.allclose(coarse(flat), 0.4) and np.allclose(coarse(flat.astype(np.uint16) * 257), 0.4)
    if shape[0] % 8 == 0 and shape[1] % 8 == 0 and shape[0] > 8:
        assert made.mean() == pytest.approx(pictures.mean() / 255)


def test_blur_leaves_coarse_variety_and_collapse_does_not():
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:32, :32]
    centres = rng.uniform(8, 24, (200, 2))
    discs = (np.hypot(y - centres[:, :1, None], x - centres[:, 1:, None]) < 6)[..., None].astype(float)
    kernel = np.ones(7) / 7
    blurred = discs
    for axis in (1, 2):
        blurred = np.apply_along_axis(lambda row: np.convolve(row, kernel, "same"), axis, blurred)
    real, soft = ((255 * a).astype(np.uint8) for a in (discs, blurred))
    assert within(coarse(soft)) > 0.5 * within(coarse(real))
    same = np.repeat(real[:1], 200, 0)
    assert within(coarse(same)) < 1e-20
