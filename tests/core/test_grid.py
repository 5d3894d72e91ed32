"""Grids fall as they should; climbing lists are DDPM, eta-DDIM, EDM churn and RePaint in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from kakusan.core.grid import Discrete, Karras, Listed, UniformLam, UniformT, churn, climb, resample
from kakusan.core.process import VE, VP, Flow, Tabulated, ZeroTerminal
from kakusan.core.solver import fall
from kakusan.part import KakusanError

GRIDS = [Karras(), UniformLam(), UniformT()]


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: g.kind)
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50])
def test_times_fall_from_noise_to_zero(process, grid, steps):
    times = grid.times(steps, process)
    assert len(times) == steps + 1
    assert times.dtype == torch.float64
    assert float(times[-1]) == 0
    assert 0.9 < float(times[0]) <= 1 + 1e-12 or process.ratio(times[0]) >= 79.9
    assert bool((times.diff() < 0).all())
    if process.zero_terminal:
        assert float(times[0]) == 1
    if process.zero_terminal and steps > 1 and grid.kind != "grid/uniform-t":
        assert float(process.ratio(times[1])) == pytest.approx(80)


def test_karras_is_edms_list_of_sigmas():
    times = Karras(7, 0.002, 80).times(18, VE(0.002, 80))
    i = torch.arange(18, dtype=torch.float64)
    sigma = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(VE(0.002, 80).scales(times)[1][:-1], sigma, atol=0, rtol=1e-10)


def test_uniform_lam_is_uniform_in_lam():
    lam = VP("cosine").logsnr(UniformLam().times(20, VP("cosine")))[:-1]
    torch.testing.assert_close(lam.diff(), lam.diff()[:1].expand(19), atol=1e-9, rtol=0)
    assert float(lam[-1]) == pytest.approx(-math.log(0.002))


def test_listed():
    grid = Listed([10.0, 1.0, 0.1])
    torch.testing.assert_close(Flow().ratio(grid.times(3, Flow()))[:3], torch.tensor([10.0, 1.0, 0.1]).double())
    with pytest.raises(KakusanError, match="list of 3"):
        grid.times(4, Flow())
    with pytest.raises(KakusanError, match="do not fall"):
        Listed([1.0, 2.0]).times(2, Flow())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Karras(k_min=1, k_max=0.5), "k_min"),
        (lambda: UniformLam(k_min=0), "k_min"),
        (lambda: Discrete("leeding"), "leading"),
        (lambda: Discrete().times(10, VP()), "tabulated"),
        (lambda: Discrete().times(1001, Tabulated()), "1000 entries"),
        (lambda: UniformT().times(0, VP()), "at least 1"),
        (lambda: Listed([]), "ratios"),
        (lambda: climb(UniformT().times(3, VP()), VP(), 1.5), "eta=1.5"),
        (lambda: churn(UniformT().times(3, VP()), VP(), -1), "churn=-1"),
        (lambda: resample(UniformT().times(3, VP()), 0), "repeats=0"),
    ],
)
def test_bad_arguments_are_refused(make, said):
    with pytest.raises(KakusanError, match=said):
        make()


def moves(process, t, down, s) -> tuple[float, float, float]:
    """(weight of x_t, weight of x0, variance) of a fall from t to ``down`` with a climb to s after it."""
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    fell = [fall(a, b, t, down, process) for a, b in ((one, zero), (zero, one))]
    carried = [float(process.renoise(v, zero, down, s)) for v in fell]
    return carried[0], carried[1], float(process.renoise(zero, one, down, s)) ** 2


def test_climb_is_the_ddpm_posterior(process):
    """Mean and variance of q(x_s | x_t, x0): Ho et al. 2020, eq. 7, written for any alpha and sigma."""
    times = torch.tensor([0.9, 0.55, 0.3, 0.0], dtype=torch.float64)
    listed = climb(times, process, 1.0)
    assert len(listed) == 6
    for i in range(2):
        t, down, s = listed[2 * i : 2 * i + 3]
        assert down < s < t
        (a_t, s_t), (a_s, s_s) = process.scales(t), process.scales(s)
        r = a_t / a_s
        step = s_t**2 - (r * s_s) ** 2  # the variance that the forward kernel s -> t adds
        expected = (r * s_s**2 / s_t**2, a_s * step / s_t**2, step * s_s**2 / s_t**2)
        for got, want in zip(moves(process, t, down, s), expected, strict=True):
            assert got == pytest.approx(float(want), rel=1e-9, abs=1e-12)
    assert float(listed[-1]) == 0


def test_climb_is_the_ddpm_posterior_in_betas():
    """The same in the paper's own symbols, at neighbouring entries of its table, to 1e-12."""
    process = Tabulated()
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    bar = (1 - beta).cumprod(0)
    for i in (1, 10, 500, 999):
        t, s = torch.tensor([(i + 1) / 1000, i / 1000], dtype=torch.float64)
        down = climb(torch.stack([t, s, t * 0]), process, 1.0)[1]
        of_x, of_x0, variance = moves(process, t, down, s)
        assert of_x == pytest.approx(float((1 - beta[i]).sqrt() * (1 - bar[i - 1]) / (1 - bar[i])), abs=1e-12)
        assert of_x0 == pytest.approx(float(bar[i - 1].sqrt() * beta[i] / (1 - bar[i])), abs=1e-12)
        assert variance == pytest.approx(float((1 - bar[i - 1]) / (1 - bar[i]) * beta[i]), abs=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("base", [VP("cosine"), Tabulated()], ids=lambda p: p.kind)
def test_climb_is_eta_ddim(base, eta):
    """Song et al. 2021, eqs. 12 and 16: spread = eta sqrt((1-a_s)/(1-a_t)) sqrt(1-a_t/a_s), a = alpha^2."""
    times = torch.tensor([0.8, 0.45, 0.0], dtype=torch.float64)
    listed = climb(times, base, eta)
    t, down, s = (times[0], listed[1], times[1]) if eta else (times[0], times[1], times[1])
    (alpha_t, sigma_t), (alpha_s, _) = base.scales(t), base.scales(s)
    a_t, a_s = alpha_t**2, alpha_s**2
    spread = eta * ((1 - a_s) / (1 - a_t)).sqrt() * (1 - a_t / a_s).sqrt()
    of_eps = (1 - a_s - spread**2).sqrt()
    of_x, of_x0, variance = moves(base, t, down, s)
    assert of_x == pytest.approx(float(of_eps / sigma_t), abs=1e-12)
    assert of_x0 == pytest.approx(float(alpha_s - of_eps * alpha_t / sigma_t), abs=1e-12)
    assert variance == pytest.approx(float(spread**2), abs=1e-12)


def test_ancestral_sampling_starts_at_pure_noise():
    """From alpha = 0 the first fall of eta = 1 goes to clean data, and the climb from there is the forward process."""
    listed = climb(torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64), Flow(), 1.0)
    assert listed.tolist()[:3] == [1.0, 0.0, 0.5]
    assert torch.equal(climb(torch.tensor([1.0, 0.5, 0.0]), Flow(), 0.0), torch.tensor([1.0, 0.5, 0.0]))


