"""Every kind of guidance against distributions whose guided denoiser is known, with every solver, and together."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from kakusan.core.guide import (
    Apart,
    Autoguidance,
    Branches,
    ClassifierFree,
    Denoise,
    Guide,
    Interval,
    Plain,
    Relaxed,
    Several,
    Share,
    mixed,
    pair,
)
from kakusan.core.process import VE, VP, Flow, Process
from kakusan.core.solver import DDIM, DPM2M, IPNDM, Heun, Solver, UniPC
from kakusan.core.strong import APG, Rescaled, Thresholded
from kakusan.part import KakusanError

STD = 0.4
HIGH, LOW = 27.0, 1 / 27  # so that every twentieth of 120 steps stands at a power of 3
SOLVERS: list[Solver] = [DDIM(), Heun(), DPM2M(), UniPC(), UniPC(3), IPNDM()]
PROCESSES: list[Process] = [VP("cosine"), VE(), Flow()]
T = torch.tensor(0.5, dtype=torch.float64)


def bell(mean: float, process: Process) -> Denoise:
    """The exact denoiser of N(mean, STD^2)."""

    def denoise(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        alpha, sigma = process.scales(t)
        gain = alpha * STD**2 / ((alpha * STD) ** 2 + sigma**2)
        return mean + gain * (x - alpha * mean)

    return denoise


def bells(process: Process, *means: float) -> Branches:
    """Branches of Gaussians, noting nothing."""

    def branches(x: Tensor, t: Tensor, s: Tensor, which: tuple[int, ...] | None = None) -> tuple[Tensor, ...]:
        return tuple(bell(means[i], process)(x, t, s) for i in (range(len(means)) if which is None else which))

    return branches


def grid(process: Process, steps: int = 120) -> Tensor:
    place = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return process.time(-(math.log(HIGH) + place * math.log(LOW / HIGH)))


def ended(f: Denoise, solver: Solver, process: Process, x: Tensor, times: Tensor) -> Tensor:
    memory = None
    for t, s in pairwise(times):
        x, _, memory = solver.step(f, x, t, s, process, memory)
    return x


def noisy(process: Process, t: Tensor, count: int = 6) -> Tensor:
    alpha, sigma = process.scales(t)
    return (sigma**2 + (alpha * STD) ** 2).sqrt() * torch.linspace(-2, 2, count, dtype=torch.float64)[:, None]


def flown(x: Tensor, mean: Tensor | float, process: Process, t: Tensor, s: Tensor) -> Tensor:
    """The probability flow of N(mean, STD^2): x/alpha - mean scales with the standard deviation of x_t/alpha."""
    (alpha_t, _), (alpha_s, _) = process.scales(t), process.scales(s)
    k_t, k_s = process.ratio(t), process.ratio(s)
    return alpha_s * (mean + (x / alpha_t - mean) * ((STD**2 + k_s**2) / (STD**2 + k_t**2)).sqrt())


# With one spread, every linear rule of Gaussian denoisers is the denoiser of the Gaussian whose mean obeys that rule.
RULES = {
    "classifier-free": (ClassifierFree(3.0), (0.2, 0.9), 0.2 + 3 * 0.7),
    "negative": (ClassifierFree(3.0), (-0.5, 0.9), -0.5 + 3 * 1.4),
    "several": (Several([2.0, 0.5]), (0.1, 0.4, -0.3), 0.1 + 2 * 0.3 - 0.5 * 0.4),
    "apart": (Apart([2.0, 4.0]), (-0.3, 0.4, 0.6), 0.6 + 0.9 + 3 * 0.2),
    "apart, one left out": (Apart([0.0, 1.0]), (-0.3, 0.4, 0.6), -0.3),
    "apg, all parallel": (APG([3.0], parallel=1.0), (0.2, 0.9), 0.2 + 3 * 0.7),
    "apg, one dimension": (APG([3.0], parallel=0.0), (0.2, 0.9), 0.9),  # on a line nothing is orthogonal
    "rescaled by nothing": (Rescaled(ClassifierFree(3.0), 0.0), (0.2, 0.9), 2.3),
    "relaxed": (Relaxed(ClassifierFree(3.0), [0.5]), (0.2, 0.9), 0.2 + 2 * 0.7),
    "auto beside apart": (Autoguidance(1.5, Apart([2.0])), (0.0, 0.2, 0.9), 0.9 + 0.7 + 0.5 * 0.9),
}


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("rule", RULES)
def test_sampling_ends_at_the_guided_gaussian(rule, solver):
    guide, means, mean = RULES[rule]
    process = PROCESSES[(list(RULES).index(rule) + SOLVERS.index(solver)) % len(PROCESSES)]
    times = grid(process)
    x = noisy(process, times[0])
    found = ended(guide(bells(process, *means)), solver, process, x, times)
    truth = flown(x, mean, process, times[0], times[-1])
    assert float((found - truth).abs().max()) < (0.1 if solver.kind == "solver/ddim" else 5e-3)


@pytest.mark.parametrize("process", PROCESSES[:2], ids=lambda p: p.kind)
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_an_interval_and_a_switch_follow_one_flow_and_then_the_other(solver, process):
    """From 3 to 1/3 the guided Gaussian's flow, outside the conditioned one's; and one condition after another."""
    times = grid(process)
    x = noisy(process, times[0])
    edges = [times[0], times[40], times[80], times[-1]]
    truth = x
    for mean, (t, s) in zip((0.9, 2.3, 0.9), pairwise(edges), strict=True):
        truth = flown(truth, mean, process, t, s)
    guide = Interval(ClassifierFree(3.0), process, -math.log(3.01), -math.log(0.334))
    limited = ended(guide(bells(process, 0.2, 0.9)), solver, process, x, times)
    assert float((limited - truth).abs().max()) < 0.1
    weak = pair(bells(process, 5.0), bells(process, 0.2, 0.9))  # of no weight, and still evaluated beside it
    for t in times[[20, 60, 100]]:
        torch.testing.assert_close(Autoguidance(1.0, guide)(weak)(x, t, t), guide(bells(process, 0.2, 0.9))(x, t, t))

    one, always = torch.ones(len(x), dtype=torch.float64), torch.full((len(x),), math.inf, dtype=torch.float64)
    means = [[Share(0, one, 1.01 * one, always), Share(1, one, 0 * one, 1.01 * one)]]
    middle = times[60]
    truth = flown(flown(x, -0.5, process, times[0], middle), 0.8, process, middle, times[-1])
    switched = ended(Plain()(mixed(bells(process, -0.5, 0.8), means, process)), solver, process, x, times)
    assert float((switched - truth).abs().max()) < 0.1


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_blends_of_each_samples_own_weights(solver):
    """The weighted mean of Gaussian denoisers is that of the Gaussian with the mean of the means; guided too."""
    process = VP("cosine")
    times = grid(process)
    x = noisy(process, times[0], 2)
    shares = [torch.tensor(w, dtype=torch.float64) for w in ([7.0, 1.0], [3.0, 0.0])]
    zero, always = torch.zeros(2, dtype=torch.float64), torch.full((2,), math.inf, dtype=torch.float64)
    blend = [Share(i + 1, w, zero, always) for i, w in enumerate(shares)]
    none = [Share(0, zero + 1, zero, always)]
    branches = mixed(bells(process, 0.1, -1.0, 0.5), [none, blend], process)
    means = torch.tensor([[0.7 * -1.0 + 0.3 * 0.5], [-1.0]], dtype=torch.float64)
    found = ended(ClassifierFree(2.0)(branches), solver, process, x, times)
    truth = flown(x, 0.1 + 2 * (means - 0.1), process, times[0], times[-1])
    assert float((found - truth).abs().max()) < (0.1 if solver.kind == "solver/ddim" else 5e-3)
    at = times[60]
    (alone,) = branches(x, at, at, (1,))
    torch.testing.assert_close(alone, bell(means, process)(x, at, at))


def test_only_what_counts_is_evaluated():
    asked: list[tuple[int, ...]] = []

    def branches(x: Tensor, t: Tensor, s: Tensor, which: tuple[int, ...] | None = None) -> tuple[Tensor, ...]:
        assert which is not None
        asked.append(which)
        return tuple(torch.full_like(x, float(i)) for i in which)

    process, one = VE(), torch.ones(1, dtype=torch.float64)
    means = [
        [Share(0, one, 0 * one, one / 0)],
        [Share(1, one, one, one / 0), Share(2, one, 0 * one, one)],
    ]
    both, x = mixed(branches, means, process), torch.zeros(1, 1)
    for k, expected in ((2.0, (0, 1)), (0.5, (0, 2))):
        at = process.time(-torch.tensor(k).log())
        assert [float(v) for v in both(x, at, at)] == [0.0, float(expected[1])]
        assert asked.pop() == expected
        both(x, at, at, (1,))
        assert asked.pop() == expected[1:]


def test_apart_is_several_where_conditions_are_independent():
    """Scores that add up, e_u + a + b: leaving one out says as much as having it alone."""
    u, a, b = (torch.randn(4, 3) for _ in range(3))
    for weights in ([2.0, 3.0], [1.0, 1.0], [0.0, 5.0]):
        left_out = Apart(weights)(lambda x, t, s: (u + b, u + a, u + a + b))
        alone = Several(weights)(lambda x, t, s: (u, u + a, u + b))
        torch.testing.assert_close(left_out(u, T, T), alone(u, T, T))


def test_apg_is_the_paper_s_projection():
    """Orthogonal to D_c, of limited length, and the whole difference with parallel = 1."""
    c, u = torch.randn(5, 3, 4), torch.randn(5, 3, 4)
    push = APG([4.0]).combine((u, c), T) - c
    assert float((push * c).flatten(1).sum(1).abs().max()) < 1e-4
    size = (c - u).square().flatten(1).mean(1).sqrt()
    assert bool((push.square().flatten(1).mean(1).sqrt() < 3 * size).all())
    bounded = APG([4.0], parallel=1.0, limit=0.1).combine((u, c), T) - c
    torch.testing.assert_close(bounded.square().flatten(1).mean(1).sqrt(), torch.full((5,), 0.3))
    torch.testing.assert_close(APG([4.0], 1.0).combine((u, c), T), ClassifierFree(4.0).combine((u, c), T))
    torch.testing.assert_close(APG([2.0, 5.0], 1.0).combine((u, -u, c), T), Apart([2.0, 5.0]).combine((u, -u, c), T))
    by_hand = c[0] - u[0]
    by_hand = by_hand - (by_hand * c[0]).sum() / c[0].square().sum() * c[0]
    torch.testing.assert_close(APG([4.0]).combine((u, c), T)[0], c[0] + 3 * by_hand)


def test_rescaling_gives_back_the_conditioned_spread():
    c, u = torch.randn(5, 3, 4), torch.randn(5, 3, 4)
    strong = ClassifierFree(8.0)
    whole = Rescaled(strong, 1.0).combine((u, c), T)
    torch.testing.assert_close(whole.flatten(1).std(1), c.flatten(1).std(1))
    half = Rescaled(strong, 0.5).combine((u, c), T)
    torch.testing.assert_close(half, (whole + strong.combine((u, c), T)) / 2)


def test_dynamic_thresholding():
    """Inside [-1, 1] nothing happens; else the quantile becomes 1, each sample by its own."""
    x = torch.linspace(-1, 1, 200).reshape(1, 2, 100)
    estimates = torch.cat([x, 3 * x])
    out = Thresholded(share=0.9).combine((estimates,), T)
    assert torch.equal(out[0], x[0])
    level = 3 * x.abs().flatten().sort().values[179]
    torch.testing.assert_close(out[1], (3 * x[0]).clamp(-level, level) / level)
    assert float(out.abs().max()) == 1
    assert torch.equal(Thresholded(share=1.0).combine((estimates,), T)[1], x[0] * 3 / 3)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_everything_at_once_stays_finite_and_bounded(solver):
    process = VP("cosine")
    guide: Guide = Interval(Rescaled(APG([9.0, 4.0], 0.1, 0.5), 0.7), process, -3.0, 3.0)
    guide = Thresholded(Relaxed(Autoguidance(3.0, guide), [0.0, 0.5, 1.0]), 0.9)
    assert guide.branches == 4

    def wide(mean: float) -> Branches:
        return bells(process, mean)

    def three(x: Tensor, t: Tensor, s: Tensor, which: tuple[int, ...] | None = None) -> tuple[Tensor, ...]:
        return bells(process, 0.0, 0.3, 0.8)(x, t, s, which)

    times = torch.cat([grid(process, 12), torch.zeros(1, dtype=torch.float64)])
    x = torch.randn(3, 8, dtype=torch.float64)
    out = ended(guide(pair(wide(0.1), three)), solver, process, x, times)
    assert torch.isfinite(out).all()
    if solver.kind != "solver/ipndm":  # the others land on the last estimate
        assert float(out.abs().max()) <= 1
    plain = Relaxed(Autoguidance(3.0, ClassifierFree(5.0)), [0.0])
    branches = pair(wide(0.1), bells(process, 0.0, 0.8))
    torch.testing.assert_close(plain(branches)(x, times[3], times[4]), bell(0.8, process)(x, times[3], times[4]))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Apart([]), "weights"),
        (lambda: APG([]), "weights"),
        (lambda: APG([2.0], limit=-1), "limit=-1"),
        (lambda: Rescaled(Plain(), 1.5), "amount=1.5"),
        (lambda: Thresholded(share=0.0), "share=0.0"),
        (lambda: Relaxed(Plain(), []), "shares"),
        (lambda: Relaxed(Plain(), [1.0, 0.0]).combine((torch.zeros(3, 1),), T), "2 numbers for 3 samples"),
    ],
)
def test_bad_arguments_are_named(make, said):
    with pytest.raises(KakusanError, match=said):
        make()
