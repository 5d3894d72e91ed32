"""Densities and weights in the papers' own numbers, and the loss at the true denoiser."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from kakusan.core.batch import Batch, Cond
from kakusan.core.denoiser import Denoiser, Net
from kakusan.core.model import Encoder, Model
from kakusan.core.objective import (
    EDM,
    Denoising,
    EpsUniform,
    FlowUniform,
    Laplace,
    LogitNormal,
    LogNormal,
    MinSNR,
    Sigmoid,
    UniformT,
)
from kakusan.core.param import X0, Eps, Karras, Param, V, Velocity
from kakusan.core.process import VE, VP, Flow, Process, Tabulated, ZeroTerminal
from kakusan.core.rng import Rng
from kakusan.core.space import Centred, Flat
from kakusan.part import KakusanError

LAM = torch.linspace(-5, 5, 41, dtype=torch.float64)
SNR = torch.exp(2 * LAM)
BLANK = torch.zeros(1, 1)
LEVELS = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000


# weights: the papers' are on the error of eps, ours on that of x0, |eps error|^2 = SNR |x0 error|^2


def test_min_snr_is_min_snr_gamma_over_snr_on_the_error_of_eps():
    torch.testing.assert_close(MinSNR(5).of(LAM) / SNR, SNR.clamp(max=5) / SNR)


def test_eps_uniform_is_one_on_the_error_of_eps():
    torch.testing.assert_close(EpsUniform().of(LAM) / SNR, torch.ones_like(LAM))


@pytest.mark.parametrize("bias", [-3.0, -1.0, 0.0, 2.0])
def test_sigmoid_in_the_papers_log_snr(bias):
    """w(lambda) = sigmoid(b - lambda) on the error of eps, lambda = log(alpha^2/sigma^2)."""
    torch.testing.assert_close(Sigmoid(bias).of(LAM) / SNR, torch.sigmoid(bias - SNR.log()), atol=0, rtol=1e-9)


@pytest.mark.parametrize("process", [VE(), VP("cosine"), Flow()], ids=lambda p: p.kind)
@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_edm_weight_undoes_c_out(process, sigma_data):
    c_out = Karras(sigma_data).coefs(*process.scales(process.time(LAM)))[2]
    torch.testing.assert_close(EDM(sigma_data).of(LAM) * c_out**2, torch.ones_like(LAM), atol=1e-8, rtol=0)


def test_edm_weight_in_edms_sigma():
    sigma = torch.exp(-LAM)
    torch.testing.assert_close(EDM(0.5).of(LAM), (sigma**2 + 0.25) / (sigma * 0.5) ** 2)


def test_flow_uniform_is_one_on_the_error_of_the_velocity():
    c_out = Velocity().coefs(*Flow().scales(Flow().time(LAM)))[2]
    torch.testing.assert_close(FlowUniform().of(LAM) * c_out**2, torch.ones_like(LAM), atol=1e-8, rtol=0)


# densities


def test_log_normal_has_its_mean_and_deviation():
    log_sigma = VE().scales(LogNormal(-1.2, 1.2).times(LEVELS, VE()))[1].log()
    assert float(log_sigma.mean()) == pytest.approx(-1.2, abs=1e-3)
    assert float(log_sigma.std()) == pytest.approx(1.2, abs=2e-3)


def test_logit_normal_is_stable_diffusion_3s():
    t = Flow().time(LogitNormal(0.0, 1.0).logsnr(LEVELS, Flow()))
    assert float(torch.logit(t).mean()) == pytest.approx(0, abs=1e-3)
    assert float(torch.logit(t).std()) == pytest.approx(1, abs=2e-3)
    torch.testing.assert_close(t, torch.sigmoid(torch.special.ndtri(LEVELS)))


def test_laplace_quantiles_in_the_papers_log_snr():
    """lambda = 2 lam ~ Laplace(0, 0.5): its quantile at p is b sign log."""
    lam = Laplace().logsnr(1 - LEVELS, VP()) * 2
    expected = torch.where(LEVELS < 0.5, 0.5 * (2 * LEVELS).log(), -0.5 * (2 - 2 * LEVELS).log())
    torch.testing.assert_close(lam, expected, atol=1e-9, rtol=1e-9)


def test_uniform_t_is_uniform():
    torch.testing.assert_close(UniformT().times(LEVELS, VP()), LEVELS, atol=1e-6, rtol=0)


@pytest.mark.parametrize("density", [UniformT(), LogNormal(), LogitNormal(), Laplace()], ids=lambda d: d.kind)
def test_levels_rise_with_u(process, density):
    t = density.times(torch.linspace(0.01, 0.985, 200, dtype=torch.float64), process)
    assert bool((t.diff() >= 0).all())
    assert bool(((t >= 0) & (t <= 1)).all())


@pytest.mark.parametrize("density", [UniformT(), LogNormal(0, 20), Laplace(0, 20)], ids=lambda d: d.kind)
def test_levels_are_clamped(process, density):
    lam = process.logsnr(density.times(LEVELS, process))
    lam = lam[torch.isfinite(lam)]
    assert float(lam.max()) <= 10 + 1e-6
    assert float(lam.min()) >= -10 - 1e-6


@pytest.mark.parametrize("process", [Flow(), ZeroTerminal(VP()), Tabulated(zero_terminal=True)], ids=lambda p: p.kind)
def test_one_draw_in_a_hundred_is_pure_noise(process):
    t = LogNormal().times(LEVELS, process)
    assert float((t == 1).double().mean()) == pytest.approx(0.01, abs=1e-3)
    assert float((LogNormal().times(LEVELS, VP()) == 1).double().mean()) < 1e-3


@pytest.mark.parametrize(
    "make",
    [
        lambda: LogNormal(0, 0),
        lambda: Laplace(0, -1),
        lambda: MinSNR(0),
        lambda: EDM(0),
        lambda: Denoising(UniformT(), EDM(), 1.5),
        lambda: Denoising(UniformT(), EDM(), 0.1, -0.1),
        lambda: Denoising(UniformT(), EDM(), 0.4, 0.3).keep(Batch(BLANK, inputs={"a": {}, "b": {}}), Rng([0]), 0),
    ],
)
def test_bad_arguments_are_refused(make):
    with pytest.raises(KakusanError):
        make()


# the loss


class Truth(Net):
    """The exact F for data N(0, std^2) under a parametrisation, times ``1 + tilt``, plus ``lean``."""

    kind = "test/truth"

    def __init__(self, process: Process, param: Param, std: float, tilt: float = 0.0, lean: float = 0.0) -> None:
        super().__init__()
        self.tilt, self.lean, self.std = nn.Parameter(torch.tensor(tilt)), lean, std
        self.process, self.param, self.levels = process, param, []

    def forward(self, x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
        self.levels.append(lam)
        alpha, sigma = self.process.scales(self.process.time(lam.double()))
        c_in, c_skip, c_out = self.param.coefs(alpha, sigma)
        best = (alpha * self.std**2 / ((alpha * self.std) ** 2 + sigma**2) - c_skip) / (c_in * c_out)
        return best.to(x.dtype).reshape(-1, 1, 1) * x * (1 + self.tilt) + self.lean


def batch_of(n: int, std: float = 0.7) -> Batch:
    x0 = std * torch.randn(n, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(x0, stratum=(torch.arange(n, dtype=torch.float64) + 0.5) / n)


def loss_of(process: Process, param: Param, tilt: float = 0.0, lean: float = 0.0) -> float:
    model = Model(Denoiser(Truth(process, param, 0.7, tilt, lean), process, param, Flat()))
    objective = Denoising(LogNormal(-0.5, 1.0), EDM(0.7))
    with torch.no_grad():
        return float(objective.loss(model, batch_of(8000), Rng(list(range(8000))), 0).mean())


@pytest.mark.parametrize(
    ("process", "param"),
    [(VP("cosine"), Eps()), (VE(), Karras(0.7)), (Flow(), Velocity()), (VP(), V()), (Tabulated(), X0())],
    ids=repr,
)
def test_the_true_denoiser_minimises_the_loss(process, param):
    """Its loss is the mean of w times the posterior variance, known for a Gaussian; any change raises it."""
    best = loss_of(process, param)
    lam = -(-0.5 + torch.special.ndtri(LEVELS))
    variance = 1 / (1 / 0.49 + torch.exp(2 * lam))
    assert best == pytest.approx(float((EDM(0.7).of(lam) * variance).mean()), rel=0.03)
    if not isinstance(param, Karras):  # at sigma_data = std Karras' best F is 0
        assert all(loss_of(process, param, tilt=d) > best for d in (-0.5, 0.5))
    assert all(loss_of(process, param, lean=d) > best for d in (-0.1, 0.1))


def test_loss_is_the_weighted_error_of_x0():
    """w c_out^2 |F - target|^2 = w |D - x0|^2, for every parametrisation."""
    for process, param in ((VP("cosine"), Eps()), (VP(), V()), (Flow(), Velocity()), (VE(), Karras()), (VP(), X0())):
        model = Model(Denoiser(Truth(process, param, 0.7, 0.3), process, param, Flat()))
        batch, rng = batch_of(16), Rng(list(range(16)))
        objective = Denoising(LogNormal(), MinSNR())
        loss, lam = objective.terms(model, batch, rng, 3)
        t = objective.times(batch, rng, 3, process)
        eps = Flat().noise([(1, 2)] * 16, rng, "eps", 3).double()
        estimate = model.denoiser(process.noised(batch.x0, eps, t), t)
        expected = MinSNR().of(lam) * (estimate - batch.x0).square().mean((1, 2))
        torch.testing.assert_close(loss, expected, atol=1e-9, rtol=1e-5)
        assert lam.dtype == torch.float64
        assert torch.equal(objective.loss(model, batch, rng, 3), loss)


def test_loss_ignores_padding_and_a_row_does_not_see_its_batch():
    process = VP("cosine")
    model = Model(Denoiser(Truth(process, V(), 0.7, 0.3), process, V(), Flat()))
    objective = Denoising(LogNormal(), EDM())
    x0, mask = torch.randn(2, 1, 4), torch.tensor([[True] * 4, [True, True, False, False]])
    x0 = x0 * mask[:, None]
    together = objective.loss(model, Batch(x0, mask), Rng([5, 6]), 0)
    alone = objective.loss(model, Batch(x0[1:, :, :2]), Rng([6]), 0)
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-5)


def test_loss_is_finite_at_pure_noise_and_in_every_space():
    process = Flow()
    model = Model(Denoiser(Truth(process, Velocity(), 0.7), process, Velocity(), Centred(2)))
    batch = Batch(torch.randn(50, 3, 2), stratum=torch.linspace(0.9, 0.9999, 50, dtype=torch.float64))
    loss = Denoising(LogNormal(), FlowUniform()).loss(model, batch, Rng(list(range(50))), 0)
    assert bool(torch.isfinite(loss).all())


def test_strata_cover_the_levels_evenly():
    """One draw in each of n even slices of the density, whatever the step."""
    objective, n = Denoising(UniformT(), EDM()), 64
    batch = Batch(torch.zeros(n, 1), stratum=torch.arange(n, dtype=torch.float64) / n)
    first = objective.times(batch, Rng([0] * n), 0, VP())
    for step in range(5):
        t = objective.times(batch, Rng([0] * n), step, VP())
        assert (
            sorted((t * n).floor().long().tolist()) == list(range(n))
            or float((t.sort().values.diff() - 1 / n).abs().max()) < 1e-6
        )
        assert step == 0 or not torch.equal(t, first)


def test_without_strata_each_row_draws_its_own_level():
    objective = Denoising(UniformT(), EDM())
    times = objective.times(Batch(torch.zeros(3, 1)), Rng([1, 2, 3]), 7, VP())
    alone = objective.times(Batch(torch.zeros(1, 1)), Rng([2]), 7, VP())
    assert torch.equal(times[1:2], alone)
    assert len(set(times.tolist())) == 3


class Sign(Encoder):
    """A value that notes which rows kept it."""

    kind = "test/sign"

    def __init__(self) -> None:
        super().__init__()
        self.null_value = nn.Parameter(torch.zeros(1))

    def prepare(self, values: list[float | None]) -> dict[str, Tensor]:
        return {"value": torch.tensor([[0.0 if v is None else v] for v in values])}

    def forward(self, inputs: dict[str, Tensor], keep: Tensor) -> Cond:
        self.kept = keep
        return Cond(vector=torch.where(keep[:, None], inputs["value"], self.null_value))


@pytest.mark.parametrize("dropout", [0.0, 0.1, 1.0])
def test_conditions_are_dropped_at_their_rate_each_on_its_own(dropout):
    process, n = VP(), 10_000
    encoders = {"a": Sign(), "b": Sign()}
    model = Model(Denoiser(Truth(process, V(), 0.7), process, V(), Flat()), None, encoders)
    inputs = {name: {"value": torch.ones(n, 1)} for name in encoders}
    objective = Denoising(LogNormal(), EDM(), dropout)
    objective.loss(model, Batch(torch.zeros(n, 1, 1), inputs=inputs), Rng(list(range(n))), 0)
    a, b = (~encoders[name].kept for name in "ab")
    error = 4 * math.sqrt(dropout * (1 - dropout) / n) + 1e-9
    assert float(a.double().mean()) == pytest.approx(dropout, abs=error)
    assert float(b.double().mean()) == pytest.approx(dropout, abs=error)
    assert float((a & b).double().mean()) == pytest.approx(dropout**2, abs=0.01)
    alone = objective.keep(Batch(torch.zeros(1, 1), inputs={"a": {}}), Rng([7]), 0)["a"]
    assert bool(alone[0]) == (not bool(a[7]))


def test_gradients_reach_the_network():
    process = VP()
    model = Model(Denoiser(Truth(process, V(), 0.7, 0.5), process, V(), Flat()))
    Denoising(LogNormal(), EDM(0.7)).loss(model, batch_of(512), Rng(list(range(512))), 0).mean().backward()
    assert float(model.denoiser.net.tilt.grad) > 0


@pytest.mark.parametrize(("dropout", "together"), [(0.05, 0.05), (0.2, 0.0), (0.0, 0.3), (0.35, 0.3)])
def test_all_conditions_are_dropped_together_or_one_alone(dropout, together):
    n = 20_000
    batch = Batch(torch.zeros(n, 1), inputs={"b": {}, "a": {}})
    objective = Denoising(LogNormal(), EDM(), dropout, together)
    kept = objective.keep(batch, Rng(list(range(n))), 3)
    a, b = ~kept["a"], ~kept["b"]
    for found, share in ((a & b, together), (a & ~b, dropout), (b & ~a, dropout)):
        assert float(found.double().mean()) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / n) + 1e-9)
    alone = objective.keep(Batch(BLANK, inputs={"a": {}, "b": {}}), Rng([7]), 3)
    assert bool(alone["a"][0]) != bool(a[7]) and bool(alone["b"][0]) != bool(b[7])
