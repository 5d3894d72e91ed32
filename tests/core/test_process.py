"""Forward processes: coefficients, their inverses and rates, the forward kernel and the published schedules."""

from __future__ import annotations

import math

import pytest
import torch

from kakusan.core.process import VE, VP, Flow, Shifted, Tabulated, ZeroTerminal, as_time, betas, cast
from kakusan.part import KakusanError

INSIDE = torch.linspace(0.002, 0.998, 997, dtype=torch.float64)


def test_time_inverts_logsnr(process):
    torch.testing.assert_close(process.time(process.logsnr(INSIDE)), INSIDE, atol=1e-11, rtol=0)


def test_ends(process):
    start, end = as_time(0.0), as_time(1.0)
    alpha, sigma = process.scales(start)
    assert float(alpha) == pytest.approx(1, abs=1e-12)
    assert float(sigma) == pytest.approx(0, abs=1e-7)
    assert float(process.time(as_time(math.inf))) == 0
    assert float(process.time(process.logsnr(end))) == pytest.approx(1, abs=1e-12)
    assert float(process.scales(process.time(as_time(math.inf)))[1]) == 0


def test_noise_only_grows(process):
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    assert bool((process.ratio(t).diff() > 0).all())
    assert bool((process.logsnr(t)[1:].diff() < 0).all())


def test_logsnr_is_the_logarithm_of_the_scales(process):
    alpha, sigma = process.scales(INSIDE)
    torch.testing.assert_close(process.logsnr(INSIDE), (alpha / sigma).log(), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(process.ratio(INSIDE), sigma / alpha, atol=0, rtol=1e-12)


def test_variance_is_preserved_where_it_is_said_to_be(process):
    alpha, sigma = process.scales(torch.linspace(0, 1, 1001, dtype=torch.float64))
    preserved = bool(((alpha**2 + sigma**2 - 1).abs() < 1e-12).all())
    assert preserved == process.variance_preserving


def test_rates_are_finite_differences(process):
    h = 1e-6
    t = torch.tensor([0.1034, 0.3017, 0.50013, 0.7771, 0.9513], dtype=torch.float64)  # between entries of the tables
    ahead, behind = process.scales(t + h), process.scales(t - h)
    for rate, a, b in zip(process.rates(t), ahead, behind, strict=True):
        torch.testing.assert_close(rate, (a - b) / (2 * h), atol=1e-6, rtol=1e-5)


def test_renoising_twice_is_renoising_once(process):
    """t -> s -> u gives the coefficient and the variance of t -> u, and of u itself from data."""
    t, s, u = (torch.tensor(v, dtype=torch.float64) for v in (0.2, 0.55, 0.9))
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)

    def kernel(a, b):
        return float(process.renoise(one, zero, a, b)), float(process.renoise(zero, one, a, b))

    (r1, n1), (r2, n2), (r, n) = kernel(t, s), kernel(s, u), kernel(t, u)
    assert r1 * r2 == pytest.approx(r, rel=1e-12)
    assert (r2 * n1) ** 2 + n2**2 == pytest.approx(n**2, rel=1e-12)
    (alpha_t, sigma_t), (alpha_u, sigma_u) = process.scales(t), process.scales(u)
    assert r * float(alpha_t) == pytest.approx(float(alpha_u), rel=1e-12)
    assert (r * float(sigma_t)) ** 2 + n**2 == pytest.approx(float(sigma_u) ** 2, rel=1e-12)


def test_noised_takes_one_time_a_row(process):
    x0, eps = torch.randn(3, 2, 4), torch.randn(3, 2, 4)
    t = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    together = process.noised(x0, eps, t)
    for i in range(3):
        assert torch.equal(together[i : i + 1], process.noised(x0[i : i + 1], eps[i : i + 1], t[i]))


@pytest.mark.parametrize("base", [VP("linear"), VP("cosine"), VE(), Flow(), Tabulated()], ids=lambda p: p.kind)
@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_shifted_lowers_logsnr_by_log_factor(base, factor):
    shifted = Shifted(base, factor)
    t = torch.linspace(0.05, 0.8, 50, dtype=torch.float64)
    expected = base.logsnr(t) - math.log(factor)
    keep = expected > base.logsnr(as_time(1.0))
    torch.testing.assert_close(shifted.logsnr(t)[keep], expected[keep], atol=1e-10, rtol=0)
    lam = torch.linspace(-4, 8, 50, dtype=torch.float64)
    for mine, its in zip(shifted.scales(shifted.time(lam)), base.scales(base.time(lam)), strict=True):
        torch.testing.assert_close(mine, its, atol=1e-10, rtol=0)


