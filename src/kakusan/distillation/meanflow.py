"""Mean flow: a student of the mean velocity between any two noise levels, so that one evaluation is a whole jump.

Every process is affine to the straight path z = x/(alpha + sigma) = (1 - t) x0 + t eps, t = sigma/(alpha + sigma),
whose velocity is v = (z - D)/t for the denoiser D. An estimate G(z_t, t, r) of x0 with which a first-order fall lands
on the trajectory at r says the same as the mean velocity u: u = (z - G)/t, z_r = z_t - (t - r) u; and that fall is the
same in every process. So a student is the teacher's network in its own parametrisation, with r as a condition that
enters by zeros (``condition/landing``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kakusan.core.batch import Batch
from kakusan.core.model import Model
from kakusan.core.objective import EDM, Denoising, Density, LogNormal, Objective
from kakusan.core.process import Process, cast, level, place
from kakusan.core.rng import Rng
from kakusan.core.solver import fall
from kakusan.distillation.teacher import conditions, dropped_again, guided, needed
from kakusan.distillation.trajectory import trajectories
from kakusan.part import KakusanError

__all__ = ["LANDING", "MeanFlow", "chord", "mean_target"]

LANDING = "landing"  # the condition of a student that is told where its step lands
FLOOR = 1e-3  # squared errors of the velocity below it count no more


class MeanFlow(Objective):
    """MeanFlow from a teacher: ``|u - sg(v - (t - r) du/dt)|^2 / sg(|.|^2 + 0.001)^power``, v the guided teacher's
    velocity, d/dt along its trajectory (Geng et al. 2025, arXiv 2505.13447, eq. 6, 9 and 22; t, u, v of the straight
    path that the process is affine to, as this file's first lines have them).

    The derivative is a difference, ``mean_target``, between t and the point m that one step of the teacher's leads to:
    one more evaluation without gradients. A forward-mode derivative would cost about as much, but is missing from
    attention on CPUs and from other kernels, and networks are free to use any.

    ``gap``: how near m is to t, as a share of t's place among the noise levels (``core.process.place``). r is t itself
    for a share ``same`` of the rows, 0 for a share ``clean``, else anywhere between, evenly in ``place``.
    ``align``: steps at the beginning that learn the chords between states of the teacher's own trajectories of
    ``points`` steps instead, and need no pictures (CMT: Hu et al. 2025, arXiv 2509.24526); None = the whole run.
    ``guidance`` and ``autoguidance`` steer the teacher, and the student has them inside. ``dropout``: as in training.
    """

    kind = "objective/mean-flow"

    def __init__(
        self,
        density: Density | None = None,
        gap: float = 0.03,
        same: float = 0.25,
        clean: float = 0.25,
        power: float = 1.0,
        guidance: float = 1.0,
        autoguidance: float = 1.0,
        align: int | None = None,
        points: int = 16,
        dropout: float = 0.1,
    ) -> None:
        if not 0 < gap <= 0.5:
            raise KakusanError(f"gap={gap}: need a share above 0, of 0.5 at most (0.03 is usual)")
        if not (same >= 0 and clean >= 0 and same + clean <= 1):
            raise KakusanError(f"same={same}, clean={clean}: need shares >= 0 that are 1 together at most")
        if not 0 <= power <= 1:
            raise KakusanError(f"power={power}: need a number from 0 (plain squares) to 1")
        if (align is not None and align < 0) or points < 2:
            raise KakusanError(f"align={align}, points={points}: need >= 0 and >= 2")
        self.draws = Denoising(density or LogNormal(0.0, 2.5), EDM(), dropout)
        self.gap, self.same, self.clean, self.power = float(gap), float(same), float(clean), float(power)
        self.guidance, self.autoguidance = float(guidance), float(autoguidance)
        self.align, self.points = align, int(points)

    def terms(
        self, model: Model, batch: Batch, rng: Rng, step: int, teacher: Model | None = None
    ) -> tuple[Tensor, Tensor]:
        teacher = needed(teacher, self.kind)
        if model.timed is None:
            raise KakusanError(f"{self.kind} needs a model with a condition/landing: run it with kakusan distill")
        if self.align is None or step < self.align:
            return self._aligned(model, batch, rng, step, teacher)
        process, space, x0 = model.denoiser.process, model.denoiser.space, batch.x0
        t = self.draws.times(batch, rng, step, process)
        r = self._landings(t, rng.uniform("landing", step)[:, 0], process)
        m = self._between(t, r, process)
        eps = space.noise(space.shapes(x0, batch.mask), rng, "eps", step).to(x0.dtype)
        inputs, keep = conditions(model, batch, rng, self.draws, step)
        x_t = process.noised(x0, eps, t)

        def student(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            return model.denoiser(x, t, model.landing(model.cond(inputs, keep, len(x), batch.mask), t, s))

        with torch.no_grad():
            f = guided(teacher, inputs, keep, len(x0), batch.mask, self.guidance, self.autoguidance)
            first = f(x_t, t, m)
            with dropped_again(x0.device):
                second = student(fall(x_t, first, t, m, process), m, r)
        out = student(x_t, t, r)
        target = mean_target(out.detach(), first, second, t, m, r, process)
        return self._distance(model, out - target, t, batch.mask), process.logsnr(t)

    def _landings(self, t: Tensor, u: Tensor, process: Process) -> Tensor:
        """r (B,) for draws u (B,) on [0, 1)."""
        share = (u - self.same - self.clean) / max(1 - self.same - self.clean, 1e-12)
        inner = process.time(level(place(process.logsnr(t)) * share.clamp(1e-6, 1)))
        r = torch.where(share < 0, torch.zeros_like(t), torch.minimum(inner, t))
        return torch.where(u < self.same, t, r)

    def _between(self, t: Tensor, r: Tensor, process: Process) -> Tensor:
        """m (B,), between r and t; where there is next to no picture left, so far that rounding does not count."""
        near = process.time(level(place(process.logsnr(t)) * (1 - self.gap)))
        least = straight(t, process) * (1 - self.gap / 8)
        near = torch.minimum(near, process.time(torch.log1p(-least) - least.log()))
        return torch.maximum(torch.minimum(near, t), r)

    def _distance(self, model: Model, error: Tensor, t: Tensor, mask: Tensor | None) -> Tensor:
        """Of each sample, (B,): the squared error of u, whose share of the estimate's is 1/t^2, made even."""
        square = model.denoiser.space.mse(error.float(), mask)
        square = square * cast(straight(t, model.denoiser.process) ** -2, square).reshape(-1)
        return square / (square.detach() + FLOOR) ** self.power

    def _aligned(self, model: Model, batch: Batch, rng: Rng, step: int, teacher: Model) -> tuple[Tensor, Tensor]:
        """Every state of a few new teacher trajectories, and for each a later one that its jump should reach."""
        process, count = model.denoiser.process, self.points
        steered = (self.guidance, self.autoguidance)
        found = trajectories(model, teacher, batch, rng, self.draws, step, count, *steered)
        u = found.rng.uniform("landing", step, count).T  # (points, trajectories)
        first = torch.arange(count)[:, None]
        share = ((u - self.clean) / max(1 - self.clean, 1e-12)).clamp(min=0)
        last = torch.where(u < self.clean, count, first + 1 + (share * (count - first)).long()).clamp(max=count)
        t, r = found.times[first.expand_as(last).flatten()], found.times[last.flatten()]
        rows = torch.arange(found.count).repeat(count)
        x_t, x_r = found.states[:-1].flatten(0, 1), found.states[last.flatten(), rows]
        out = model.denoiser(x_t, t, model.landing(found.cond, t, r))
        error = out - chord(x_t, x_r, t, r, process)
        return self._distance(model, error, t, found.mask), process.logsnr(t)


def straight(t: Tensor, process: Process) -> Tensor:
    """The time of the straight path at a process's t: ``sigma/(alpha + sigma)``, finite everywhere."""
    alpha, sigma = process.scales(t)
    return sigma / (alpha + sigma)


def chord(x_t: Tensor, x_r: Tensor, t: Tensor, r: Tensor, process: Process) -> Tensor:
    """The estimate of x0 with which a first-order fall from (x_t, t) lands at (x_r, r), r < t."""
    (alpha_t, sigma_t), (alpha_r, sigma_r) = process.scales(t), process.scales(r)
    ratio = sigma_r / sigma_t
    return cast(1 / (alpha_r - alpha_t * ratio), x_t) * (x_r - cast(ratio, x_t) * x_t)


def mean_target(
    own: Tensor, first: Tensor, second: Tensor, t: Tensor, m: Tensor, r: Tensor, process: Process
) -> Tensor:
    """``u = v - (t - r) du/dt`` as an estimate of x0, from the student's ``own`` at (t, r), the teacher's ``first`` at
    t, and the student's ``second`` at (m, r) where the teacher's step leads.

    ``(t - r) u(t, r) = (t - m) v + (m - r) u(m, r)`` is exact for every m if v is the mean velocity from m to t; as
    estimates, with times of the straight path, it is ``G = second + w (first - second)``, w = r (t - m)/(m (t - r)).
    Written as eq. 6 is, ``u(t, r) = v - (m - r) (u(t, r) - u(m, r))/(t - m)``: the difference of G from ``own`` counts
    (t - r)/(t - m) times. At r = 0 nothing but consistency is left, at r = m nothing but the teacher's velocity.
    """
    t, m, r = (straight(v, process) for v in (t, m, r))
    moves, jumps = t > m, t > r
    w = torch.where(jumps, r * (t - m) / (m * torch.where(jumps, t - r, 1.0)), 1.0)
    times = torch.where(moves, (t - r) / torch.where(moves, t - m, 1.0), 1.0)
    whole = second + cast(w, own) * (first - second)
    return own + cast(times, own) * (whole - own)
