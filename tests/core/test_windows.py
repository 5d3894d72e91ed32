"""Windows: one denoiser over something larger; operators: linear, and what they say they are."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from kakusan.core.operators import blurred, grey, pooled
from kakusan.core.windows import places, windows
from kakusan.part import KakusanError

T = torch.tensor(0.5, dtype=torch.float64)


@pytest.mark.parametrize(("total", "size", "stride"), [(8, 8, 4), (9, 8, 4), (28, 8, 4), (31, 8, 3), (40, 28, 14)])
def test_places_cover_everything_and_lie_at_most_a_stride_apart(total, size, stride):
    found = places(total, size, stride)
    assert found[0] == 0 and found[-1] == total - size
    assert all(0 < b - a <= stride + 1 for a, b in pairwise(found))


def test_one_window_is_the_denoiser_itself():
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(windows(lambda x, t, s: 3 * x, (8, 8))(x, T, T), 3 * x)


def test_windows_of_a_pointwise_denoiser_are_the_denoiser_on_the_whole():
    x = torch.randn(2, 3, 19, 23, dtype=torch.float64)
    got = windows(lambda x, t, s: torch.tanh(x), (8, 6))(x, T, T)
    torch.testing.assert_close(got, torch.tanh(x), atol=1e-12, rtol=0)


def test_a_window_says_less_towards_its_border():
    """Two windows that contradict each other, 0 and 1: where they overlap the mean rises steadily."""
    answers = iter([0.0, 1.0])
    got = windows(lambda x, t, s: torch.full_like(x, next(answers)), (1, 8))(torch.zeros(1, 1, 1, 12), T, T)
    row = got.flatten()
    assert torch.equal(row[:4], torch.zeros(4)) and torch.equal(row[8:], torch.ones(4))
    assert bool((row[4:8].diff() > 0).all())


def test_windows_are_differentiable():
    x = torch.randn(1, 1, 12, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: windows(lambda x, t, s: x**2, (8, 8))(x, T, T), x)


def test_windows_larger_than_the_picture_are_refused():
    with pytest.raises(KakusanError, match="does not fit"):
        windows(lambda x, t, s: x, (8, 8))(torch.zeros(1, 1, 4, 9), T, T)
    with pytest.raises(KakusanError, match="overlap=1"):
        windows(lambda x, t, s: x, (8, 8), overlap=1)


@pytest.mark.parametrize("apply", [pooled(2), blurred(1.3), grey], ids=["pooled", "blurred", "grey"])
def test_operators_are_linear_and_keep_what_is_even(apply):
    a, b = torch.randn(2, 1, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(apply(2 * a - 3 * b), 2 * apply(a) - 3 * apply(b), atol=1e-12, rtol=0)
    even = apply(torch.full((1, 3, 8, 8), 0.7, dtype=torch.float64))
    torch.testing.assert_close(even, torch.full_like(even, 0.7), atol=1e-12, rtol=0)


def test_a_blur_has_the_variance_it_is_asked_for():
    point = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    point[..., 20, 20] = 1
    row = blurred(2.0)(point).sum(2).flatten()
    away = torch.arange(-20, 21).double()
    assert float((row * away).sum()) == pytest.approx(0, abs=1e-12)
    assert float((row * away**2).sum()) == pytest.approx(4, rel=0.03)  # cut at three standard deviations


def test_operators_refuse_nonsense():
    with pytest.raises(KakusanError, match="factor=0"):
        pooled(0)
    with pytest.raises(KakusanError, match="spread=0"):
        blurred(0.0)


def test_a_condition_that_lies_on_the_picture_is_cut_with_it():
    x, field = torch.randn(2, 1, 19, 23), torch.randn(2, 1, 19, 23)
    got = windows(lambda x, t, s: x, (8, 6), at=lambda where: lambda x, t, s: x * field[(..., *where)])(x, T, T)
    torch.testing.assert_close(got, x * field)
