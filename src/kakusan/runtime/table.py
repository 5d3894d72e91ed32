"""Sampling as a table of numbers: what remains of process, parametrisation, grid, solver and guidance for one model.

All of these are linear in the noisy sample and the estimates of x0, so the sampler's own code, run once on unit
vectors in place of tensors, says which numbers it multiplies them by. Nothing is derived a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from kakusan.core.denoiser import LAM_MAX, Denoiser
from kakusan.core.guide import Guide
from kakusan.core.solver import Solver
from kakusan.part import KakusanError

__all__ = ["Row", "rows"]

_NOTHING = 1e-11  # of the largest number of a row: what rounding leaves of numbers that cancel


@dataclass(frozen=True)
class Row:
    """One evaluation: ``x0 = sum_j weights[j] D_j(x)`` over the branches, then
    ``x = a x + sum_i b[i] x0_i + noise N(0, 1)``, x0_0 the newest estimate.

    ``t`` and ``lam`` are the noise level of x, ``s`` where this evaluation's step lands (see ``Model.landing``),
    ``c_in``, ``c_skip`` and ``c_out`` the network's affine at t. A branch whose weight is 0 need not be evaluated.
    """

    t: float
    s: float
    lam: float
    c_in: float
    c_skip: float
    c_out: float
    weights: list[float]
    a: float
    b: list[float]
    noise: float

    def dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


class _Units:
    """A sampler's run on unit vectors: coordinate 0 is the noise it begins with, then one each for its estimates and
    for its later noises."""

    def __init__(self, most: int) -> None:
        self.size = 1 + most
        self.states: list[tuple[Tensor, Tensor, Tensor]] = []  # (x, t, s) of every evaluation
        self.estimates: list[int] = []  # coordinates, in the order made
        self.noises: list[int] = []

    def unit(self, place: int) -> Tensor:
        found = torch.zeros(self.size, dtype=torch.float64)
        found[place] = 1
        return found

    def noise(self) -> Tensor:
        """The next coordinate, for a noise."""
        self.noises.append(1 + len(self.estimates) + len(self.noises))
        return self.unit(self.noises[-1])

    def __call__(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The next coordinate, for an estimate: what a solver takes for its denoiser."""
        self.states.append((x, t, s))
        self.estimates.append(1 + len(self.estimates) + len(self.noises))
        return self.unit(self.estimates[-1])


def rows(denoiser: Denoiser, solver: Solver, times: Tensor, guide: Guide) -> list[Row]:
    """The table of a sampler that begins with ``sigma(times[0]) N(0, 1)`` and follows falling ``times``, which may
    climb after each fall.

    Exact to float64 rounding for every solver of the catalog: a solver with two evaluations a step has two rows, a
    corrector's change of x is written in terms of the estimates. Refused: a guide that is not linear in its branches.
    """
    if len(times) < 2 or times[1] > times[0]:
        raise KakusanError("times: a table needs at least two times, and the first of them to fall")
    process, units = denoiser.process, _Units((len(times) - 1) * (solver.evaluations + 1))
    x, memory = units.unit(0), None
    for t, s in pairwise(times):
        if s > t:
            x, memory = process.renoise(x, units.noise(), t, s), None
        elif s < t:
            x, _, memory = solver.step(units, x, t, s, process, memory)
    ends = [*(state for state, _, _ in units.states[1:]), x]
    found = []
    for index, ((before, t, s), after) in enumerate(zip(units.states, ends, strict=True)):
        a, b, noise = _move(before, after, units.estimates[: index + 1], units.noises)
        found.append(Row(float(t), float(s), *_affine(denoiser, t), _weights(guide, t), a, b, noise))
    return found


def _move(before: Tensor, after: Tensor, estimates: list[int], noises: list[int]) -> tuple[float, list[float], float]:
    """(a, b, noise) from the state of one evaluation to that of the next.

    Solvers treat a noise that x holds as x itself (x0 = 0 leads from ``x_t`` to ``sigma_s/sigma_t x_t``), so what
    becomes of one says how much of x stays.
    """
    held = max((0, *noises), key=lambda place: abs(float(before[place])))
    a = after[held] / before[held]
    rest = after - a * before
    rest[rest.abs() <= _NOTHING * max(1.0, float(after.abs().max()))] = 0
    b = [float(rest[i]) for i in reversed(estimates)]
    while len(b) > 1 and b[-1] == 0:
        b.pop()
    return float(a), b, float(rest[noises].square().sum().sqrt())


def _affine(denoiser: Denoiser, t: Tensor) -> tuple[float, float, float, float]:
    """(lam, c_in, c_skip, c_out) at t, lam as the network takes it."""
    coefs = denoiser.param.coefs(*denoiser.process.scales(t))
    lam = float(denoiser.process.logsnr(t).clamp(-LAM_MAX, LAM_MAX))
    return lam, float(coefs[0]), float(coefs[1]), float(coefs[2])


def _weights(guide: Guide, t: Tensor) -> list[float]:
    """What the guide multiplies each branch's estimate by at t."""

    def units(x: Tensor, at: Tensor, s: Tensor, which: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        eye = torch.eye(guide.branches, dtype=torch.float64)
        return tuple(eye[i : i + 1] for i in (range(guide.branches) if which is None else which))

    def others(x: Tensor, at: Tensor, s: Tensor, which: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        return tuple(-3 * unit.flip(1) for unit in units(x, at, s, which))

    nothing = torch.zeros(1, guide.branches, dtype=torch.float64)
    weights, mirrored = guide(units)(nothing, t, t), guide(others)(nothing, t, t)
    if not torch.allclose(mirrored, -3 * weights.flip(1), rtol=1e-9, atol=1e-9):
        raise KakusanError(
            f"{guide.kind} is not a weighted sum of estimates, so a table cannot hold it; choose another"
        )
    return [float(w) for w in weights[0]]
