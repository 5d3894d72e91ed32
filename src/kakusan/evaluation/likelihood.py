"""How probable does a model find data? Bits per dimension, exactly through an ODE and bounded level by level.

Both are of the model that starts from noise at the process's end and stops at the level k = sigma/alpha = ``k_min``.
Pictures of whole levels are given uniform noise of one level's width first (dequantisation, Theis et al. 2016, arXiv
1511.01844, section 3.1), so that a density of real numbers bounds the probability of whole ones; ``spacing`` is that
width in the model's range, 2/255 for 8 bits.

The ODE is written for ``z = x / sqrt(alpha^2 + sigma^2)`` over lam = log(alpha/sigma), where it is the same for every
process: ``dz/dlam = c D - c^2 z``, c = alpha / sqrt(alpha^2 + sigma^2), finite at both ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.core.batch import Batch, Cond
from kakusan.core.model import Model
from kakusan.core.process import Process, as_time, cast
from kakusan.core.rng import Rng, mix
from kakusan.domains.image import Image
from kakusan.part import KakusanError

__all__ = ["Bound", "Level", "Likelihood", "bits_per_dim", "bound_by_level", "level_spacing", "log_density"]

Denoise = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> x0
Progress = Callable[[int, int], None]  # (done, of all)

K_MIN = 0.002  # under the width of an 8-bit level, as where samplers take their last step
LAM_LOWEST = -10.0
SHARE_HALVED = 4  # every fourth picture is also integrated with half the steps


@dataclass(frozen=True)
class Likelihood:
    """Bits per dimension of a set of pictures with its standard error, and what that is made of."""

    value: float
    error: float
    spread: float  # from the pictures drawn, their dequantisation and the probes of the divergence
    probes: float  # what of ``spread`` is from the probes, which more of them lower
    solver: float  # from the ODE's steps, by halving them
    pictures: list[float]  # each picture's own
    steps: int


@dataclass(frozen=True)
class Level:
    """A stretch of noise levels, lam in [low, high], and what it adds to the bound in bits per dimension."""

    low: float
    high: float
    bits: float
    error: float


@dataclass(frozen=True)
class Bound:
    """An upper bound of the bits per dimension: ``prior`` + the levels' bits + ``reconstruction``."""

    value: float
    error: float
    prior: float
    levels: list[Level]  # noisiest first
    reconstruction: float


def level_spacing(model: Model) -> float | None:
    """Distance of two neighbouring levels of the model's pictures in its own range; None where they are floats."""
    domain = model.domain
    if not isinstance(domain, Image) or domain.depth not in (8, 16):
        return None
    return 2.0 / (domain.high - domain.low)


def bits_per_dim(
    model: Model,
    x: Tensor,
    cond: Cond | None = None,
    steps: int = 32,
    seed: int = 0,
    probes: int = 1,
    spacing: float | None = 2 / 255,
    batch: int = 64,
    k_min: float = K_MIN,
    progress: Progress | None = None,
) -> Likelihood:
    """``-log2 p(x) / d`` of pictures x (N, C, *S) by the probability-flow ODE (Song et al. 2021, eq. 39).

    ``cond``: their condition, N rows (None = the learned null). ``spacing`` None: x are real numbers, and the bits are
    of their density. ``probes`` random directions estimate the divergence at each step; 0 takes it exactly, one
    derivative a dimension. Every draw is a picture's own: the result does not depend on ``batch``.
    """
    _check(model, x, steps)
    count, dims = len(x), x[0].numel()
    if cond is None:
        cond = model.cond({}, {}, count)
    bits, noise, change = [], [], []
    for start in range(0, count, batch):
        rows = slice(start, min(start + batch, count))
        rng = Rng([mix("likelihood", seed, i) for i in range(rows.start, rows.stop)], x.device)
        part = _dequantised(x[rows], spacing, rng)
        given = cond.map(lambda port, rows=rows: port[rows])
        logp, doubt = log_density(_bound_to(model, given), part, model.denoiser.process, steps, rng, probes, k_min)
        some = [i for i in range(len(part)) if (start + i) % SHARE_HALVED == 0]
        if some:
            few = given.map(lambda port, some=some: port[some])
            half, _ = log_density(
                _bound_to(model, few), part[some], model.denoiser.process, steps // 2, rng.subset(some), probes, k_min
            )
            change.append(logp[some] - half)
        bits.append(logp)
        noise.append(doubt)
        if progress is not None:
            progress(rows.stop, count)
    return _summed(torch.cat(bits), torch.cat(noise), torch.cat(change), dims, spacing, steps)