def test_churn_is_edms():
    """Karras et al. 2022, algorithm 2: sigma_hat = sigma (1 + min(S_churn/n, sqrt 2 - 1)) inside [S_min, S_max]."""
    process = VE(0.002, 80)
    times = Karras().times(20, process)
    k = process.ratio(churn(times, process, 4.0, k_low=0.05, k_high=50))
    expected = []
    for level in process.ratio(times).tolist():
        expected.append(level)
        if 0.05 <= level <= 50:
            expected.append(level * 1.2)
    torch.testing.assert_close(k, torch.tensor(expected, dtype=torch.float64), atol=0, rtol=1e-9)
    most = process.ratio(churn(times, process, 1e9))
    assert float((most[1:] / most[:-1]).nan_to_num(0).max()) == pytest.approx(2**0.5)
    assert torch.equal(churn(times, process, 0), times)


@pytest.mark.parametrize("process", [Flow(), ZeroTerminal(VP())], ids=lambda p: p.kind)
def test_nothing_is_added_at_pure_noise(process):
    listed = churn(Karras().times(8, process), process, 40)
    assert listed.tolist()[0] == 1
    assert listed[1] < 1
    assert bool((listed <= 1).all())


def test_resample_takes_falls_back():
    times = torch.tensor([1.0, 0.6, 0.3, 0.0])
    assert resample(times, 1).tolist() == times.tolist()
    assert resample(times, 2).tolist() == torch.tensor([1.0, 0.6, 1.0, 0.6, 0.3, 0.6, 0.3, 0.0]).tolist()
