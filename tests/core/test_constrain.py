"""Constraints against conditional distributions that are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kakusan.core.constrain import energy, inpaint, linear
from kakusan.core.grid import Karras, resample
from kakusan.core.process import VE, VP, Flow
from kakusan.core.rng import Rng
from kakusan.core.sample import run, sample, start
from kakusan.core.solver import DPM2M, Heun
from kakusan.core.space import Flat

MEAN = torch.tensor([0.3, -0.4], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.5, 0.35], [0.35, 0.4]], dtype=torch.float64)


def normal(process, mean: Tensor = MEAN, covariance: Tensor = COVARIANCE):
    """The exact denoiser of N(mean, covariance) over (B, D, N), N points a sample."""

    def denoise(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        alpha, sigma = process.scales(t)
        away = x - alpha * mean[:, None]
        total = alpha**2 * covariance + sigma**2 * torch.eye(len(mean), dtype=torch.float64)
        return mean[:, None] + alpha * covariance @ torch.linalg.solve(total, away)

    return denoise


def drawn(f, process, times: Tensor, solver, dims: int = 2, points: int = 4000, seeds: int = 4) -> Tensor:
    rng, shapes = Rng(list(range(seeds))), [(dims, points)] * seeds
    x = start(times, process, Flat(), shapes, rng).double()
    return run(sample(f, x, times, solver, process, Flat(), rng)).movedim(1, -1).reshape(-1, dims)


@pytest.mark.parametrize("process", [VP("cosine"), VE(), Flow()], ids=lambda p: p.kind)
def test_linear_gives_the_exact_posterior_of_an_isotropic_gaussian(process):
    """y = x_1 + 2 x_2 + N(0, 0.3^2) of N(m, 0.6^2 I): PiGDM with the right r^2 is exact there."""
    weights, noise, spread, y = torch.tensor([1.0, 2.0]).double(), 0.3, 0.36, 0.9
    f = linear(
        normal(process, MEAN, spread * torch.eye(2).double()),
        torch.full((4, 1, 4000), y, dtype=torch.float64),
        lambda x0: (weights[:, None] * x0).sum(1, keepdim=True),
        process,
        noise,
        lambda k: spread * k**2 / (spread + k**2),
    )
    x = drawn(f, process, Karras().times(60, process), Heun())
    gain = spread * weights / (spread * weights @ weights + noise**2)
    mean = MEAN + gain * (y - weights @ MEAN)
    covariance = spread * (torch.eye(2).double() - torch.outer(gain, weights))
    torch.testing.assert_close(x.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(torch.cov(x.T), covariance, atol=0.02 * spread, rtol=0.02)


def test_linear_without_noise_meets_its_measurement():
    process = VP("cosine")
    y = torch.tensor([[[0.25]], [[1.0]]], dtype=torch.float64)
    f = linear(normal(process), y, lambda x0: x0.mean((1, 2), keepdim=True), process, noise=1e-3)
    x = run(
        sample(f, torch.randn(2, 2, 16).double(), Karras().times(40, process), DPM2M(), process, Flat(), Rng([0, 1]))
    )
    torch.testing.assert_close(x.mean((1, 2), keepdim=True), y, atol=5e-3, rtol=0)


def test_linear_at_pure_noise_leaves_the_estimate_alone():
    process = Flow()
    f = normal(process)
    x, one = torch.randn(1, 2, 3).double(), torch.tensor(1.0, dtype=torch.float64)
    assert torch.equal(linear(f, x[:, :1], lambda v: v[:, :1], process)(x, one, one), f(x, one, one))
    assert torch.equal(energy(f, lambda v: v.flatten(1).sum(1), process)(x, one, one), f(x, one, one))


def test_constraints_leave_no_graph():
    process, t = VP("cosine"), torch.tensor(0.5, dtype=torch.float64)
    x = torch.randn(1, 2, 3).double()
    with torch.no_grad():
        for f in (
            linear(normal(process), x[:, :1], lambda v: v[:, :1], process),
            energy(normal(process), lambda v: v.square().flatten(1).sum(1), process),
        ):
            assert not f(x, t, t).requires_grad


def test_inpaint_keeps_what_is_known_to_the_digit():
    process = VP("cosine")
    known, keep = torch.randn(4, 2, 10).double(), torch.zeros(1, 2, 1).double()
    keep[:, 0] = 1
    x = run(
        sample(
            inpaint(normal(process), known, keep),
            torch.randn(4, 2, 10).double(),
            Karras().times(10, process),
            DPM2M(),
            process,
            Flat(),
            Rng([0, 1, 2, 3]),
        )
    )
    assert torch.equal(x[:, 0], known[:, 0])


def test_inpaint_with_resampling_approaches_the_conditional():
    """x_2 given x_1 = 1: mean -0.4 + 0.35/0.5 0.7, variance 0.4 - 0.35^2/0.5; replacing alone is biased."""
    process = VP("cosine")
    known = torch.ones(4, 2, 500, dtype=torch.float64)
    f = inpaint(normal(process), known, torch.tensor([1.0, 0.0]).double()[:, None])
    times = Karras().times(40, process)
    mean, variance = -0.4 + 0.35 / 0.5 * 0.7, 0.4 - 0.35**2 / 0.5
    plain = drawn(f, process, times, Heun(), points=500)[:, 1]
    again = drawn(f, process, resample(times, 40), Heun(), points=500)[:, 1]
    assert abs(float(again.mean()) - mean) < 0.03
    assert abs(float(again.var()) / variance - 1) < 0.1
    assert abs(float(again.mean()) - mean) < abs(float(plain.mean()) - mean)


@pytest.mark.parametrize("process", [VP("cosine"), VE(), Flow()], ids=lambda p: p.kind)
def test_a_weak_quadratic_energy_tilts_a_gaussian(process):
    """p(x) exp(-w |x - c|^2/2) of N(m, v): mean m - w v (m - c), variance v - w v^2, both to first order in w."""
    v, w, c = 0.36, 0.1, 1.5
    f = energy(
        normal(process, MEAN, v * torch.eye(2).double()),
        lambda x0: 0.5 * (x0 - c).square().flatten(1).sum(1),
        process,
        w,
    )
    times = Karras().times(60, process)
    x = drawn(f, process, times, Heun())
    mean = (MEAN / v + w * c) / (1 / v + w)
    torch.testing.assert_close(x.mean(0), mean, atol=0.015, rtol=0)
    assert float(x.var(0).mean()) == pytest.approx(1 / (1 / v + w), rel=0.02)


def test_energy_is_its_formula():
    """x0 - w (sigma^2/alpha) J^T grad E, J known for a Gaussian."""
    process, t = VP("cosine"), torch.tensor(0.4, dtype=torch.float64)
    f, x = normal(process), torch.randn(3, 2, 1).double()
    alpha, sigma = process.scales(t)
    total = alpha**2 * COVARIANCE + sigma**2 * torch.eye(2, dtype=torch.float64)
    jacobian = alpha * COVARIANCE @ torch.linalg.inv(total)
    x0 = f(x, t, t)
    expected = x0 - 0.7 * sigma**2 / alpha * (jacobian.T @ (2 * x0))
    got = energy(f, lambda v: v.square().flatten(1).sum(1), process, 0.7)(x, t, t)
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=1e-10)
