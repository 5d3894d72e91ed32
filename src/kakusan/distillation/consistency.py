"""Consistency: a student whose estimate of x0 is the same all along a trajectory, so that one evaluation is enough.

Everything is in k = sigma/alpha, where x/alpha is variance exploding whatever the process; the boundary, D(x) = x/alpha
at k = 0, is set where the lower point reaches it, whatever the parametrisation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kakusan.core.batch import Batch, Inputs
from kakusan.core.model import Model
from kakusan.core.objective import EDM, Denoising, Density, LogNormal, Objective
from kakusan.core.process import Process, cast
from kakusan.core.rng import Rng
from kakusan.core.solver import fall
from kakusan.distillation.teacher import conditions, dropped_again, guided, needed
from kakusan.distillation.trajectory import trajectories
from kakusan.part import KakusanError

__all__ = ["Consistency", "lower"]

K_MIN = 0.002  # below it the lower point is the clean end itself
K_MAX = math.exp(10.0)  # k where alpha = 0
TINY = 1e-8  # keeps the root's slope finite


def lower(k: Tensor, q: float, stage: int = 0) -> Tensor:
    """The lower point of a pair, ``r = k (1 - (1 + 8 sigmoid(-k)) / q^(stage + 1))``, 0 below ``K_MIN``
    (Geng et al. 2024, arXiv 2406.14548, eq. 16 and appendix)."""
    r = k * (1 - (1 + 8 * torch.sigmoid(-k)) / float(q) ** (stage + 1))
    return torch.where(r < K_MIN, torch.zeros_like(r), r)


class Consistency(Objective):
    """Easy consistency tuning: ``|D(x_t) - D(x_r)| / (k_t - k_r)``, no gradient at the lower point r, the same noise
    and the same dropout at both (Geng et al. 2024, arXiv 2406.14548, eq. 15 with p = 1).

    ``q``, ``stage``: how near r is to t (``lower``), nearer by a factor q every ``stage`` steps; 0 = it stays.
    ``path``: how x_r is reached: "data" by the picture's own noise, "teacher" by a step of the teacher's, which
    ``guidance`` and ``autoguidance`` may steer (the student then has them inside, at the cost of none).
    ``align``: steps at the beginning that learn the ends of the teacher's own trajectories of ``points`` steps, every
    state of them, and need no pictures (CMT: Hu et al. 2025, arXiv 2509.24526); None = the whole run.
    ``huber``: errors (root mean square) below it count as squares. ``dropout``: as in training.
    """

    kind = "objective/consistency"

    def __init__(
        self,
        density: Density | None = None,
        q: float = 256.0,
        stage: int = 0,
        path: str = "data",
        guidance: float = 1.0,
        autoguidance: float = 1.0,
        align: int | None = None,
        points: int = 16,
        huber: float = 0.0,
        dropout: float = 0.1,
    ) -> None:
        if not q > 1 or stage < 0:
            raise KakusanError(f"q={q}, stage={stage}: need q > 1 (256 is usual) and stage >= 0 steps (0: q stays)")
        if path not in ("data", "teacher"):
            raise KakusanError(f"path={path!r}: choose 'data' or 'teacher'")
        if path == "data" and (guidance != 1 or autoguidance != 1) and align == 0:
            raise KakusanError(
                f"guidance={guidance:g}, autoguidance={autoguidance:g}: pictures are not guided; use path='teacher'"
            )
        if (align is not None and align < 0) or points < 2 or huber < 0:
            raise KakusanError(f"align={align}, points={points}, huber={huber}: need >= 0, >= 2 and >= 0")
        self.draws = Denoising(density or LogNormal(-1.1, 2.0), EDM(), dropout)
        self.q, self.stage, self.path = float(q), int(stage), path
        self.guidance, self.autoguidance = float(guidance), float(autoguidance)
        self.align, self.points, self.huber = align, int(points), float(huber)

    def terms(
        self, model: Model, batch: Batch, rng: Rng, step: int, teacher: Model | None = None
    ) -> tuple[Tensor, Tensor]:
        if self.align is None or step < self.align:
            return self._aligned(model, batch, rng, step, needed(teacher, self.kind))
        process, space, x0 = model.denoiser.process, model.denoiser.space, batch.x0
        t = self.draws.times(batch, rng, step, process)
        k_t = process.ratio(t).clamp(max=K_MAX)
        k_r = lower(k_t, self.q, step // self.stage if self.stage else 0)
        r = process.time(-k_r.log())
        eps = space.noise(space.shapes(x0, batch.mask), rng, "eps", step).to(x0.dtype)
        inputs, keep = conditions(model, batch, rng, self.draws, step)
        x_t = process.noised(x0, eps, t)
        if self.path == "data":
            x_r = process.noised(x0, eps, r)
        else:
            x_r = self._step(needed(teacher, self.kind), inputs, keep, batch, x_t, t, r, process)
        out, target = _both(model, inputs, keep, batch.mask, (x_t, t), (x_r, r))
        weight = cast(1 / (k_t - k_r), x0).reshape(-1)
        return weight * self._distance(model, out - target, batch.mask), process.logsnr(t)

    def _distance(self, model: Model, error: Tensor, mask: Tensor | None) -> Tensor:
        """Pseudo-Huber of each sample's root mean square, (B,)."""
        square = model.denoiser.space.mse(error.float(), mask)
        return (square + self.huber**2 + TINY**2).sqrt() - self.huber

    @torch.no_grad()
    def _step(
        self,
        teacher: Model,
        inputs: Inputs,
        keep: dict[str, Tensor],
        batch: Batch,
        x: Tensor,
        t: Tensor,
        r: Tensor,
        process: Process,
    ) -> Tensor:
        """The guided teacher's first-order fall from t to r."""
        f = guided(teacher, inputs, keep, len(x), batch.mask, self.guidance, self.autoguidance)
        return fall(x, f(x, t, r), t, r, process)

    def _aligned(self, model: Model, batch: Batch, rng: Rng, step: int, teacher: Model) -> tuple[Tensor, Tensor]:
        """Every state of a few new teacher trajectories, against where the trajectory ends."""
        steered = (self.guidance, self.autoguidance)
        found = trajectories(model, teacher, batch, rng, self.draws, step, self.points, *steered)
        t = found.times[:-1].repeat_interleave(found.count)
        out = model.denoiser(found.states[:-1].flatten(0, 1), t, found.cond)
        error = out - found.states[-1].repeat(self.points, *[1] * (out.ndim - 1))
        return self._distance(model, error, found.mask), model.denoiser.process.logsnr(t)


def _both(
    model: Model,
    inputs: Inputs,
    keep: dict[str, Tensor],
    mask: Tensor | None,
    upper: tuple[Tensor, Tensor],
    under: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """The student's estimates at both points, the same units dropped; no gradient at the lower one.

    Where the lower point is at the clean end, it is the estimate.
    """
    (x_t, t), (x_r, r) = upper, under
    count, device = len(x_t), x_t.device
    with torch.no_grad(), dropped_again(device):
        found = model.denoiser(x_r, r, model.cond(inputs, keep, count, mask))
        clean = (r == 0).to(device).reshape(-1, *[1] * (x_r.ndim - 1))
        target = torch.where(clean, x_r, found)
    return model.denoiser(x_t, t, model.cond(inputs, keep, count, mask)), target
