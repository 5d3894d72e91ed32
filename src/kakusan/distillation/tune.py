"""tune: sampling times and solver weights for n steps, learned from a teacher's end points; the network stays as it is.

Both are optimised together by the gradient of the end points' error (Tong et al. 2025, LD3, arXiv 2405.15506, for the
times; Frankel et al. 2025, S4S, arXiv 2502.17423, for the weights), from the best known solver and grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kakusan.core.grid import Grid, Karras, UniformLam
from kakusan.core.grid import Learned as LearnedGrid
from kakusan.core.guide import Denoise
from kakusan.core.process import Process
from kakusan.core.solver import DPM2M, IPNDM, Solver, UniPC, combined, fall
from kakusan.core.solver import Learned as LearnedSolver
from kakusan.part import KakusanError

__all__ = ["Piece", "Tuned", "end_points", "error", "tune", "weights_of"]

RATE = 0.05  # Adam's, of log gaps in lam and of weights
LAM_LIMIT = 10.0


@dataclass(frozen=True)
class Piece:
    """Some samples with conditions of their own: the denoiser, the noise they start from and where the teacher ends."""

    f: Denoise
    x: Tensor
    end: Tensor


@dataclass(frozen=True)
class Tuned:
    """What was learned: root mean squared end-point errors on pieces that nothing was fitted to or chosen by.

    ``grid`` and ``solver`` are None where nothing was gained on what the model did before.
    """

    steps: int
    before: float  # with the model's own grid and solver
    started: float  # with the best known ones
    after: float
    name: str  # of the best known ones
    rounds: int
    grid: LearnedGrid | None
    solver: LearnedSolver | None
    curve: list[float] = field(default_factory=list)  # errors on the pieces chosen by, round by round


@dataclass(frozen=True)
class Plan:
    """A list of times with weights for each step, as the optimiser moves it."""

    first: Tensor  # () the first time
    low: float  # lam there, or the least that counts
    gaps: Tensor  # (n - 1,) logarithms of the gaps in lam
    weights: Tensor  # (n (n - 1)/2,)

    @property
    def lams(self) -> Tensor:
        """(n - 1,) rising lam of the times after the first."""
        return self.low + self.gaps.exp().cumsum(0)

    def detached(self) -> Plan:
        """The numbers as they are now."""
        return Plan(self.first, self.low, self.gaps.detach().clone(), self.weights.detach().clone())


def end_points(f: Denoise, x: Tensor, times: Tensor, solver: Solver, process: Process) -> Tensor:
    """Where a solver's falls lead x."""
    memory = None
    for t, s in pairwise(times):
        x, _, memory = solver.step(f, x, t, s, process, memory)
    return x


