"""Posterior sampling against exact conditionals: Gaussians of any covariance, mixtures, every operator."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kakusan.core import operators
from kakusan.core.constrain import inpaint, posterior
from kakusan.core.grid import Karras, resample
from kakusan.core.process import VE, VP, Flow
from kakusan.core.rng import Rng
from kakusan.core.sample import run, sample, start
from kakusan.core.solver import DPM2M, Heun
from kakusan.core.space import Flat

SIDE = 4
PIXELS = SIDE * SIDE
PLACE = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)).double()
COVARIANCE = 0.25 * torch.exp(-torch.cdist(PLACE, PLACE).square() / 4) + 0.01 * torch.eye(PIXELS).double()
MEAN = torch.linspace(-0.4, 0.5, PIXELS).double()
KEEP = torch.ones(1, SIDE, SIDE).double()
KEEP[:, 1:3, 1:] = 0
OPERATORS = {
    "inpainting": (lambda x0: x0 * KEEP, 0.02),
    "x2": (operators.pooled(2), 0.02),
    "blur": (operators.blurred(1.0), 0.05),
    "noise": (lambda x0: x0, 0.3),
}


def gaussian(process):
    """The exact denoiser of smooth random pictures, N(MEAN, COVARIANCE) over (B, 1, 4, 4)."""

    def denoise(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        alpha, sigma = process.scales(t)
        total = alpha**2 * COVARIANCE + sigma**2 * torch.eye(PIXELS).double()
        away = (x.flatten(1) - alpha * MEAN) @ torch.linalg.inv(total) @ (alpha * COVARIANCE)
        return (MEAN + away).reshape(x.shape)

    return denoise


def matrix(apply) -> Tensor:
    """An operator as a matrix (M, PIXELS)."""
    return apply(torch.eye(PIXELS).double().reshape(PIXELS, 1, SIDE, SIDE)).flatten(1).T


def conditional(a: Tensor, noise: float, y: Tensor, prior: Tensor = COVARIANCE) -> tuple[Tensor, Tensor]:
    """Mean and covariance of N(MEAN, prior) given y = A x0 + N(0, noise^2)."""
    gain = prior @ a.T @ torch.linalg.inv(a @ prior @ a.T + noise**2 * torch.eye(len(a)).double())
    return MEAN + gain @ (y.flatten() - a @ MEAN), prior - gain @ a @ prior


def measured(apply) -> Tensor:
    x0 = MEAN + torch.linalg.cholesky(COVARIANCE) @ torch.linspace(-1, 1.2, PIXELS).double().sin()
    return apply(x0.reshape(1, 1, SIDE, SIDE))


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("process", [VP("cosine"), VE(), Flow()], ids=lambda p: p.kind)
def test_the_estimate_is_the_posterior_mean_given_both(process, name):
    """E[x0 | x_t, y] of a Gaussian, in closed form, at any noise level."""
    (apply, noise), a = OPERATORS[name], matrix(OPERATORS[name][0])
    y = measured(apply)
    for t in (0.2, 0.5, 0.8):
        t = torch.tensor(t, dtype=torch.float64)
        alpha, sigma = process.scales(t)
        x = torch.randn(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1)).double()
        both = torch.cat([a / noise, alpha / sigma * torch.eye(PIXELS).double()])
        seen = torch.cat([y.flatten() / noise, x.flatten() / sigma])
        expected = conditional(both, 1.0, seen)[0]
        got = posterior(gaussian(process), y, apply, process, noise, rounds=60)(x, t, t)
        torch.testing.assert_close(got.flatten(), expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("process", [VP("cosine"), VE(), Flow()], ids=lambda p: p.kind)
def test_samples_have_the_mean_and_covariance_of_the_exact_conditional(process, name):
    """To 2%, without any error of counting: on Gaussians sampling is an affine map of its noise, read off the axes."""
    (apply, noise), times = OPERATORS[name], Karras().times(48, process)
    noises = torch.cat([torch.zeros(1, PIXELS), torch.eye(PIXELS)]).double().reshape(-1, 1, SIDE, SIDE)
    x = process.scales(times[0])[1] * noises
    y = measured(apply)
    f = posterior(gaussian(process), y.expand(len(x), *y.shape[1:]), apply, process, noise, rounds=40)
    x = run(sample(f, x, times, Heun(), process, Flat(), Rng(range(len(x))))).flatten(1)
    mean, covariance = conditional(matrix(apply), noise, y)
    spread = covariance.diagonal().sqrt()
    made = (x[1:] - x[0]).T
    assert float(((x[0] - mean).abs() / COVARIANCE.diagonal().sqrt()).max()) < 0.02
    assert float(((made @ made.T).diagonal().sqrt() / spread - 1).abs().max()) < 0.02
    assert float((made @ made.T - covariance).abs().max()) < 0.02 * float(covariance.diagonal().max())


def test_few_rounds_of_conjugate_gradients_are_nearer_than_replacing():
    """At about 60 evaluations: 20 steps with 2 rounds, against RePaint's 3 repeats; the mean of what is unknown."""
    process, y = VP("cosine"), measured(lambda x0: x0)
    times, count = Karras(k_min=0.01).times(20, process), 200
    mean, _ = conditional(matrix(lambda x0: x0 * KEEP), 1e-3, y * KEEP)
    unknown = (KEEP == 0).flatten()
    away = {}
    for name, f, listed in (
        ("posterior", posterior(gaussian(process), y * KEEP, lambda x0: x0 * KEEP, process, 0.01, 2), times),
        ("replace", gaussian(process), resample(times, 3)),
    ):
        rng = Rng(range(count))
        x = start(listed, process, Flat(), [(1, SIDE, SIDE)] * count, rng).double()
        f = inpaint(f, y.expand_as(x), KEEP)
        made = run(sample(f, x, listed, DPM2M(), process, Flat(), rng)).flatten(1).mean(0)
        away[name] = float((made - mean)[unknown].square().mean().sqrt())
    assert away["posterior"] < 0.5 * away["replace"]


