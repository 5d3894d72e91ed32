"""Spaces: what their noise, projection and error are."""

from __future__ import annotations

import math

import pytest
import torch

from kakusan.core.rng import Rng
from kakusan.core.space import Centred, Flat, Sphere
from kakusan.part import KakusanError


def seeds(n: int) -> Rng:
    return Rng(list(range(n)))


def test_flat_masks_error_and_padding():
    space, mask = Flat(), torch.tensor([[True, True, True], [True, False, False]])
    x = torch.ones(2, 4, 3)
    x[1, :, 1:] = 99
    assert space.shapes(x, mask) == [(4, 3), (4, 1)]
    assert space.shapes(x) == [(4, 3), (4, 3)]
    assert space.mse(x, mask).tolist() == [1.0, 1.0]
    assert not space.project(x, mask)[1, :, 1:].any()
    assert space.project(x) is x
    eps = space.noise(space.shapes(x, mask), seeds(2), "eps")
    assert eps.shape == x.shape
    assert torch.equal(space.project(eps, mask), eps)


def test_flat_shapes_of_planes():
    mask = torch.zeros(1, 4, 5, dtype=torch.bool)
    mask[:, :2, :3] = True
    assert Flat().shapes(torch.zeros(1, 1, 4, 5), mask) == [(1, 2, 3)]


def test_centred_noise_has_no_centre_of_mass_and_the_right_covariance():
    space, n, count = Centred(3), 4, 20_000
    eps = space.noise([(n, 5)] * count, seeds(count), "eps").double()
    assert float(eps[..., :3].mean(1).abs().max()) < 1e-6
    expected = torch.eye(n) - 1 / n  # the projector that removes the mean
    for axis in range(3):
        points = eps[..., axis]
        torch.testing.assert_close(points.T @ points / count, expected.double(), atol=0.03, rtol=0)
    free = eps[..., 3]
    torch.testing.assert_close(free.T @ free / count, torch.eye(n).double(), atol=0.03, rtol=0)


def test_centred_handles_sets_of_different_sizes():
    space, mask = Centred(2), torch.tensor([[True] * 4, [True, True, False, False]])
    x = torch.randn(2, 4, 3)
    eps = space.noise(space.shapes(x, mask), seeds(2), "eps")
    alone = space.noise([(2, 3)], Rng([1]), "eps")
    assert not eps[1, 2:].any()
    torch.testing.assert_close(eps[1:, :2], alone, atol=1e-6, rtol=0)
    projected = space.project(x, mask)
    assert float(projected[1, :2, :2].mean(0).abs().max()) < 1e-6
    assert not projected[1, 2:].any()
    torch.testing.assert_close(space.project(projected, mask), projected)
    error = torch.ones(2, 4, 3) * torch.tensor([1.0, 2.0])[:, None, None]
    assert space.mse(error * mask[..., None], mask).tolist() == [1.0, 4.0]


def test_sphere_noise_has_unit_variance_and_is_isotropic():
    """The covariance of two points depends on their angle alone: sum_l (2l+1) P_l(cos angle) / (L+1)^2."""
    space = Sphere(12, 24, degree=5)
    torch.testing.assert_close(space.basis.square().sum(1), torch.ones(288, dtype=torch.float64))
    covariance = space.basis @ space.basis.T
    latitude = math.pi / 2 - (torch.arange(12).double() + 0.5) * math.pi / 12
    longitude = torch.arange(24).double() * 2 * math.pi / 24
    at = torch.stack(
        [
            latitude.cos()[:, None] * longitude.cos(),
            latitude.cos()[:, None] * longitude.sin(),
            latitude.sin()[:, None].expand(12, 24),
        ],
        -1,
    ).reshape(-1, 3)
    cosine = at @ at.T
    legendre, before, expected = cosine, torch.ones_like(cosine), torch.ones_like(cosine)
    for degree in range(1, 6):
        expected = expected + (2 * degree + 1) * legendre
        legendre, before = ((2 * degree + 1) * cosine * legendre - degree * before) / (degree + 1), legendre
    torch.testing.assert_close(covariance, expected / 36, atol=1e-12, rtol=0)


def test_sphere_draws_follow_their_covariance():
    space = Sphere(6, 12, degree=2)
    draws = space.noise([(1, 6, 12)] * 8000, seeds(8000), "eps").flatten(1).double()
    torch.testing.assert_close(draws.T @ draws / 8000, space.basis @ space.basis.T, atol=0.07, rtol=0)


def test_sphere_weighs_errors_by_area():
    space = Sphere(18, 36, degree=3)
    one = torch.ones(1, 2, 18, 36)
    torch.testing.assert_close(space.mse(one), torch.ones(1))
    pole, equator = torch.zeros(2, 1, 1, 18, 36)
    pole[..., 0, 0] = equator[..., 9, 0] = 1
    ratio = float(space.mse(pole) / space.mse(equator))
    assert ratio == pytest.approx(math.cos(math.radians(85)) / math.cos(math.radians(5)), rel=1e-5)
    mask = torch.zeros(1, 18, 36, dtype=torch.bool)
    mask[:, :3] = True  # near the pole only: still the mean over what is real
    torch.testing.assert_close(space.mse(one, mask), torch.ones(1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Centred(0),
        lambda: Sphere(4, 8, degree=4),
        lambda: Sphere(1, 8, degree=1),
        lambda: Sphere(8, 16, 3).noise([(1, 8, 8)], Rng([0]), "eps"),
        lambda: Sphere(10**5, 2 * 10**5, 1000),
    ],
)
def test_bad_arguments_are_refused(make):
    with pytest.raises(KakusanError):
        make()


def test_an_empty_mask_gives_no_error_rather_than_nan():
    assert Flat().mse(torch.ones(1, 1, 3), torch.zeros(1, 3, dtype=torch.bool)).tolist() == [0.0]
