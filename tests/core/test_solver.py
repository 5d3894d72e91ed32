"""Solvers reach their orders of accuracy, measured against the exact probability flow of a mixture."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from kakusan.core.process import VE, VP, Flow, Process, Shifted, Tabulated
from kakusan.core.solver import DDIM, DPM2M, IPNDM, Heun, Memory, Solver, UniPC, fall
from kakusan.part import KakusanError

THREE: list[Process] = [VP("cosine"), VE(), Flow()]
HIGH, LOW = 6.0, 0.15  # between two interior noise levels, k = sigma/alpha


def grid(process: Process, steps: int, spacing: str, high: float = HIGH, low: float = LOW) -> Tensor:
    place = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    if spacing == "lam":
        k = torch.exp(math.log(high) + place * math.log(low / high))
    elif spacing == "k":
        k = high + place * (low - high)
    else:
        k = (high ** (1 / 7) + place * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    return process.time(-k.log())


def beginning(mixture, process: Process, t: Tensor) -> Tensor:
    x0 = mixture.draw(64)
    eps = torch.randn(64, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return process.noised(x0, eps, t)


def warm(mixture, process: Process, x: Tensor, times: Tensor, count: int) -> Memory:
    """The slopes at the ``count`` times before the last of ``times``, made on the exact path through x there."""
    f, past = mixture.denoiser(process), []
    for t in times[-count - 1 : -1].flip(0):
        at = mixture.flow(x, times[-1], t, process)
        alpha, sigma = process.scales(t)
        past.append((process.logsnr(t), (at - alpha * f(at, t, t)) / sigma))
    return Memory(tuple(past))


def error(mixture, solver: Solver, process: Process, times: Tensor, exact_start: int = 0) -> float:
    """Root mean square error at the last time, from exact points at the first, with exact memory if asked for."""
    f = mixture.denoiser(process)
    begin = exact_start
    x = beginning(mixture, process, times[0])
    memory = None
    if exact_start:
        x = mixture.flow(x, times[0], times[begin], process)
        memory = warm(mixture, process, x, times[: begin + 1], exact_start)
    first, at = x, times[begin]
    for t, s in pairwise(times[begin:]):
        x, _, memory = solver.step(f, x, t, s, process, memory)
    return float((x - mixture.flow(first, at, times[-1], process)).square().mean().sqrt())


def order(mixture, solver: Solver, process: Process, spacing: str = "lam", exact_start: int = 0, n: int = 96) -> float:
    few, many = (error(mixture, solver, process, grid(process, m, spacing), exact_start) for m in (n, 2 * n))
    return math.log2(few / many)


ORDERS = [
    (DDIM(), 0.97, 1.03),
    (Heun(), 1.9, 2.1),
    (DPM2M(), 1.95, 2.05),
    (UniPC(1), 1.95, 2.05),
    (UniPC(2, corrector=False), 1.95, 2.05),
    (UniPC(2), 2.8, 3.1),
    (UniPC(3), 3.5, 4.2),
]


@pytest.mark.parametrize("process", THREE, ids=lambda p: p.kind)
@pytest.mark.parametrize(("solver", "low", "high"), ORDERS, ids=repr)
def test_order_of_accuracy(two, process, solver, low, high):
    assert low < order(two, solver, process) < high


@pytest.mark.parametrize("process", THREE, ids=lambda p: p.kind)
@pytest.mark.parametrize(("spacing", "low", "high"), [("k", 3.8, 4.3), ("karras", 1.9, 2.1), ("lam", 1.9, 2.1)])
def test_order_of_ipndm_is_four_on_a_uniform_k_grid_only(two, process, spacing, low, high):
    assert low < order(two, IPNDM(), process, spacing, exact_start=3, n=192 if spacing == "k" else 96) < high


@pytest.mark.parametrize(("solver", "low", "high"), ORDERS[:6], ids=repr)
def test_order_of_accuracy_in_the_plane(plane, solver, low, high):
    """Against UniPC-3 with 1,500 steps, since only the line has a closed form."""
    process = VP("cosine")
    f = plane.denoiser(process)
    first = process.noised(plane.draw(16), torch.randn(16, 2, dtype=torch.float64), grid(process, 1, "lam")[0])

    def end(by: Solver, steps: int) -> Tensor:
        x, memory = first, None
        for t, s in pairwise(grid(process, steps, "lam", low=0.3)):
            x, _, memory = by.step(f, x, t, s, process, memory)
        return x

    truth = end(UniPC(3), 1500)
    few, many = (float((end(solver, n) - truth).square().mean().sqrt()) for n in (50, 100))
    assert low - 0.15 < math.log2(few / many) < high + 0.15


@pytest.mark.parametrize("solver", [DDIM(), Heun(), DPM2M(), UniPC(), IPNDM()], ids=lambda s: s.kind)
@pytest.mark.parametrize("process", [*THREE, Tabulated(), Shifted(Flow(), 3.0)], ids=lambda p: p.kind)
def test_gaussian_flow_has_its_closed_form(bell, solver, process):
    """x_t - alpha m scales with the standard deviation of x_t."""
    times = grid(process, 400, "karras")
    f, x = bell.denoiser(process), beginning(bell, process, times[0])
    (alpha_t, sigma_t), (alpha_s, sigma_s) = process.scales(times[0]), process.scales(times[-1])
    scale = ((0.25 * alpha_s**2 + sigma_s**2) / (0.25 * alpha_t**2 + sigma_t**2)).sqrt()
    truth = alpha_s * 0.5 + scale * (x - alpha_t * 0.5)
    memory = None
    for t, s in pairwise(times):
        x, _, memory = solver.step(f, x, t, s, process, memory)
    assert float((x - truth).abs().max()) < (1e-2 if solver.kind == "solver/ddim" else 3e-5)


@pytest.mark.parametrize("solver", [DDIM(), Heun(), DPM2M(), UniPC(), IPNDM()], ids=lambda s: s.kind)
def test_relabelling_time_or_rescaling_space_changes_nothing(two, solver):
    """At equal k every process takes the same path in x/alpha; ``Shifted`` equals its base at equal lam to 1e-10."""
    ends = []
    base = VP("cosine")
    for process in (base, Shifted(base, 3.0), VE(), Flow(), Shifted(Flow(), 0.5), Tabulated()):
        times = grid(process, 12, "lam")
        f, x, memory = two.denoiser(process), beginning(two, VE(), VE().time(torch.tensor(-math.log(HIGH)))), None
        x = x * process.scales(times[0])[0]
        for t, s in pairwise(times):
            x, _, memory = solver.step(f, x, t, s, process, memory)
        ends.append(x / process.scales(times[-1])[0])
    assert max(float((e - ends[0]).abs().max()) for e in ends) < 1e-10


@pytest.mark.parametrize("solver", [DDIM(), Heun(), DPM2M(), UniPC(), UniPC(3), IPNDM()], ids=repr)
def test_from_pure_noise_to_clean_data(two, solver):
    """From alpha = 0 to sigma = 0 all is finite; the first step is DDIM's, the last lands on x0 (not IPNDM's)."""
    process = Flow()
    f = two.denoiser(process)
    x, memory = torch.randn(8, 1, dtype=torch.float64), None
    times = torch.tensor([1.0, 0.7, 0.4, 0.2, 0.0], dtype=torch.float64)
    for i, (t, s) in enumerate(pairwise(times)):
        if i == 0:
            expected = fall(x, f(x, t, s), t, s, process)
        x, x0, memory = solver.step(f, x, t, s, process, memory)
        assert torch.isfinite(x).all()
        if i == 0:
            assert torch.equal(x, expected)
    if solver.kind != "solver/ipndm":
        torch.testing.assert_close(x, x0)


def test_memory_holds_no_more_than_the_order_needs(two):
    process = VP("cosine")
    f, x = two.denoiser(process), torch.randn(4, 1, dtype=torch.float64)
    for solver, kept in ((DPM2M(), 1), (UniPC(2), 2), (UniPC(3), 3), (IPNDM(4), 4), (IPNDM(2), 2)):
        memory = None
        for t, s in pairwise(grid(process, 8, "lam")):
            x, _, memory = solver.step(f, x, t, s, process, memory)
        assert memory is not None
        assert len(memory.past) == kept


@pytest.mark.parametrize("solver", [DDIM(), Heun(), DPM2M(), UniPC(), IPNDM()], ids=lambda s: s.kind)
def test_evaluations_are_as_declared(two, solver):
    process, calls = VP("cosine"), []
    inner = two.denoiser(process)

    def f(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        calls.append(float(t))
        return inner(x, t, s)

    x, memory = torch.randn(4, 1, dtype=torch.float64), None
    for t, s in pairwise(grid(process, 6, "lam")):
        x, _, memory = solver.step(f, x, t, s, process, memory)
    assert len(calls) == 6 * solver.evaluations


@pytest.mark.parametrize("make", [lambda: UniPC(4), lambda: UniPC(0), lambda: IPNDM(5)])
def test_orders_that_do_not_exist_are_refused(make):
    with pytest.raises(KakusanError, match="order="):
        make()
