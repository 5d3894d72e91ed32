"""Objectives: which noise levels are trained (density), how much each counts (weight), and the denoising loss."""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from kakusan.core.batch import Batch
from kakusan.core.model import Model
from kakusan.core.process import Process, cast
from kakusan.core.rng import Rng, mix
from kakusan.core.target import NOISY, matches, stable
from kakusan.part import KakusanError, Part

__all__ = [
    "EDM",
    "Denoising",
    "Density",
    "EpsUniform",
    "FlowUniform",
    "Laplace",
    "LogNormal",
    "LogitNormal",
    "MinSNR",
    "Objective",
    "Sigmoid",
    "UniformT",
    "Weight",
]

LAM_LIMIT = 10.0
TERMINAL_SHARE = 0.01  # of the draws of a process that ends at alpha = 0 are at t = 1 itself


class Density(Part, abc.ABC):
    """How often each noise level is trained: maps u ~ U(0, 1) to lam = log(alpha/sigma) by its inverse distribution."""

    @abc.abstractmethod
    def logsnr(self, u: Tensor, process: Process) -> Tensor:
        """u (B,) float64 in (0, 1) to lam (B,) float64, falling in u."""

    def times(self, u: Tensor, process: Process) -> Tensor:
        """u to noise times t, lam clamped to [-10, 10]; 1% at t = 1 where the process ends at alpha = 0."""
        u = u.clamp(1e-9, 1 - 1e-9)
        if not process.zero_terminal:
            return process.time(self.logsnr(u, process).clamp(-LAM_LIMIT, LAM_LIMIT)).clamp(0, 1)
        inner = (u / (1 - TERMINAL_SHARE)).clamp(max=1 - 1e-9)
        t = process.time(self.logsnr(inner, process).clamp(-LAM_LIMIT, LAM_LIMIT))
        return torch.where(u > 1 - TERMINAL_SHARE, torch.ones_like(t), t).clamp(0, 1)


class UniformT(Density):
    """t ~ U(0, 1) (Ho et al. 2020, algorithm 1)."""

    kind = "density/uniform-t"

    def logsnr(self, u: Tensor, process: Process) -> Tensor:
        return process.logsnr(u)


class LogNormal(Density):
    """``ln(sigma/alpha) ~ N(mean, std^2)`` (Karras et al. 2022, table 1: -1.2, 1.2)."""

    kind = "density/log-normal"

    def __init__(self, mean: float = -1.2, std: float = 1.2) -> None:
        self.mean, self.std = float(mean), _positive("std", std)

    def logsnr(self, u: Tensor, process: Process) -> Tensor:
        return -(self.mean + self.std * torch.special.ndtri(u))


class LogitNormal(Density):
    """``logit(t) ~ N(mean, std^2)`` for the time of the straight path (Esser et al. 2024, eq. 19); since its
    logit(t) = ln(sigma/alpha), this is ``LogNormal`` in flow's own words, and holds for every process.
    """

    kind = "density/logit-normal"

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        self.mean, self.std = float(mean), _positive("std", std)

    def logsnr(self, u: Tensor, process: Process) -> Tensor:
        return -(self.mean + self.std * torch.special.ndtri(u))


class Laplace(Density):
    """``lam ~ Laplace(mean, scale)`` (Hang et al. 2024, table 1: 0, 0.5 for their lambda = 2 lam, so 0, 0.25 here)."""

    kind = "density/laplace"

    def __init__(self, mean: float = 0.0, scale: float = 0.25) -> None:
        self.mean, self.scale = float(mean), _positive("scale", scale)

    def logsnr(self, u: Tensor, process: Process) -> Tensor:
        centred = u - 0.5
        return self.mean + self.scale * centred.sign() * torch.log1p(-2 * centred.abs())


class Weight(Part, abc.ABC):
    """How much the squared error *of x0* counts at each noise level."""

    @abc.abstractmethod
    def of(self, lam: Tensor) -> Tensor:
        """w(lam), float64, same shape."""


class EpsUniform(Weight):
    """``w = exp(2 lam)`` = SNR: the plain squared error of eps (Ho et al. 2020, eq. 14)."""

    kind = "weight/eps-uniform"

    def of(self, lam: Tensor) -> Tensor:
        return torch.exp(2 * lam)


class MinSNR(Weight):
    """``w = min(SNR, gamma)`` (Hang et al. 2023, eq. 8)."""

    kind = "weight/min-snr"

    def __init__(self, gamma: float = 5.0) -> None:
        self.gamma = _positive("gamma", gamma)

    def of(self, lam: Tensor) -> Tensor:
        return torch.exp(2 * lam).clamp(max=self.gamma)


class EDM(Weight):
    """``w = 1/c_out^2 = exp(2 lam) + 1/sigma_data^2``: even at initialisation (Karras et al. 2022, eq. 8)."""

    kind = "weight/edm"

    def __init__(self, sigma_data: float = 0.5) -> None:
        self.sigma_data = _positive("sigma_data", sigma_data)

    def of(self, lam: Tensor) -> Tensor:
        return torch.exp(2 * lam) + self.sigma_data**-2


class Sigmoid(Weight):
    """The error of eps weighted by ``sigmoid(bias - 2 lam)``, hence ``w = e^bias sigmoid(2 lam - bias)`` (Kingma &
    Gao 2023, appendix D; Hoogeboom et al. 2024, eq. 8).
    """

    kind = "weight/sigmoid"

    def __init__(self, bias: float = -1.0) -> None:
        self.bias = float(bias)

    def of(self, lam: Tensor) -> Tensor:
        return torch.exp(as_double(self.bias)) * torch.sigmoid(2 * lam - self.bias)


