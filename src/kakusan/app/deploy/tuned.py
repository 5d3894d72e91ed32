"""Learned times and weights for a model: the seeds they are learned from, and the defaults that use what was found."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from kakusan.app.command.show import Progress
from kakusan.app.draw import branches, sampler
from kakusan.app.draw.loaded import Loaded
from kakusan.catalog import build
from kakusan.core.grid import Grid
from kakusan.core.grid import Learned as LearnedGrid
from kakusan.core.rng import Rng
from kakusan.core.sample import start
from kakusan.core.solver import Learned as LearnedSolver
from kakusan.core.solver import Solver
from kakusan.distillation.tune import Piece, Tuned, end_points, tune

__all__ = ["Seeds", "merged", "tuned"]

TEACHER = 30  # steps of the teacher's trajectories
BATCH = 10  # samples of a piece: one step of the optimiser
FIRST = 3_000_000  # seed of the first sample
SHARE = 0.35  # of the time goes into end points to fit, at most
Tree = dict[str, Any]


@dataclass(frozen=True)
class Seeds:
    """How many samples say what was gained, how many choose the best round, how many are fitted (time permitting)."""

    test: int = 40
    choose: int = 20
    fit: int = 100


def tuned(
    loaded: Loaded,
    steps: int,
    seconds: float,
    shown: Progress,
    stop: Callable[[], bool],
    seeds: Seeds = Seeds(),
    **settings: Any,
) -> Tuned | None:
    """Times and weights for so many steps, learned in about so many seconds; None when asked to stop.

    ``settings`` (guidance, autoguidance): as a Request takes them; the model's own otherwise.
    """
    begun, model = time.monotonic(), loaded.model
    own = _own(sampler.defaults(model))
    request = loaded.request(1, None, None, 0, None, grid=own["grid"], solver=own["solver"], **settings)
    settled = sampler.settle(model, request)
    grid, solver = build(settled["grid"], "grid"), build(settled["solver"], "solver")
    assert isinstance(grid, Grid) and isinstance(solver, Solver)
    asked = [p.requires_grad for p in model.parameters()]
    model.requires_grad_(False)
    try:

        def gone() -> float:
            return 1.0 if stop() else (time.monotonic() - begun) / seconds

        test, choose, fit = _sets(loaded, settled, grid, solver, seeds, shown, stop, gone)
        if stop():
            return None
        shown.start(1000, f"tuning {steps} steps", "share")

        def tell(done: int, error: float) -> None:
            shown.update(min(1000, int(1000 * gone())), note=f"round {done}: error {error:.4g}")

        found = tune(grid, solver, steps, model.denoiser.process, fit, choose, test, gone=gone, tell=tell)
        shown.stop()
        return None if stop() else found
    finally:
        for p, was in zip(model.parameters(), asked):
            p.requires_grad_(was)


def merged(model_defaults: Tree, found: Tuned) -> Tree:
    """The sampling defaults with what was found; lists for other numbers of steps, learned before, stay."""
    assert found.grid is not None and found.solver is not None
    grid, solver = found.grid.spec(), found.solver.spec()
    before = (model_defaults.get("grid") or {}, model_defaults.get("solver") or {})
    if (before[0].get("kind"), before[1].get("kind")) == (LearnedGrid.kind, LearnedSolver.kind):
        for lams, weights in zip(before[1]["lams"], before[1]["weights"], strict=True):
            if len(lams) != found.steps - 1:
                grid["lams"].append(lams)
                solver["lams"].append(lams)
                solver["weights"].append(weights)
    return {"grid": grid, "solver": solver, "steps": found.steps, "eta": 0.0}


def _own(defaults: Tree) -> Tree:
    """The grid and solver before any tuning."""
    return {
        name: defaults[name]["base"] if str(defaults[name]["kind"]).endswith("/learned") else defaults[name]
        for name in ("grid", "solver")
    }


def _sets(
    loaded: Loaded,
    settled: Tree,
    grid: Grid,
    solver: Solver,
    seeds: Seeds,
    shown: Progress,
    stop: Callable[[], bool],
    gone: Callable[[], float],
) -> list[list[Piece]]:
    """Pieces to test with, to choose by and to fit, their end points drawn by the teacher; of each at least one."""
    counts = (seeds.test, seeds.choose, seeds.fit)
    shown.start(sum(counts), "the teacher's end points", "sample")
    sets: list[list[Piece]] = []
    done = 0
    for count in counts:
        pieces: list[Piece] = []
        for rows in _pieces(FIRST + done, count):
            if stop() or (pieces and gone() > (SHARE if len(sets) == 2 else 1)):
                break
            pieces.append(_piece(loaded, settled, grid, solver, rows))
            done += len(rows)
            shown.update(done)
        sets.append(pieces)
    shown.stop()
    return sets


def _pieces(first: int, count: int) -> Iterator[list[int]]:
    for i in range(0, count, BATCH):
        yield list(range(first + i, first + min(count, i + BATCH)))


@torch.no_grad()
def _piece(loaded: Loaded, settled: Tree, grid: Grid, solver: Solver, seeds: list[int]) -> Piece:
    """A few samples, their classes decided by their seeds as in sampling."""
    model = loaded.model
    process, space = model.denoiser.process, model.denoiser.space
    cond = {"label": list(sampler.random_labels(loaded.classes, seeds))} if loaded.classes else {}
    f = branches.denoiser(model, settled, cond, {}, seeds)
    times = grid.times(TEACHER, process)
    x = start(times, process, space, loaded.domain.blank(len(seeds)), Rng(seeds, loaded.device))
    return Piece(f, x, end_points(f, x, times, solver, process))