def _summed(logp: Tensor, noise: Tensor, change: Tensor, dims: int, spacing: float | None, steps: int) -> Likelihood:
    """Nats of each picture to bits per dimension of them all."""
    unit = dims * math.log(2)
    each = -logp / unit - (0.0 if spacing is None else math.log2(spacing))
    count = len(each)
    spread = float(each.std() / count**0.5) if count > 1 else math.nan
    probes = float(noise.mean() / count) ** 0.5 / unit
    solver = float(change.mean().abs()) / 3 / unit  # of second order: halving quadruples the error
    error = math.hypot(spread, solver)
    return Likelihood(float(each.mean()), error, spread, probes, solver, each.tolist(), steps)


def log_density(
    f: Denoise, x: Tensor, process: Process, steps: int, rng: Rng, probes: int = 1, k_min: float = K_MIN
) -> tuple[Tensor, Tensor]:
    """log p(x) of each row of x (B, ...) in nats, and the variance that the probes bring to it; float64 (B,).

    Heun's method over even steps of lam, from log(1/k_min) to the process's end; the divergence is summed by the
    trapezoid rule, by Hutchinson's estimator with random signs (Grathwohl et al. 2019, eq. 7) drawn anew at each step.
    """
    lams = torch.linspace(-math.log(k_min), _lowest(process), steps + 1, dtype=torch.float64)
    cosine = torch.sigmoid(2 * lams).sqrt()  # alpha / sqrt(alpha^2 + sigma^2)
    dims = x[0].numel()
    z = cast(cosine[0], x) * x
    traces = []
    for i, lam in enumerate(lams):
        slope, trace = _slope_and_trace(f, z, lam, process, _directions(z, rng, probes, i / steps), probes)
        traces.append(trace)
        if i == steps:
            break
        h = cast(lams[i + 1] - lam, z)
        with torch.no_grad():
            z = z + h / 2 * (slope + _slope(f, z + h * slope, lams[i + 1], process))
    each = torch.stack(traces, 1)  # (B, steps + 1)
    weight = torch.full((steps + 1,), float(lams[1] - lams[0]), dtype=torch.float64)
    weight[[0, -1]] /= 2
    variance = -torch.expm1(torch.nn.functional.logsigmoid(2 * lams[-1]))  # (sigma / sqrt(alpha^2 + sigma^2))^2
    square = z.cpu().double().square().flatten(1).sum(1)
    end = -square / (2 * variance) - dims / 2 * torch.log(2 * math.pi * variance)
    # the traces bend slowly with lam: what leaves the line between its neighbours is the probes' noise
    bend = each[:, 1:-1] - (each[:, :-2] + each[:, 2:]) / 2
    noise = (weight[1:-1] * bend).square().sum(1) / 1.5 if probes else torch.zeros(len(x), dtype=torch.float64)
    return end + (each * weight).sum(1) + dims * torch.log(cosine[0]), noise


def _lowest(process: Process) -> float:
    return max(float(process.logsnr(as_time(1.0))), LAM_LOWEST)


def _slope(f: Denoise, z: Tensor, lam: Tensor, process: Process) -> Tensor:
    t = process.time(lam).clamp(0, 1)
    alpha, sigma = process.scales(t)
    scale = (alpha**2 + sigma**2).sqrt()
    c = alpha / scale
    return cast(c, z) * (f(cast(scale, z) * z, t) - cast(c, z) * z)


def _slope_and_trace(
    f: Denoise, z: Tensor, lam: Tensor, process: Process, directions: list[Tensor], probes: int
) -> tuple[Tensor, Tensor]:
    """dz/dlam and its divergence (B,): the mean over random directions, the sum over all unit vectors."""
    with torch.enable_grad():
        at = z.detach().requires_grad_()
        slope = _slope(f, at, lam, process)
        trace = torch.zeros(len(z), dtype=torch.float64)
        for i, v in enumerate(directions):
            (back,) = torch.autograd.grad(slope, at, v, retain_graph=i < len(directions) - 1)
            trace += (back * v).cpu().double().flatten(1).sum(1)
    return slope.detach(), trace / max(probes, 1)


def _directions(z: Tensor, rng: Rng, probes: int, place: float) -> list[Tensor]:
    """Random signs for each picture at this place of the way, the same with half the steps; all unit vectors where
    there are no probes."""
    if probes:
        shapes = [tuple(z.shape[1:])] * len(z)
        drawn = [rng.normal(shapes, f"probe/{p}", round(place * 2**20)).to(z) for p in range(probes)]
        return [torch.where(v < 0, -torch.ones_like(z), torch.ones_like(z)) for v in drawn]
    unit = torch.eye(z[0].numel(), dtype=z.dtype, device=z.device)
    return [v.reshape(z.shape[1:]).expand_as(z) for v in unit]