def test_shifted_flow_is_the_time_shift_of_stable_diffusion_3():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha, sigma = Shifted(Flow(), 3.0).scales(t)
    torch.testing.assert_close(sigma, 3 * t / (1 + 2 * t), atol=1e-12, rtol=0)
    torch.testing.assert_close(alpha, 1 - sigma, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "process",
    [Flow(), ZeroTerminal(VP("linear")), ZeroTerminal(Tabulated()), Tabulated(zero_terminal=True)]
    + [Shifted(p, 2.0) for p in (Flow(), ZeroTerminal(VP("linear")), Tabulated(zero_terminal=True))],
    ids=repr,
)
def test_zero_terminal_ends_at_alpha_zero_exactly(process):
    assert process.zero_terminal
    assert float(process.scales(as_time(1.0))[0]) == 0
    assert float(process.ratio(as_time(1.0))) == math.inf


def test_other_processes_keep_some_data_at_the_end():
    assert not any(p.zero_terminal for p in (VP("linear"), VP("cosine"), VP("sigmoid"), VE(), Tabulated()))


def test_zero_terminal_of_a_variance_exploding_process_is_refused():
    with pytest.raises(KakusanError, match="does not preserve variance"):
        ZeroTerminal(VE())


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("zero", [False, True])
def test_tabulated_passes_through_its_table(schedule, zero):
    alpha = (1 - betas(schedule)).cumprod(0).sqrt()
    if zero:
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    process = Tabulated(schedule=schedule, zero_terminal=zero)
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    mine, sigma = process.scales(t)
    torch.testing.assert_close(mine, alpha, atol=1e-12, rtol=0)
    torch.testing.assert_close(sigma, (1 - alpha**2).sqrt(), atol=1e-12, rtol=0)
    below = process.scales(torch.linspace(0, 1e-3, 11, dtype=torch.float64))[1]
    assert float(below[0]) == 0
    assert bool((below.diff() > 0).all())


def test_tabulated_time_of_levels_below_the_first_entry():
    """k_d of a climb lies below a DDPM table's first entry."""
    process = Tabulated()
    k = process.ratio(as_time(1e-3)) * torch.linspace(0.05, 1, 20, dtype=torch.float64)
    torch.testing.assert_close(process.ratio(process.time(-k.log())), k, atol=0, rtol=1e-9)


def test_vp_linear_is_the_limit_of_the_ddpm_table():
    """beta(t) T = 0.1 + 19.9 t: a thousand entries agree with it to 1% in alpha/sigma, and to 4% at the end."""
    t = torch.linspace(0.05, 1, 50, dtype=torch.float64)
    gap = (VP("linear").logsnr(t) - Tabulated().logsnr(t)).abs()
    assert float(gap.max()) < 0.04
    assert float(gap[t < 0.5].max()) < 0.01


def test_published_schedules():
    t = as_time(0.37)
    assert float(VP("linear").scales(t)[0]) == pytest.approx(math.exp(-0.25 * 0.37**2 * 19.9 - 0.5 * 0.37 * 0.1))
    cosine = math.cos((0.37 + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
    assert float(VP("cosine").scales(t)[0]) == pytest.approx(cosine, abs=1e-4)  # stops at lam = -10

    def f(v: float) -> float:
        return 1 / (1 + math.exp(-(6 * v - 3) / 0.9))

    square = (f(1) - f(0.37)) / (f(1) - f(0))
    assert float(VP("sigmoid", tau=0.9).scales(t)[0]) ** 2 == pytest.approx(square, abs=1e-7)
    assert float(VE(0.01, 50).scales(as_time(1.0))[1]) == pytest.approx(50)
    for schedule in ("cosine", "sigmoid"):
        assert float(VP(schedule).logsnr(as_time(1.0))) == pytest.approx(-10, abs=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: VP("cosin"),
        lambda: VP(beta_min=3, beta_max=1),
        lambda: VP("sigmoid", tau=0),
        lambda: VE(0, 1),
        lambda: Shifted(Flow(), 0),
        lambda: Tabulated([0.1]),
        lambda: Tabulated([0.1, -0.1]),
        lambda: Tabulated([0.1, 1.0, 1.0]),
        lambda: Tabulated(schedule="none"),
        lambda: Tabulated(steps=10**12),
    ],
)
def test_bad_arguments_are_refused(make):
    with pytest.raises(KakusanError):
        make()


def test_any_list_of_betas():
    process = Tabulated([0.1, 0.2, 0.5, 1.0])
    assert process.steps == 4
    assert process.zero_terminal
    assert float(process.scales(as_time(0.5))[0]) ** 2 == pytest.approx(0.9 * 0.8)


def test_cast_broadcasts_over_rows():
    x = torch.zeros(3, 2, 4, 4)
    assert cast(torch.ones(3, dtype=torch.float64), x).shape == (3, 1, 1, 1)
    assert cast(torch.ones((), dtype=torch.float64), x).shape == ()
    assert cast(torch.ones(3, dtype=torch.float64), x).dtype == torch.float32
