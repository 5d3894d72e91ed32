"""Progressive: a student whose one step lands where two of its teacher's do, halving after halving."""

from __future__ import annotations

import torch
from torch import Tensor

from kakusan.core.batch import Batch
from kakusan.core.grid import Every, Grid, Karras
from kakusan.core.guide import Denoise
from kakusan.core.model import Model
from kakusan.core.objective import EDM, Denoising, LogNormal, Objective
from kakusan.core.process import Process, cast
from kakusan.core.rng import Rng
from kakusan.core.solver import fall
from kakusan.distillation.teacher import conditions, guided, needed
from kakusan.part import KakusanError

__all__ = ["Progressive", "two_steps"]


class Progressive(Objective):
    """One halving of progressive distillation: the student's DDIM step between two times of its list of ``steps``
    lands where two DDIM steps of its teacher do, which has one more time between them; the loss is
    ``max(SNR, 1) |D(x_t) - target|^2`` (Salimans & Ho 2022, arXiv 2202.00512, algorithm 2 and eq. 9).

    ``grid``: the lists of both, of ``steps`` and of twice as many. ``guidance`` and ``autoguidance`` steer the teacher,
    and the student has them inside. ``dropout``: as in training.
    """

    kind = "objective/progressive"

    def __init__(
        self,
        steps: int = 2,
        grid: Grid | None = None,
        guidance: float = 1.0,
        autoguidance: float = 1.0,
        dropout: float = 0.1,
    ) -> None:
        if steps < 1:
            raise KakusanError(f"steps={steps}: need at least 1")
        self.steps, self.grid = int(steps), grid or Every(Karras(k_min=0.01), 2 * int(steps))
        self.guidance, self.autoguidance = float(guidance), float(autoguidance)
        self.draws = Denoising(LogNormal(), EDM(), dropout)

    def times(self, process: Process) -> Tensor:
        """The teacher's 2 steps + 1 falling times; every second is the student's."""
        coarse, fine = self.grid.times(self.steps, process), self.grid.times(2 * self.steps, process)
        if not torch.allclose(fine[::2], coarse, rtol=0, atol=1e-12):
            raise KakusanError(
                f"{self.grid.kind}: its list of {self.steps} steps is not every second time of that of "
                f"{2 * self.steps}; use grid/every with a multiple of {2 * self.steps}"
            )
        return fine

    def terms(
        self, model: Model, batch: Batch, rng: Rng, step: int, teacher: Model | None = None
    ) -> tuple[Tensor, Tensor]:
        teacher = needed(teacher, self.kind)
        process, space, x0 = model.denoiser.process, model.denoiser.space, batch.x0
        times = self.times(process)
        place = 2 * (self.draws.places(batch, rng, step) * self.steps).long().clamp(max=self.steps - 1)
        t, mid, s = times[place], times[place + 1], times[place + 2]
        eps = space.noise(space.shapes(x0, batch.mask), rng, "eps", step).to(x0.dtype)
        inputs, keep = conditions(model, batch, rng, self.draws, step)
        x_t = process.noised(x0, eps, t)
        with torch.no_grad():
            f = guided(teacher, inputs, keep, len(x0), batch.mask, self.guidance, self.autoguidance)
            target = two_steps(f, x_t, t, mid, s, process)
        out = model.denoiser(x_t, t, model.cond(inputs, keep, len(x0), batch.mask))
        lam = process.logsnr(t)
        error = space.mse((out - target).float(), batch.mask)
        return cast((2 * lam).exp().clamp(min=1), error).reshape(-1) * error, lam


def two_steps(f: Denoise, x: Tensor, t: Tensor, mid: Tensor, s: Tensor, process: Process) -> Tensor:
    """The estimate of x0 with which one DDIM step from t to s lands where two do, by way of ``mid``.

    Both steps are linear in x and their estimates, so this is their mean ``(r c_1 D_1 + c_2 D_2) / (r c_1 + c_2)``
    with ``c = alpha_s - alpha_t sigma_s/sigma_t`` of each and r the second's ``sigma_s/sigma_t``: nothing cancels, as
    it does in the quotient that the paper's algorithm 2 has.
    """
    first = f(x, t, mid)
    second = f(fall(x, first, t, mid, process), mid, s)
    gain1, _ = _fall(t, mid, process)
    gain2, kept = _fall(mid, s, process)
    share = kept * gain1 / (kept * gain1 + gain2)
    return second + cast(share, x) * (first - second)


def _fall(t: Tensor, s: Tensor, process: Process) -> tuple[Tensor, Tensor]:
    """What a first-order fall multiplies the estimate and x by."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = process.scales(t), process.scales(s)
    ratio = sigma_s / sigma_t
    return alpha_s - alpha_t * ratio, ratio