class FlowUniform(Weight):
    """``w = (1 + exp(lam))^2``: plain squared error of the straight path's velocity (Lipman et al. 2023, eq. 14)."""

    kind = "weight/flow-uniform"

    def of(self, lam: Tensor) -> Tensor:
        return (1 + torch.exp(lam)) ** 2


def as_double(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise KakusanError(f"{name}={value}: need {name} > 0")
    return float(value)


class Objective(Part, abc.ABC):
    """What training minimises."""

    @abc.abstractmethod
    def terms(
        self, model: Model, batch: Batch, rng: Rng, step: int, teacher: Model | None = None
    ) -> tuple[Tensor, Tensor]:
        """Each sample's loss (B,) and the log-SNR it was drawn at (B,) float64 on the CPU."""

    def loss(self, model: Model, batch: Batch, rng: Rng, step: int, teacher: Model | None = None) -> Tensor:
        """Each sample's loss, (B,)."""
        return self.terms(model, batch, rng, step, teacher)[0]


class Denoising(Objective):
    """The denoising loss ``w(lam) |D(x_t) - x0|^2``, computed as ``w c_out^2 |F - target|^2`` with
    ``target = ((1 - c_skip alpha)/c_out) x0 - (c_skip sigma/c_out) eps``.

    Where the batch brings a reference, x0 in the target is the posterior mean over it at noisy levels (``stable``).
    ``dropout``: how often each condition is replaced by its null, on its own (Ho & Salimans 2022, algorithm 1).
    ``together``: how often all of them are at once; then a row loses all, one, or none (Brooks et al. 2023, section
    3.2.1, with both 5%). None: each is lost independently of the others.
    """

    kind = "objective/denoising"

    def __init__(self, density: Density, weight: Weight, dropout: float = 0.1, together: float | None = None) -> None:
        for name, share in (("dropout", dropout), ("together", together or 0.0)):
            if not 0 <= share <= 1:
                raise KakusanError(f"{name}={share}: need a share between 0 and 1")
        self.density, self.weight, self.dropout = density, weight, float(dropout)
        self.together = None if together is None else float(together)

    def places(self, batch: Batch, rng: Rng, step: int) -> Tensor:
        """Where each row's noise level lies among all, u (B,) float64 in [0, 1); with strata, spread evenly over the
        global batch (Kingma et al. 2021, appendix I.1)."""
        if batch.stratum is None:
            return rng.uniform("level", step)[:, 0]
        return (batch.stratum + Rng([mix("level", step)]).uniform("level")[0, 0]) % 1.0

    def times(self, batch: Batch, rng: Rng, step: int, process: Process) -> Tensor:
        """Noise times (B,)."""
        return self.density.times(self.places(batch, rng, step), process)

    def keep(self, batch: Batch, rng: Rng, step: int) -> dict[str, Tensor]:
        """Which rows keep each condition, (B,) bool."""
        if self.together is None:
            return {name: rng.uniform(f"keep/{name}", step)[:, 0] >= self.dropout for name in batch.inputs}
        lost = self.together + self.dropout * len(batch.inputs)
        if lost > 1:
            raise KakusanError(
                f"dropout={self.dropout} of {len(batch.inputs)} conditions and together={self.together} make {lost:g}: "
                "they are shares of the same rows, 1 at most"
            )
        at = (rng.uniform("keep", step)[:, 0] - self.together) / max(self.dropout, 1e-12)
        return {name: (at >= 0) & (at.floor() != i) for i, name in enumerate(sorted(batch.inputs))}

    def terms(
        self, model: Model, batch: Batch, rng: Rng, step: int, teacher: Model | None = None
    ) -> tuple[Tensor, Tensor]:
        denoiser, batch = model.denoiser, model.drawn(batch, rng)
        process, space, x0 = denoiser.process, denoiser.space, batch.x0
        t = self.times(batch, rng, step, process)
        alpha, sigma = process.scales(t)
        lam = process.logsnr(t)
        eps = space.noise(space.shapes(x0, batch.mask), rng, "eps", step).to(x0.dtype)
        keep = {n: k for n, k in self.keep(batch, rng, step).items() if model.encoder(n).droppable}
        cond = model.cond(batch.inputs, keep, len(x0), batch.mask)
        x_t = process.noised(x0, eps, t)
        out, (_, c_skip, c_out) = denoiser.raw(x_t, t, cond)
        target = cast((1 - c_skip * alpha) / c_out, x0) * x0 - cast(c_skip * sigma / c_out, x0) * eps
        if batch.reference is not None and batch.mask is None:
            target = target + self._steadied(model, batch, batch.reference, keep, x_t, (alpha, sigma, lam)) / cast(
                c_out, x0
            )
        error = space.mse(out.to(x0.dtype) - target, batch.mask)
        return cast(self.weight.of(lam) * c_out**2, error).reshape(-1) * error, lam

    def _steadied(
        self,
        model: Model,
        batch: Batch,
        reference: Batch,
        keep: dict[str, Tensor],
        x_t: Tensor,
        levels: tuple[Tensor, Tensor, Tensor],
    ) -> Tensor:
        """What the stable target adds to x0, (B, C, *S): zero at all but the noisy levels."""
        alpha, sigma, lam = levels
        rows = torch.nonzero(lam < NOISY)[:, 0]  # on the CPU, where the levels are: nothing waits for the device
        at = rows.to(batch.x0.device, non_blocking=True)
        match = matches(model, batch, reference, keep)
        x0 = batch.x0[at]
        own = None if match is None else match[at]
        mean = stable(x0, x_t[at], alpha[rows], sigma[rows], reference.x0, own)
        return torch.zeros_like(batch.x0).index_copy(0, at, mean - x0)
