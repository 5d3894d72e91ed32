"""Learned times and weights: exact repetition of known solvers, gains on a known denoiser, fallbacks, round trips."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from distillation.conftest import exact
from kakusan.catalog import build
from kakusan.core.grid import Karras, UniformLam
from kakusan.core.grid import Learned as LearnedGrid
from kakusan.core.process import VE, VP, Flow, Process
from kakusan.core.solver import DDIM, DPM2M, IPNDM, Heun, Solver, UniPC
from kakusan.core.solver import Learned as LearnedSolver
from kakusan.distillation.tune import Piece, Tuned, end_points, error, tune, weights_of
from kakusan.part import KakusanError

PROCESSES = {"ve": VE(), "vp": VP("cosine"), "flow": Flow()}
GRID = Karras(7.0, 0.01, 80.0)


def noise(process: Process, count: int, seed: int, grid: Karras | UniformLam = GRID) -> torch.Tensor:
    draw = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return process.scales(grid.times(5, process)[0])[1] * draw


def piece(process: Process, count: int, seed: int, solver: Solver, steps: int) -> Piece:
    f, x = exact(process), noise(process, count, seed)
    return Piece(f, x, end_points(f, x, GRID.times(steps, process), solver, process))


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("solver", [DDIM(), DPM2M(), IPNDM(), UniPC(2), UniPC(3), UniPC(2, False)], ids=repr)
def test_any_multistep_solver_is_repeated_exactly_by_its_weights(process, solver):
    """From alpha = 0 too, where flow begins; the corrector, which changes x after the fact, included."""
    grid = UniformLam(0.01, 80.0)
    times = grid.times(6, process)
    lams = process.logsnr(times[1:-1]).tolist()
    learned = LearnedSolver([lams], [weights_of(solver, times, process).tolist()], Heun())
    on = LearnedGrid([lams], grid).times(6, process)
    torch.testing.assert_close(on, times, rtol=0, atol=1e-12)
    x, f = noise(process, 50, 0, grid), exact(process)
    torch.testing.assert_close(
        end_points(f, x, on, learned, process), end_points(f, x, times, solver, process), rtol=1e-8, atol=1e-8
    )


def test_weights_of_two_evaluations_a_step_are_refused():
    with pytest.raises(KakusanError, match="2 evaluations a step"):
        weights_of(Heun(), GRID.times(4, VE()), VE())


@pytest.mark.parametrize("base", [DPM2M(), IPNDM(), UniPC(2)], ids=repr)
def test_other_numbers_of_steps_are_left_to_the_model_s_own_way(base):
    """Also from the middle of a learned list, as editing starts: nothing of one solver's memory reaches the other."""
    process, lams = VE(), [-2.0, 0.0, 1.5]
    grid, solver = LearnedGrid([lams], GRID), LearnedSolver([lams], [[0.3, 0.2, 0.1, 0.4, -0.1, 0.2]], base)
    x, f = noise(process, 20, 1), exact(process)
    for times in (grid.times(7, process), grid.times(4, process)[1:]):
        assert torch.equal(end_points(f, x, times, solver, process), end_points(f, x, times, base, process))
    learned = grid.times(4, process)
    assert not torch.equal(end_points(f, x, learned, solver, process), end_points(f, x, learned, base, process))


def learned(process: Process, steps: int, rounds: int = 25) -> Tuned:
    sets = [[piece(process, 20, i, Heun(), 60) for i in range(4)]]
    sets += [[piece(process, 100, 100, Heun(), 60)], [piece(process, 200, 200, Heun(), 60)]]
    return tune(GRID, DPM2M(), steps, process, *sets, rounds=rounds)


@pytest.mark.parametrize(("steps", "factor"), [(4, 3.0), (5, 6.0)])
def test_few_steps_end_much_nearer_to_the_teacher(steps, factor):
    """By ``factor`` on seeds that nothing was fitted to, and well nearer than the best known solver and grid."""
    process = VE()
    found = learned(process, steps)
    assert found.grid is not None and found.solver is not None
    assert found.after < found.before / factor
    assert found.after < 0.6 * found.started and found.started <= found.before * (1 + 1e-6)
    assert all(a < b for a, b in pairwise(found.grid.lams[0])) and len(found.grid.lams[0]) == steps - 1
    grid, solver = build(found.grid.spec()), build(found.solver.spec())
    x = noise(process, 200, 200)
    f, wanted = exact(process), piece(process, 200, 200, Heun(), 60).end
    again = error([end_points(f, x, grid.times(steps, process), solver, process)], [wanted])
    assert again == pytest.approx(found.after, rel=1e-6)


def test_what_is_learned_does_not_depend_on_the_process():
    """Variance preserving or exploding: the same noise levels, the same weights."""
    one, other = learned(VE(), 4, 3), learned(VP("cosine"), 4, 3)
    assert one.grid is not None and other.grid is not None and one.solver is not None and other.solver is not None
    assert one.grid.lams[0] == pytest.approx(other.grid.lams[0], abs=1e-4)
    assert one.solver.weights[0] == pytest.approx(other.solver.weights[0], abs=1e-4)


def test_no_gain_changes_nothing():
    """A teacher that is the model's own solver at the same steps can not be come nearer to."""
    process = VE()
    sets = [[piece(process, 20, i, DPM2M(), 4)] for i in range(3)]
    found = tune(GRID, DPM2M(), 4, process, *sets, rounds=2)
    assert found.grid is None and found.solver is None
    assert found.before == found.after == 0.0


def test_time_that_is_gone_leaves_the_best_known():
    process = VE()
    sets = [[piece(process, 20, i, Heun(), 30)] for i in range(3)]
    found = tune(GRID, DPM2M(), 5, process, *sets, gone=lambda: 1.0)
    assert found.rounds == 0 and found.after == found.started < found.before


def test_one_step_has_nothing_to_tune():
    with pytest.raises(KakusanError, match="steps=1: one step has nothing to tune"):
        tune(GRID, DPM2M(), 1, VE(), [], [], [])


@pytest.mark.parametrize(
    ("lams", "weights"), [([], []), ([[0.0, 1.0]], [[0.1, 0.2]]), ([[0.0]], [])], ids=["none", "few", "unequal"]
)
def test_lists_and_weights_fit_each_other(lams, weights):
    with pytest.raises(KakusanError, match=r"weights: need n \(n - 1\)/2"):
        LearnedSolver(lams, weights, DPM2M())


def test_learned_lists_rise():
    with pytest.raises(KakusanError, match="rising"):
        LearnedGrid([[1.0, 0.5]], GRID)
