"""Samples follow the known distribution, deterministic or climbing, and do not depend on their batch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kakusan.core.grid import Karras, UniformLam, UniformT, churn, climb, resample
from kakusan.core.process import VE, VP, Flow, Process, Tabulated, ZeroTerminal
from kakusan.core.rng import Rng
from kakusan.core.sample import invert, run, sample, start
from kakusan.core.solver import DDIM, DPM2M, IPNDM, Heun, Solver, UniPC
from kakusan.core.space import Centred, Flat
from kakusan.part import KakusanError

SOLVERS: list[Solver] = [DDIM(), Heun(), DPM2M(), UniPC(), IPNDM()]


def wide(mixture, process: Process):
    """The exact denoiser over (B, D, N): N points a sample, so that few seeds give many draws."""
    inner = mixture.denoiser(process)

    def denoise(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        points = x.movedim(1, -1)
        return inner(points.reshape(-1, x.shape[1]), t, s).reshape(points.shape).movedim(-1, 1)

    return denoise


def drawn(mixture, process: Process, times: Tensor, solver: Solver, points: int = 5000, seeds: int = 4) -> Tensor:
    """Samples (seeds * points, D) by the library's own loop."""
    shapes = [(mixture.means.shape[1], points)] * seeds
    rng, space = Rng(list(range(seeds))), Flat()
    x = start(times, process, space, shapes, rng).double()
    x = run(sample(wide(mixture, process), x, times, solver, process, space, rng))
    return x.movedim(1, -1).reshape(-1, mixture.means.shape[1])


def lists(process: Process, steps: int) -> dict[str, Tensor]:
    times = Karras().times(steps, process)
    return {"eta 0": times, "eta 0.5": climb(times, process, 0.5), "eta 1": climb(times, process, 1.0)} | {
        "churn": churn(times, process, 20.0)
    }


class OneHot(Flat):
    """Noise that is 1 in one row of the batch, the next one at each draw, and 0 elsewhere."""

    kind = "test/one-hot"

    def __init__(self) -> None:
        self.row = 2

    def noise(self, shapes, rng, purpose, step=0):
        eps = torch.zeros(len(shapes), 1, dtype=torch.float64)
        eps[self.row] = 1
        self.row += 1
        return eps


def moments(mixture, process: Process, times: Tensor, solver: Solver) -> tuple[float, float]:
    """Mean and variance of the samples, exactly: for one Gaussian a sample is an affine function of its draws, which
    the library's own loop gives when each draw is turned on in a row of its own."""
    x = torch.zeros(2 + int((times.diff() > 0).sum()), 1, dtype=torch.float64)
    x[1] = process.scales(times[0])[1]
    ends = run(sample(mixture.denoiser(process), x, times, solver, process, OneHot(), Rng([0] * len(x))))[:, 0]
    return float(ends[0]), float((ends[1:] - ends[0]).square().sum())


@pytest.mark.parametrize("kind", ["eta 0", "eta 0.5", "eta 1", "churn"])
@pytest.mark.parametrize("process", [VP("cosine"), Flow()], ids=lambda p: p.kind)
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.kind)
def test_mean_and_variance_converge_to_the_truth(bell, process, solver, kind):
    """A climb clears the memory: kept, eta = 1 with 2M tends to a variance of 0.34. Cleared, multistep solvers are DDIM
    there, of first order; Heun stays of second."""
    (_, few), (mean, many) = (moments(bell, process, lists(process, n)[kind], solver) for n in (60, 120))
    second = isinstance(solver, Heun) or (kind == "eta 0" and not isinstance(solver, DDIM))
    assert mean == pytest.approx(0.5, abs=0.004)  # the start leaves out alpha x0, 1/80 of it
    assert abs(many - 0.25) < abs(few - 0.25)
    limit = (4 * many - few) / 3 if second else 2 * many - few
    assert abs(many - 0.25) < (0.003 if second else 0.04)
    assert limit == pytest.approx(0.25, abs=0.0006 if second else 0.008)