MEANS = torch.tensor([[-0.6, -0.7], [-0.4, 0.5], [0.5, 0.1], [0.6, 0.8]]).double()
SHARES, STD = torch.tensor([0.3, 0.3, 0.2, 0.2]).double(), 0.18


def mixture(process):
    def denoise(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        alpha, sigma = process.scales(t)
        total = (alpha * STD) ** 2 + sigma**2
        away = x[:, None] - alpha * MEANS
        share = torch.softmax(SHARES.log() - away.square().sum(-1) / (2 * total), 1)
        return (share[..., None] * (MEANS + alpha * STD**2 / total * away)).sum(1)

    return denoise


def far(x: Tensor, first: float) -> float:
    """Wasserstein distance of the second coordinate's samples to its exact distribution given the first."""
    share = torch.softmax(SHARES.log() - (first - MEANS[:, 0]).square() / (2 * STD**2), 0)
    grid = torch.linspace(-2, 2, 2001, dtype=torch.float64)
    exact = (share * 0.5 * (1 + torch.erf((grid[:, None] - MEANS[:, 1]) / (STD * 2**0.5)))).sum(1)
    return float((torch.searchsorted(x.sort().values, grid) / len(x) - exact).abs().mean() * 4)


@pytest.mark.parametrize("route", ["posterior", "replace"])
def test_on_a_mixture_the_error_falls_as_resampling_grows(route):
    """x_2 given x_1 = 0.05, which four modes share: a Gaussian about the estimate is wrong there, and mends."""
    process, count = VP("cosine"), 600
    keep, known = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.05, 0.0]).double().expand(count, 2)
    errors = []
    for repeats in (1, 2, 6):
        times = resample(Karras(k_min=0.01).times(16, process), repeats)
        f = mixture(process)
        if route == "posterior":
            f = posterior(f, known * keep, lambda x0: x0 * keep, process, 0.01, rounds=1)
        rng = Rng(range(count))
        x = start(times, process, Flat(), [(2,)] * count, rng).double()
        x = run(sample(inpaint(f, known, keep), x, times, DPM2M(), process, Flat(), rng))
        errors.append(far(x[:, 1], 0.05))
    assert errors[0] > 1.2 * errors[1] > 1.44 * errors[2], errors
    assert errors[2] < (0.06 if route == "posterior" else 0.13), errors


def test_a_matrix_that_is_not_positive_ends_the_search_instead_of_the_samples():
    process, t = VP("cosine"), torch.tensor(0.5, dtype=torch.float64)
    y = torch.ones(3, 1, 2, 2).double()
    got = posterior(lambda x, t, s: -x, y, lambda x0: x0, process, 0.0)(torch.randn(3, 1, 2, 2).double(), t, t)
    assert bool(torch.isfinite(got).all())


def test_at_pure_noise_and_without_gradients_it_is_the_estimate():
    process, one = Flow(), torch.tensor(1.0, dtype=torch.float64)
    x = torch.randn(1, 1, SIDE, SIDE).double()
    f = gaussian(process)
    assert torch.equal(posterior(f, x, lambda x0: x0, process)(x, one, one), f(x, one, one))
    half = torch.tensor(0.5, dtype=torch.float64)
    with torch.no_grad():
        assert not posterior(f, x, lambda x0: x0, process)(x, half, half).requires_grad