def bound_by_level(
    model: Model,
    batches: Iterable[Batch],
    seed: int = 0,
    levels: int = 12,
    draws: int = 4,
    spacing: float | None = 2 / 255,
    k_min: float = K_MIN,
) -> Bound:
    """The variational bound of -log2 p(x) / d in continuous time, and how much of it each stretch of lam adds.

    ``integral of E |eps - eps_hat|^2 dlam`` (Kingma et al. 2021, eq. 17, where lambda = -2 lam), with ``draws`` levels
    a picture spread evenly over lam; ``prior``: what noise at the process's end still tells of x; ``reconstruction``:
    of the picture's own level among its neighbours, once it stands at k_min (their eq. 12).
    """
    process, space = model.denoiser.process, model.denoiser.space
    low, high = _lowest(process), -math.log(k_min)
    terms, lams, priors, rebuilt, index = [], [], [], [], 0
    for batch in batches:
        _check(model, batch.x0, 2)
        x0, count = batch.x0, len(batch.x0)
        inputs = model.drawn(batch, Rng([mix("drawn", seed, index + i) for i in range(count)], x0.device)).inputs
        cond = model.cond(inputs, {}, count, batch.mask)
        for _ in range(draws):
            rng = Rng([mix("bound", seed, index + i) for i in range(count)], x0.device)
            # the multiples of the golden ratio fill the range evenly however many there are
            place = (torch.arange(index, index + count, dtype=torch.float64) + 1) * ((5**0.5 - 1) / 2) % 1
            index += count
            lam = low + (high - low) * place
            t = process.time(lam).clamp(0, 1)
            eps = space.noise(space.shapes(x0), rng, "eps").to(x0.dtype)
            with torch.no_grad():
                error = model.denoiser(process.noised(x0, eps, t), t, cond) - x0
            terms.append(torch.exp(2 * lam) * space.mse(error).cpu().double())
            lams.append(lam)
            rebuilt.append(_reconstruction(x0.cpu().double(), eps.cpu().double(), k_min, spacing).flatten(1).mean(1))
        priors.append(x0.cpu().double().square().flatten(1).mean(1) * math.exp(2 * low) / 2)
    if index < 2 * levels:
        raise KakusanError(
            f"{index} draws for {levels} levels of noise: at least {2 * levels} are needed; add pictures"
        )
    return _levels(torch.cat(terms), torch.cat(lams), torch.cat(priors), torch.cat(rebuilt), (low, high), levels)


def _levels(
    terms: Tensor, lams: Tensor, priors: Tensor, rebuilt: Tensor, ends: tuple[float, float], count: int
) -> Bound:
    """Draws, each at its lam, to bits by stretches of lam."""
    width = (ends[1] - ends[0]) / count
    which = ((lams - ends[0]) / width).long().clamp(0, count - 1)
    unit, found = math.log(2), []
    for i in range(count):
        own = terms[which == i] * width / unit
        low = ends[0] + i * width
        found.append(Level(low, low + width, float(own.mean()), float(own.std() / len(own) ** 0.5)))
    prior, last = float(priors.mean()) / unit, float(rebuilt.mean()) / unit
    error = math.hypot(*(level.error for level in found), float(rebuilt.std() / len(rebuilt) ** 0.5) / unit)
    return Bound(prior + last + sum(level.bits for level in found), error, prior, found, last)


def _reconstruction(x0: Tensor, eps: Tensor, k: float, spacing: float | None) -> Tensor:
    """``-log p(x0 | x0 + k eps)`` in nats, elementwise: N(x0 + k eps, k^2), among whole levels in [-1, 1]."""
    if spacing is None:
        return eps.square() / 2 + math.log(k * (2 * math.pi) ** 0.5)
    seen = x0 + k * eps
    reach = math.ceil(6 * k / spacing) + 1
    nearest = torch.round((seen + 1) / spacing)
    total, last = torch.zeros_like(x0), round(2 / spacing)
    for offset in range(-reach, reach + 1):
        level = nearest + offset
        weight = torch.exp(-((level * spacing - 1 - seen) ** 2) / (2 * k**2))
        total += torch.where((level >= 0) & (level <= last), weight, 0.0)
    return eps.square() / 2 + total.log()


def _bound_to(model: Model, cond: Cond) -> Denoise:
    return lambda x, t: model.denoiser(x, t, cond)


def _dequantised(x: Tensor, spacing: float | None, rng: Rng) -> Tensor:
    if spacing is None:
        return x
    u = rng.uniform("dequantise", count=x[0].numel()).reshape(x.shape).to(x)
    return x + spacing * (u - 0.5)


def _check(model: Model, x: Tensor, steps: int) -> None:
    kind = model.denoiser.space.kind
    if kind != "space/flat":
        raise KakusanError(f"likelihood is for models on flat space (pictures); this one's is {kind}")
    if x.ndim < 2 or not len(x):
        raise KakusanError(f"pictures have shape {tuple(x.shape)}: pass (batch, channels, *sizes), at least one")
    if steps < 2:
        raise KakusanError(f"steps={steps}: at least 2 are needed, for they are halved to estimate their error")
