"""Trajectories: a few of the teacher's own from new noise, every state of them, to be learned from."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from kakusan.core.batch import Batch, Cond
from kakusan.core.grid import Karras
from kakusan.core.guide import Denoise
from kakusan.core.model import Model
from kakusan.core.objective import Denoising
from kakusan.core.process import Process, cast
from kakusan.core.rng import Rng
from kakusan.core.solver import DPM2M
from kakusan.distillation.teacher import conditions, guided

__all__ = ["Trajectories", "trajectories"]


@dataclass(frozen=True)
class Trajectories:
    """``count`` trajectories of as many points as there are ``times``: ``states`` (points, count, C, *S), the last at
    t = 0. The rest is for all states but the last, one point after the other along the batch."""

    states: Tensor
    times: Tensor
    cond: Cond
    mask: Tensor | None
    rng: Rng  # of the trajectories' rows

    @property
    def count(self) -> int:
        """How many."""
        return self.states.shape[1]


def trajectories(
    model: Model, teacher: Model, batch: Batch, rng: Rng, draws: Denoising, step: int, points: int,
    guidance: float, autoguidance: float,
) -> Trajectories:  # fmt: skip
    """The guided teacher's from ``points`` noise levels down to none, as many as make the states a batch; the student's
    conditions, as the batch's first rows have them."""
    process, space = model.denoiser.process, model.denoiser.space
    count = max(1, len(batch.x0) // points)
    mine = rng.subset(range(count))
    inputs, keep = conditions(model, batch, mine, draws, step, count)
    mask = None if batch.mask is None else batch.mask[:count]
    times = _jittered(Karras(k_min=0.01).times(points, process), mine, step, process)
    eps = space.noise(space.shapes(batch.x0[:count], mask), mine, "trajectory", step).to(batch.x0.dtype)
    with torch.no_grad():
        f = guided(teacher, inputs, keep, count, mask, guidance, autoguidance)
        states = _states(f, cast(process.scales(times[0])[1], eps) * eps, times, process)
    many = {n: {k: v.repeat(points, *[1] * (v.ndim - 1)) for k, v in g.items()} for n, g in inputs.items()}
    kept = {name: k.repeat(points) for name, k in keep.items()}
    masks = None if mask is None else mask.repeat(points, *[1] * (mask.ndim - 1))
    return Trajectories(states, times, model.cond(many, kept, points * count, masks), masks, mine)


def _jittered(times: Tensor, rng: Rng, step: int, process: Process) -> Tensor:
    """The times between the first and 0 moved towards the next by one draw, so that every level is seen."""
    lam = process.logsnr(times[1:-1])
    gaps = lam.diff()
    moved = lam + rng.uniform("jitter", step)[0, 0] * torch.cat([gaps, gaps[-1:]])
    return torch.cat([times[:1], process.time(moved), times[-1:]])


def _states(f: Denoise, x: Tensor, times: Tensor, process: Process) -> Tensor:
    """Every state, the first and the last included."""
    states, memory, solver = [x], None, DPM2M()
    for t, s in pairwise(times):
        x, _, memory = solver.step(f, x, t, s, process, memory)
        states.append(x)
    return torch.stack(states)
