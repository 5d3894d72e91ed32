"""Imitation: a network that answers as its guided teacher does; a smaller one has features from which the teacher's
follow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kakusan.core.batch import Batch
from kakusan.core.model import Model
from kakusan.core.objective import EDM, Denoising, Density, LogNormal, Objective, Weight
from kakusan.core.process import cast
from kakusan.core.rng import Rng
from kakusan.distillation.teacher import conditions, guided, needed
from kakusan.part import KakusanError

__all__ = ["DENOISING", "Imitation", "unexplained"]

DENOISING = ("guidance", "shrink")  # methods whose students denoise as their teachers do, in any number of steps

RIDGE = 1e-3  # of the features' mean square: keeps the projection steady where features are nearly dependent


class Imitation(Objective):
    """Knowledge distillation: ``w(lam) |D(x_t) - D_teacher(x_t)|^2``, and ``features`` times the mean share of the
    teacher's features that no linear projection of the student's, of equal resolution, explains (Hinton et al. 2015,
    arXiv 1503.02531; Romero et al. 2015, arXiv 1412.6550, eq. 3, for the features).

    The projections are the best there are for the batch, solved for in closed form at every step, so there is nothing
    to keep or to throw away (``unexplained``). ``guidance`` and ``autoguidance`` steer the teacher's answer, and the
    student has them inside; its features are those of the teacher with all conditions. ``dropout``: as in training.
    """

    kind = "objective/imitation"

    def __init__(
        self,
        density: Density | None = None,
        weight: Weight | None = None,
        guidance: float = 1.0,
        autoguidance: float = 1.0,
        features: float = 0.05,
        dropout: float = 0.1,
    ) -> None:
        if not features >= 0:
            raise KakusanError(f"features={features}: need a number >= 0 (0: only the answers are matched)")
        self.draws = Denoising(density or LogNormal(), weight or EDM(), dropout)
        self.guidance, self.autoguidance = float(guidance), float(autoguidance)
        self.features = float(features)

    def terms(
        self, model: Model, batch: Batch, rng: Rng, step: int, teacher: Model | None = None
    ) -> tuple[Tensor, Tensor]:
        teacher = needed(teacher, self.kind)
        process, space, x0 = model.denoiser.process, model.denoiser.space, batch.x0
        t = self.draws.times(batch, rng, step, process)
        lam = process.logsnr(t)
        eps = space.noise(space.shapes(x0, batch.mask), rng, "eps", step).to(x0.dtype)
        inputs, keep = conditions(model, batch, rng, self.draws, step)
        x_t = process.noised(x0, eps, t)
        matched = self.features > 0 and batch.mask is None
        with torch.no_grad(), _tapped(teacher.denoiser.net.taps() if matched else []) as theirs:
            f = guided(teacher, inputs, keep, len(x0), batch.mask, self.guidance, self.autoguidance)
            target = f(x_t, t, t)
        with _tapped(model.denoiser.net.taps() if matched else []) as mine:
            out = model.denoiser(x_t, t, model.cond(inputs, keep, len(x0), batch.mask))
        error = space.mse((out - target).float(), batch.mask)
        loss = cast(self.draws.weight.of(lam), error).reshape(-1) * error
        pairs = [
            (a, b[-len(a) :]) for a, b in zip(mine, theirs, strict=True) if a.shape[2:] == b.shape[2:] or a.ndim == 3
        ]
        if pairs:
            loss = loss + self.features * sum(unexplained(a, b) for a, b in pairs) / len(pairs)
        return loss, lam


def unexplained(mine: Tensor, theirs: Tensor) -> Tensor:
    """``|T - S W|^2 / |T - mean T|^2`` with the W (and a constant) that is best over the batch: 0 where T follows
    linearly from S, 1 where nothing does. Features (B, C, *S) or (B, N, C); returns ().

    W is found without a gradient; since the loss is least there, the gradient through S is the whole one.
    """
    s, t = _rows(mine), _rows(theirs)
    s = torch.cat([s, torch.ones_like(s[:, :1])], 1)
    with torch.no_grad():
        gram = (s.T @ s).double() / len(s)
        gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        projection = torch.linalg.solve(gram, (s.T @ t).double() / len(s)).to(s.dtype)
        spread = (t - t.mean(0)).square().sum().clamp(min=1e-12)
    return (t - s @ projection).square().sum() / spread


def _rows(x: Tensor) -> Tensor:
    """Features as one row a position, in float32."""
    return (x.flatten(0, 1) if x.ndim == 3 else x.movedim(1, -1).flatten(0, -2)).float()


@contextmanager
def _tapped(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """What the modules give, in their order, while inside."""
    found: list[Tensor] = []
    handles = [m.register_forward_hook(lambda module, given, out: found.append(out)) for m in modules]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