def error(ends: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Root mean square of the difference, over all samples and numbers."""
    total = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(ends, wanted, strict=True))
    return math.sqrt(total / sum(b.numel() for b in wanted))


def weights_of(solver: Solver, times: Tensor, process: Process) -> Tensor:
    """The weights with which ``Learned`` repeats a solver on its times, (n (n - 1)/2,) float64.

    Found by letting it fall from 0 with the i-th estimate being the i-th unit vector. Exact for linear multistep
    methods with one evaluation a step; others are refused.
    """
    count = len(times) - 1
    if solver.evaluations != 1:
        raise KakusanError(f"{solver.kind} makes {solver.evaluations} evaluations a step; weights are learned for one")
    units = torch.eye(count, dtype=torch.float64)
    x, memory, calls, rows = torch.zeros(1, count, dtype=torch.float64), None, iter(units), []
    for i, (t, s) in enumerate(pairwise(times)):
        before = x
        x, _, memory = solver.step(lambda x, t, s: next(calls)[None], x, t, s, process, memory)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.scales(t), process.scales(s)
        ratio = sigma_s / sigma_t
        estimate = (x - ratio * before) / (alpha_s - alpha_t * ratio)
        rows.append(-estimate[0, :i].flip(0))
    return torch.cat(rows)


def candidates(grid: Grid, solver: Solver, steps: int, process: Process) -> Iterator[tuple[str, Tensor, Solver]]:
    """The model's own grid and solver first, then the best known ones at few steps."""
    low, high = 0.01, 80.0
    if isinstance(grid, (Karras, UniformLam)):
        low, high = grid.k_min, grid.k_max
    high_low = max(low, 0.03)  # few steps are better spent above it
    grids: list[Grid] = [grid, Karras(7.0, low, high), Karras(5.0, high_low, high), UniformLam(high_low, high)]
    seen = []
    for chosen in grids:
        for way in (solver, DPM2M(), IPNDM(), UniPC(2)):
            if way.evaluations == 1 and (pair := (chosen.spec(), way.spec())) not in seen:
                seen.append(pair)
                name = f"{way.kind.split('/')[1]} on {chosen.kind.split('/')[1]}"
                yield name, chosen.times(steps, process), way


def _planned(times: Tensor, solver: Solver, process: Process) -> Plan:
    low = float(process.logsnr(times[0]).clamp(min=-LAM_LIMIT))
    lams = torch.cat([torch.tensor([low]), process.logsnr(times[1:-1])])
    return Plan(times[0], low, lams.diff().log(), weights_of(solver, times, process))


def _followed(f: Denoise, x: Tensor, plan: Plan, process: Process, sparing: bool = False) -> Tensor:
    """Where a plan leads x; ``sparing``: the network's activations are computed again in the backward pass."""
    inner = process.time(plan.lams)
    times = [plan.first, *inner.unbind(), torch.zeros((), dtype=torch.float64)]
    past: list[Tensor] = []
    for i, (t, s) in enumerate(pairwise(times)):
        x0 = checkpoint(f, x, t, s, use_reentrant=False) if sparing else f(x, t, s)
        begin = i * (i - 1) // 2
        x = fall(x, combined(x0, past, plan.weights[begin : begin + i]), t, s, process)
        past.insert(0, x0)
    return x


def tune(
    grid: Grid,
    solver: Solver,
    steps: int,
    process: Process,
    fit: Sequence[Piece],
    choose: Sequence[Piece],
    test: Sequence[Piece],
    rounds: int = 20,
    rate: float = RATE,
    gone: Callable[[], float] = lambda: 0.0,
    tell: Callable[[int, float], None] = lambda done, error: None,
) -> Tuned:
    """Times and weights for ``steps`` steps that end nearest to where the teacher ends.

    ``grid`` and ``solver``: the model's own. The plan is fitted to the pieces ``fit``, the best of the rounds is chosen
    by ``choose``, and it is kept only if it beats the model's own on ``test``. Each round passes over ``fit`` once;
    ``gone`` is the share of the time that is gone: at 1 it ends.
    """
    if steps < 2:
        raise KakusanError(f"steps={steps}: one step has nothing to tune; give 2 or more, or use method='consistency'")

    @torch.no_grad()
    def judged(plan: Plan, pieces: Sequence[Piece]) -> float:
        return error([_followed(p.f, p.x, plan, process) for p in pieces], [p.end for p in pieces])

    name, start = _best_known(grid, solver, steps, process, lambda plan: judged(plan, choose))
    with torch.no_grad():
        own = grid.times(steps, process)
        before = error([end_points(p.f, p.x, own, solver, process) for p in test], [p.end for p in test])
    plan, curve, done = _optimised(start, fit, lambda p: judged(p, choose), process, rounds, rate, gone, tell)
    started, after = judged(start, test), judged(plan, test)
    if started < after:
        plan, after = start, started
    if not after < before:
        return Tuned(steps, before, started, before, name, done, None, None, curve)
    lams, weights = [plan.lams.tolist()], [plan.weights.tolist()]
    return Tuned(
        steps, before, started, after, name, done, LearnedGrid(lams, grid), LearnedSolver(lams, weights, solver), curve
    )


def _best_known(
    grid: Grid, solver: Solver, steps: int, process: Process, judge: Callable[[Plan], float]
) -> tuple[str, Plan]:
    """The candidate with the least error."""
    found = [(name, _planned(times, way, process)) for name, times, way in candidates(grid, solver, steps, process)]
    scores = [judge(plan) for _, plan in found]
    return found[min(range(len(found)), key=scores.__getitem__)]


def _optimised(
    start: Plan,
    fit: Sequence[Piece],
    judge: Callable[[Plan], float],
    process: Process,
    rounds: int,
    rate: float,
    gone: Callable[[], float],
    tell: Callable[[int, float], None],
) -> tuple[Plan, list[float], int]:
    """Adam over the pieces in turn, its rate falling to 0; the best of the rounds, every round's error, how many."""
    plan = start.detached()
    params = [plan.gaps.requires_grad_(), plan.weights.requires_grad_()]
    adam = torch.optim.Adam(params, lr=rate, betas=(0.9, 0.99))
    best, curve, taken, total = start, [judge(start)], 0, rounds * len(fit)
    for done in range(rounds):
        for i in torch.randperm(len(fit), generator=torch.Generator().manual_seed(done)).tolist():
            piece, over = fit[i], gone()
            if over >= 1:
                return best, curve, done
            adam.param_groups[0]["lr"] = rate * (1 - max(taken / total, over))
            taken += 1
            end = _followed(piece.f, piece.x, plan, process, sparing=True)
            loss = (end.float() - piece.end.float()).square().mean().sqrt()
            adam.zero_grad()
            loss.backward()
            if all(bool(torch.isfinite(p.grad).all()) for p in params if p.grad is not None):
                adam.step()
        curve.append(judge(plan.detached()))
        tell(done + 1, curve[-1])
        if curve[-1] == min(curve):
            best = plan.detached()
    return best, curve, rounds