@pytest.mark.parametrize("process", [VE(), ZeroTerminal(Tabulated()), Tabulated()], ids=lambda p: p.kind)
def test_mean_and_variance_on_the_other_processes(bell, process):
    for times in lists(process, 80).values():
        mean, variance = moments(bell, process, times, Heun())
        assert mean == pytest.approx(0.5, abs=0.005)
        assert variance == pytest.approx(0.25, abs=0.006)


@pytest.mark.parametrize("kind", ["eta 0", "eta 0.5", "eta 1", "churn"])
def test_draws_have_the_mean_and_variance_of_the_affine_map(bell, kind):
    process, solver = VP("cosine"), DPM2M()
    times = lists(process, 40)[kind]
    mean, variance = moments(bell, process, times, solver)
    x = drawn(bell, process, times, solver)
    assert float(x.mean()) == pytest.approx(mean, abs=0.012)
    assert float(x.var()) == pytest.approx(variance, rel=0.035)


@pytest.mark.parametrize("kind", ["eta 0", "eta 0.5", "eta 1", "churn"])
@pytest.mark.parametrize("process", [VP("linear"), Flow()], ids=lambda p: p.kind)
def test_a_mixture_has_its_weights_means_and_spread(plane, process, kind):
    x = drawn(plane, process, lists(process, 70)[kind], Heun(), points=2000)
    nearest = torch.cdist(x, plane.means).argmin(1)
    for i, weight in enumerate(plane.weights.tolist()):
        mine = x[nearest == i]
        assert len(mine) / len(x) == pytest.approx(weight, abs=0.02)
        torch.testing.assert_close(mine.mean(0), plane.means[i], atol=0.03, rtol=0)
        assert float(mine.var(0).mean()) == pytest.approx(0.0625, rel=0.1)


@pytest.mark.parametrize("kind", ["eta 0", "eta 1"])
def test_a_mixture_on_the_line_follows_its_cdf(two, kind):
    process = VP("cosine")
    x = drawn(two, process, lists(process, 80)[kind], Heun(), points=2500).sort(0).values
    level = two.cdf(x, torch.tensor(0.0, dtype=torch.float64), process)[:, 0]
    place = (torch.arange(len(x)) + 0.5) / len(x)
    assert float((level - place).abs().max()) < 1.95 / len(x) ** 0.5  # Kolmogorov-Smirnov, p = 0.001


def test_the_last_step_lands_on_clean_data(bell):
    for grid in (Karras(), UniformLam(), UniformT()):
        steps = list(both(bell, Flow(), grid.times(5, Flow()), DPM2M()))
        assert steps[-1].t == 0
        torch.testing.assert_close(steps[-1].x, steps[-1].x0)


def both(mixture, process: Process, times: Tensor, solver: Solver):
    rng = Rng([1, 2])
    x = start(times, process, Flat(), [(1, 3)] * 2, rng).double()
    return sample(wide(mixture, process), x, times, solver, process, Flat(), rng)


def test_steps_tell_where_they_are(bell):
    process = VP("cosine")
    times = climb(Karras().times(4, process), process)
    steps = list(both(bell, process, times, DDIM()))
    assert [s.index for s in steps] == list(range(7))
    assert {s.count for s in steps} == {7}
    assert [s.t for s in steps] == times[1:].tolist()
    assert all(s.x.shape == s.x0.shape == (2, 1, 3) for s in steps)
    for fell, climbed in zip(steps[::2], steps[1::2], strict=False):
        assert climbed.t > fell.t
        assert torch.equal(climbed.x0, fell.x0)


