"""Bits per dimension against Gaussians and mixtures whose density is known; their errors mean what they say."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from kakusan.core.batch import Batch, Cond
from kakusan.core.denoiser import Denoiser, Net
from kakusan.core.model import Model
from kakusan.core.param import X0
from kakusan.core.process import VE, VP, Flow, Process, Tabulated
from kakusan.core.rng import Rng
from kakusan.core.space import Centred, Flat
from kakusan.domains.image import Image
from kakusan.evaluation.likelihood import (
    K_MIN,
    _reconstruction,
    bits_per_dim,
    bound_by_level,
    level_spacing,
    log_density,
)
from kakusan.nets.dit import DiT
from kakusan.nets.unet import UNet
from kakusan.part import KakusanError

MEAN, STD = 0.1, 0.3
PROCESSES = {"ve": VE(), "vp": VP("cosine"), "flow": Flow(), "table": Tabulated()}
SPACING = 2 / 255


class Bell(Net):
    """The exact posterior mean of independent Gaussian pixels, written for ``param/x0``: F(c_in x_t, lam)."""

    kind = "test/bell"

    def forward(self, x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
        k = torch.exp(-lam).reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
        y = x * (1 + k**2).sqrt()  # x_t / alpha
        return MEAN + STD**2 / (STD**2 + k**2) * (y - MEAN)


def bell(process: Process) -> Model:
    return Model(Denoiser(Bell(), process, X0(), Flat()))


def coloured(process: Process) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """The exact denoiser of a Gaussian in 5 dimensions whose values are correlated, and its covariance."""
    a = torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    covariance = 0.1 * a @ a.T + 0.01 * torch.eye(5)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = process.scales(t)
        gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(5))
        return x @ gain.T

    return denoise, covariance


def flowed(x: Tensor, covariance: Tensor, process: Process, k_min: float) -> Tensor:
    """log density of the ODE's own model: noise N(0, k_max^2) stretched along each eigenvector to k_min."""
    k_max = math.exp(-max(float(process.logsnr(torch.tensor(1.0).double())), -10.0))
    values, vectors = torch.linalg.eigh(covariance)
    variance = k_max**2 * (values + k_min**2) / (values + k_max**2)
    along = x @ vectors
    return (-(along**2) / (2 * variance) - 0.5 * (2 * math.pi * variance).log()).sum(1)