def test_a_sampling_loop_is_lazy_and_can_be_left(bell):
    calls = []
    process = VP("cosine")

    def f(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        calls.append(1)
        return x * 0

    loop = sample(f, torch.zeros(1, 1), Karras().times(10, process), DDIM(), process, Flat(), Rng([0]))
    next(loop)
    next(loop)
    loop.close()
    assert len(calls) == 2


def net(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """A fixed function that mixes the positions of a sample, not the samples."""
    return torch.tanh(x + 0.3 * x.roll(1, -1) - 0.2 * x.roll(1, 1)) * 0.8


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.kind)
@pytest.mark.parametrize("make", [climb, lambda t, p: churn(t, p, 10.0), lambda t, p: resample(t, 2)])
def test_a_sample_alone_is_the_sample_in_a_batch(solver, make):
    process = VP("cosine")
    times = make(Karras().times(8, process), process)

    def pictures(seeds: list[int]) -> Tensor:
        rng = Rng(seeds)
        x = start(times, process, Flat(), [(2, 6, 5)] * len(seeds), rng)
        return run(sample(net, x, times, solver, process, Flat(), rng))

    together = pictures([3, 4, 5, 6, 7])
    for i in (0, 2, 4):
        torch.testing.assert_close(together[i : i + 1], pictures([3 + i]), atol=1e-5, rtol=0)
    assert float((together[0] - together[1]).abs().max()) > 0.1


def test_padding_does_not_change_a_sample():
    """Sets of different sizes in one batch, with climbs, in a space without centre of mass."""
    process, space = VP("cosine"), Centred(2)
    times = climb(Karras().times(6, process), process)

    def sets(seeds: list[int], sizes: list[int]) -> Tensor:
        shapes, rng = [(n, 3) for n in sizes], Rng(seeds)
        mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
        x = start(times, process, space, shapes, rng)

        def f(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            return space.project(torch.tanh(x), mask)

        return run(sample(f, x, times, DDIM(), process, space, rng, shapes, mask))

    together = sets([1, 2], [5, 3])
    torch.testing.assert_close(together[1:, :3], sets([2], [3]), atol=1e-5, rtol=0)
    assert not together[1, 3:].any()
    assert float(together[..., :2].sum(1).abs().max()) < 1e-5


def test_start_has_the_spread_of_its_time():
    process = VE()
    x = start(
        process.time(torch.tensor([-math.log(20.0)], dtype=torch.float64)), process, Flat(), [(20_000,)], Rng([0])
    )
    assert float(x.std()) == pytest.approx(20, rel=0.02)


def round_trip(mixture, process: Process, steps: int, refine: int) -> float:
    k = torch.exp(torch.linspace(math.log(0.05), math.log(10.0), steps + 1, dtype=torch.float64))
    up = process.time(-k.log())
    f = mixture.denoiser(process)
    x = process.noised(mixture.draw(32), torch.zeros(32, 1, dtype=torch.float64), up[0])
    back = run(sample(f, invert(f, x, up, process, refine), up.flip(0), DDIM(), process, Flat(), Rng([0] * 32)))
    return float((back - x).abs().max())


@pytest.mark.parametrize("process", [VP("cosine"), VE(), Flow()], ids=lambda p: p.kind)
def test_inversion_comes_back_better_with_more_steps(two, process):
    few, many = round_trip(two, process, 40, 0), round_trip(two, process, 160, 0)
    assert many < few / 2.5
    assert many < 0.1


@pytest.mark.parametrize("process", [VP("cosine"), VE(), Flow()], ids=lambda p: p.kind)
def test_refined_inversion_is_the_exact_inverse_of_ddim(two, process):
    assert round_trip(two, process, 40, 60) < 1e-9


def test_bad_lists_are_refused():
    process = VP()
    with pytest.raises(KakusanError, match="rising"):
        invert(net, torch.zeros(1, 1, 1), torch.tensor([0.5, 0.1]), process)
    with pytest.raises(KakusanError, match="rising"):
        invert(net, torch.zeros(1, 1, 1), torch.tensor([0.0, 0.1]), process)
    with pytest.raises(KakusanError, match="at least two"):
        run(sample(net, torch.zeros(1, 1, 1), torch.tensor([0.5]), DDIM(), process, Flat(), Rng([0])))