def points(covariance: Tensor, count: int = 64) -> Tensor:
    draws = torch.randn(count, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return draws @ torch.linalg.cholesky(covariance).T


@pytest.mark.parametrize("name", PROCESSES)
def test_density_of_a_gaussian(name):
    process = PROCESSES[name]
    f, covariance = coloured(process)
    x = points(covariance, 16)
    truth = flowed(x, covariance, process, 0.05)
    found, noise = log_density(f, x, process, 200, Rng(range(16)), probes=0, k_min=0.05)
    assert float((found - truth).abs().max()) < 5e-3
    assert float(noise.abs().max()) == 0


def test_the_solver_is_of_second_order():
    process = VP("cosine")
    f, covariance = coloured(process)
    x = points(covariance, 16)
    truth = flowed(x, covariance, process, 0.05)
    errors = [
        float((log_density(f, x, process, n, Rng(range(16)), 0, 0.05)[0] - truth).abs().mean()) for n in (30, 60, 120)
    ]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(1.8 < order < 2.3 for order in orders), orders


def test_random_directions_give_the_divergence_and_their_own_variance():
    """Hutchinson's estimate has the exact one as its mean, and the spread that is claimed for it."""
    process = VP("cosine")
    f, covariance = coloured(process)
    x = points(covariance, 1).expand(400, -1)
    exact, _ = log_density(f, x[:1], process, 30, Rng([0]), probes=0, k_min=0.01)
    drawn, noise = log_density(f, x, process, 30, Rng(range(400)), probes=1, k_min=0.01)
    claimed = float(noise.mean()) ** 0.5
    assert float(drawn.std()) == pytest.approx(claimed, rel=0.15)
    assert float(drawn.mean() - exact) == pytest.approx(0, abs=4 * claimed / 400**0.5)
    _, four = log_density(f, x[:200], process, 30, Rng(range(200)), probes=4, k_min=0.01)
    assert float(four.mean()) == pytest.approx(claimed**2 / 4, rel=0.25)


@pytest.mark.parametrize("name", ["ve", "flow"])
def test_density_of_a_mixture(name):
    """Two modes on a line, seen at the level k_min."""
    process, k_min = PROCESSES[name], 0.05
    means, weights, std = torch.tensor([-0.6, 0.5]).double(), torch.tensor([0.3, 0.7]).double(), 0.15

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = process.scales(t)
        total = (alpha * std) ** 2 + sigma**2
        away = x - alpha * means
        share = torch.softmax(weights.log() - away.square() / (2 * total), 1)
        return (share * (means + alpha * std**2 / total * away)).sum(1, keepdim=True)

    x = torch.linspace(-1.1, 1.0, 60, dtype=torch.float64)[:, None]
    found, _ = log_density(denoise, x, process, 300, Rng(range(60)), probes=0, k_min=k_min)
    spread = (std**2 + k_min**2) ** 0.5
    truth = (weights * torch.exp(-((x - means) ** 2) / (2 * spread**2)) / spread / (2 * math.pi) ** 0.5).sum(1)
    assert float((found.exp() - truth).abs().max()) < 5e-3 * float(truth.max())


def pictures(count: int, seed: int = 0) -> Tensor:
    """Gaussian pixels rounded to 8 bits, (N, 1, 4, 4)."""
    x = MEAN + STD * torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (torch.round((x + 1) / SPACING) * SPACING - 1).clamp(-1, 1)


def entropy() -> float:
    """Bits of a pixel of ``pictures``, under the distribution that it is drawn from."""
    edges = torch.arange(256, dtype=torch.float64) * SPACING - 1
    upper = torch.special.ndtr((edges + SPACING / 2 - MEAN) / STD)
    upper[-1] = 1
    p = upper.diff(prepend=torch.zeros(1, dtype=torch.float64))
    return float(-(p * p.log2()).sum())


@pytest.mark.parametrize("name", PROCESSES)
def test_bits_per_dimension_of_rounded_gaussian_pixels(name):
    """The true model of the data gives its entropy: within three of its errors, and the error is small."""
    found = bits_per_dim(bell(PROCESSES[name]), pictures(200), steps=32, batch=200)
    assert found.error < 0.03
    assert abs(found.value - entropy()) < 3 * found.error
    assert len(found.pictures) == 200 and sum(found.pictures) / 200 == pytest.approx(found.value)


def test_the_error_is_that_of_the_mean():
    """Twenty sets of pictures scatter as the error of each says."""
    model = bell(VP("cosine"))
    found = [bits_per_dim(model, pictures(40, seed), steps=8, seed=seed) for seed in range(20)]
    scatter = torch.tensor([f.value for f in found]).std()
    assert float(scatter) == pytest.approx(sum(f.spread for f in found) / 20, rel=0.5)


def test_a_worse_model_takes_more_bits():
    wrong = Model(Denoiser(Shrunk(), VE(), X0(), Flat()))
    assert bits_per_dim(wrong, pictures(100)).value > entropy() + 0.1
    assert bound_by_level(wrong, [Batch(pictures(200))]).value > entropy() + 0.1


class Shrunk(Bell):
    """The posterior mean of data of half the spread."""

    kind = "test/shrunk"

    def forward(self, x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
        k = torch.exp(-lam).reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
        return MEAN + 0.25 * STD**2 / (0.25 * STD**2 + k**2) * (x * (1 + k**2).sqrt() - MEAN)


def test_halved_steps_show_an_error_of_the_right_size():
    """Few steps are wrong by about what is said of them."""
    x, low, high = pictures(16), K_MIN, 80.0
    ratio = ((STD**2 + low**2) / (STD**2 + high**2)) ** 0.5  # what the ODE shrinks the noise by
    bell_of_noise = torch.distributions.Normal(torch.tensor(MEAN * (1 - ratio)).double(), ratio * high)
    truth = -float(bell_of_noise.log_prob(x).mean()) / math.log(2)
    for steps in (12, 24):
        found = bits_per_dim(bell(VE()), x, steps=steps, probes=0, spacing=None)
        assert abs(found.value - truth) < 3 * found.solver
        assert found.solver < 4 * abs(found.value - truth)
        assert found.probes == 0


def test_real_numbers_have_bits_of_density():
    x = (MEAN + STD * torch.randn(200, 1, 4, 4, generator=torch.Generator().manual_seed(4))).double()
    found = bits_per_dim(bell(VE()), x, spacing=None, steps=32, batch=200)
    assert found.value == pytest.approx(0.5 * math.log2(2 * math.pi * math.e * STD**2), abs=3 * found.error)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_bound_of_rounded_gaussian_pixels(name):
    """Linear denoiser: every level's term has a closed form; the total is the entropy and what dequantising costs."""
    process = PROCESSES[name]
    found = bound_by_level(bell(process), [Batch(part) for part in pictures(800).split(200)])
    variance = STD**2 + SPACING**2 / 12  # of the rounded pixels
    for level in found.levels:
        lam = torch.linspace(level.low, level.high, 2001, dtype=torch.float64)
        k2 = torch.exp(-2 * lam)
        gain = STD**2 / (STD**2 + k2)
        term = ((1 - gain) ** 2 * variance + gain**2 * k2) / k2
        truth = float(torch.trapezoid(term, lam)) / math.log(2)
        assert level.bits == pytest.approx(truth, abs=4 * level.error + 1e-3)
    assert found.value == pytest.approx(found.prior + found.reconstruction + sum(v.bits for v in found.levels))
    assert entropy() - 3 * found.error < found.value < entropy() + 0.15


def test_the_bound_of_real_numbers_is_their_density():
    x = (MEAN + STD * torch.randn(2000, 1, 4, 4, generator=torch.Generator().manual_seed(4))).double()
    found = bound_by_level(bell(VE()), [Batch(x)], spacing=None)
    assert found.value == pytest.approx(0.5 * math.log2(2 * math.pi * math.e * STD**2), abs=4 * found.error + 2e-3)


def test_a_pixel_is_told_from_its_neighbours():
    """The last term of the bound: nothing where levels stand far apart, the noise's entropy in levels where close."""
    x = pictures(200)
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert float(_reconstruction(x, eps, SPACING / 20, SPACING).mean()) == pytest.approx(0, abs=1e-6)
    k = 5 * SPACING
    many = float(_reconstruction(x, eps, k, SPACING).mean())
    inner = 0.5 + math.log(k * (2 * math.pi) ** 0.5 / SPACING)
    assert many == pytest.approx(inner, abs=0.03)


def test_the_result_does_not_depend_on_the_batch():
    model, x = bell(VP("cosine")), pictures(20)
    a, b = bits_per_dim(model, x, batch=20, steps=8), bits_per_dim(model, x, batch=3, steps=8)
    assert a.pictures == pytest.approx(b.pictures, rel=1e-9) and a.solver == pytest.approx(b.solver)


@pytest.mark.parametrize("net", ["unet", "dit"])
def test_networks_with_attention_have_a_divergence(net):
    """A few random directions agree with all of them."""
    torch.manual_seed(0)
    if net == "unet":
        made = UNet(1, width=8, mults=[1, 2], blocks=1, attention=[1], heads=2)
    else:
        made = DiT(1, width=16, depth=1, heads=2, patch=2)
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.1)
    model = Model(Denoiser(made, VP("cosine"), X0(), Flat()))
    x = pictures(6).float()
    exact = bits_per_dim(model, x, steps=6, probes=0)
    drawn = bits_per_dim(model, x, steps=6, probes=40)
    assert drawn.value == pytest.approx(exact.value, abs=4 * drawn.probes + 1e-4)
    assert all(p.grad is None for p in model.parameters())


def test_levels_of_pictures():
    assert level_spacing(Model(bell(VE()).denoiser, Image([4, 4], "L"))) == pytest.approx(2 / 255)
    assert level_spacing(Model(bell(VE()).denoiser, Image([4, 4], "L", depth=16))) == pytest.approx(2 / 65535)
    assert level_spacing(Model(bell(VE()).denoiser, Image([4, 4], "L", depth=32))) is None
    assert K_MIN < SPACING


def test_what_has_no_likelihood_here_is_refused():
    with pytest.raises(KakusanError, match="centred"):
        bits_per_dim(Model(Denoiser(Bell(), VE(), X0(), Centred())), pictures(2))
    with pytest.raises(KakusanError, match="steps=1"):
        bits_per_dim(bell(VE()), pictures(2), steps=1)
    with pytest.raises(KakusanError, match="at least 24 are needed"):
        bound_by_level(bell(VE()), [Batch(pictures(2))])
    with pytest.raises(KakusanError, match="at least one"):
        bits_per_dim(bell(VE()), pictures(2)[:0])
