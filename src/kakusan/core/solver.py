"""Solvers: one deterministic fall from noise time t to a lesser s, given a denoiser.

A solver takes and returns its memory; nothing is stored, so one model serves many requests at once. k = sigma/alpha,
lam = -log k.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.core.guide import Denoise
from kakusan.core.process import Process, cast
from kakusan.part import KakusanError, Part

__all__ = ["DDIM", "DPM2M", "IPNDM", "Heun", "Learned", "Memory", "Solver", "UniPC", "combined", "fall"]


@dataclass(frozen=True)
class Memory:
    """What a multistep solver keeps: earlier estimates with their lam, the latest first; and where it last stood."""

    past: tuple[tuple[Tensor, Tensor], ...]  # (lam, estimate) pairs
    x: Tensor | None = None
    t: Tensor | None = None
    order: int = 1


def fall(x: Tensor, x0: Tensor, t: Tensor, s: Tensor, process: Process) -> Tensor:
    """The first-order fall ``x_s = (sigma_s/sigma_t) x + (alpha_s - alpha_t sigma_s/sigma_t) x0``, finite at alpha = 0
    (Song et al. 2021, eq. 12 with eta = 0)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = process.scales(t), process.scales(s)
    ratio = sigma_s / sigma_t
    return cast(ratio, x) * x + cast(alpha_s - alpha_t * ratio, x) * x0


class Solver(Part, abc.ABC):
    """One step of the probability-flow ODE; ``evaluations`` is how many network calls a step makes."""

    evaluations = 1

    @abc.abstractmethod
    def step(
        self, f: Denoise, x: Tensor, t: Tensor, s: Tensor, process: Process, memory: Memory | None
    ) -> tuple[Tensor, Tensor, Memory | None]:
        """From x at t to (x at s, the estimate of x0 made at t, memory for the next fall)."""


class DDIM(Solver):
    """First order (Song et al. 2021); Euler's method on d(x/alpha)/dk = eps."""

    kind = "solver/ddim"

    def step(
        self, f: Denoise, x: Tensor, t: Tensor, s: Tensor, process: Process, memory: Memory | None
    ) -> tuple[Tensor, Tensor, Memory | None]:
        x0 = f(x, t, s)
        return fall(x, x0, t, s, process), x0, None


class Heun(Solver):
    """Second order, two evaluations: the trapezoid rule on d(x/alpha)/dk = eps (Karras et al. 2022, algorithm 1).

    Falls to sigma = 0 and falls from alpha = 0 are DDIM steps.
    """

    kind = "solver/heun"
    evaluations = 2

    def step(
        self, f: Denoise, x: Tensor, t: Tensor, s: Tensor, process: Process, memory: Memory | None
    ) -> tuple[Tensor, Tensor, Memory | None]:
        x0 = f(x, t, s)
        landed = fall(x, x0, t, s, process)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.scales(t), process.scales(s)
        if sigma_s == 0 or alpha_t == 0:
            return landed, x0, None
        again = f(landed, s, s)
        slope = cast(0.5 / sigma_t, x) * (x - cast(alpha_t, x) * x0)
        slope = slope + cast(0.5 / sigma_s, x) * (landed - cast(alpha_s, x) * again)
        gap = alpha_s * (sigma_s / alpha_s - sigma_t / alpha_t)
        return cast(alpha_s / alpha_t, x) * x + cast(gap, x) * slope, x0, None


class DPM2M(Solver):
    """DPM-Solver++ 2M: second order, multistep, one evaluation (Lu et al. 2022b, algorithm 2).

    ``x_s = (sigma_s/sigma_t) x - alpha_s (e^-h - 1) ((1 + w) D_t - w D_before)``,
    h = lam_s - lam_t, w = h/(2 h_before).
    """

    kind = "solver/dpm2m"

    def step(
        self, f: Denoise, x: Tensor, t: Tensor, s: Tensor, process: Process, memory: Memory | None
    ) -> tuple[Tensor, Tensor, Memory | None]:
        x0 = f(x, t, s)
        lam_t, lam_s = process.logsnr(t), process.logsnr(s)
        estimate = x0
        if memory is not None and torch.isfinite(lam_s):
            lam_before, before = memory.past[0]
            w = (lam_s - lam_t) / (2 * (lam_t - lam_before))  # 0 where the step before came from alpha = 0
            estimate = x0 + cast(w, x) * (x0 - before)
        return fall(x, estimate, t, s, process), x0, Memory(((lam_t, x0),))


class UniPC(Solver):
    """UniPC, B2(h) variant, data prediction: a multistep predictor of ``order`` whose step the next evaluation
    corrects, at no further cost (Zhao et al. 2023, algorithms 1 and 2). Order of accuracy with the corrector:
    ``order`` + 1 for 1 and 2, 3.8 measured for 3; without it ``order``, 2 at most since the first step is DDIM's.
    """

    kind = "solver/unipc"

    def __init__(self, order: int = 2, corrector: bool = True) -> None:
        if order not in (1, 2, 3):
            raise KakusanError(f"order={order}: choose 1, 2 or 3 (2 is stable at few steps)")
        self.order, self.corrector = order, corrector

    def step(
        self, f: Denoise, x: Tensor, t: Tensor, s: Tensor, process: Process, memory: Memory | None
    ) -> tuple[Tensor, Tensor, Memory | None]:
        x0 = f(x, t, s)
        lam = process.logsnr(t)
        if self.corrector and memory is not None and memory.x is not None and memory.t is not None:
            x = self._update(memory.x, memory.past, memory.t, t, process, memory.order, (lam, x0))
        past = ((lam, x0), *(memory.past if memory else ()))[: self.order]
        usable = sum(bool(torch.isfinite(p[0])) for p in past)
        if not torch.isfinite(process.logsnr(s)) or usable == 0:  # to sigma = 0, or from alpha = 0
            return fall(x, x0, t, s, process), x0, Memory(past[:usable])
        order = min(self.order, usable)
        return self._update(x, past, t, s, process, order, None), x0, Memory(past[:usable], x, t, order)

    def _update(
        self,
        x: Tensor,
        past: tuple[tuple[Tensor, Tensor], ...],
        t: Tensor,
        s: Tensor,
        process: Process,
        order: int,
        reached: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Predict x at s (``reached`` None), or correct it with the estimate made there."""
        lam_t, newest = past[0]
        h = process.logsnr(s) - lam_t
        points = [*past[1:order], *([reached] if reached else [])]
        rises = [(lam - lam_t) / h for lam, _ in points]
        out = fall(x, newest, t, s, process)
        if not points:
            return out
        weights = _unipc_weights(torch.stack(rises), -h)
        lift = process.scales(s)[0] * torch.expm1(-h)
        for weight, rise, (_, estimate) in zip(weights, rises, points, strict=True):
            out = out - cast(lift * weight / rise, x) * (estimate - newest)
        return out


def _unipc_weights(rises: Tensor, hh: Tensor) -> Tensor:
    """The rho of eq. 9: ``sum_m r_m^(n-1) rho_m = b_n``, n = 1..p; with one point 1/2, as in the paper."""
    count = len(rises)
    if count == 1:
        return torch.full((1,), 0.5, dtype=torch.float64)
    scale = torch.expm1(hh)
    phi, factorial, rows, rhs = scale / hh - 1, 1.0, [], []
    for n in range(1, count + 1):
        rows.append(rises ** (n - 1))
        rhs.append(phi * factorial / scale)
        factorial *= n + 1
        phi = phi / hh - 1 / factorial
    return torch.linalg.solve(torch.stack(rows), torch.stack(rhs))


class IPNDM(Solver):
    """Adams-Bashforth with constant coefficients on d(x/alpha)/dk = eps, up to four past slopes (Liu et al. 2022,
    PNDM; Zhang & Chen 2023, iPNDM). Order 4 on a uniform grid of k only; on others it is of order 2, and still among
    the best at 6-10 steps.
    """

    kind = "solver/ipndm"
    _WEIGHTS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))

    def __init__(self, order: int = 4) -> None:
        if order not in (1, 2, 3, 4):
            raise KakusanError(f"order={order}: choose 1, 2, 3 or 4")
        self.order = order

    def step(
        self, f: Denoise, x: Tensor, t: Tensor, s: Tensor, process: Process, memory: Memory | None
    ) -> tuple[Tensor, Tensor, Memory | None]:
        x0 = f(x, t, s)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.scales(t), process.scales(s)
        if alpha_t == 0:
            return fall(x, x0, t, s, process), x0, None
        eps = cast(1 / sigma_t, x) * (x - cast(alpha_t, x) * x0)
        past = ((process.logsnr(t), eps), *(memory.past if memory else ()))[: self.order]
        weights = self._WEIGHTS[len(past) - 1]
        slope = weights[0] * eps
        for weight, (_, before) in zip(weights[1:], past[1:], strict=True):
            slope = slope + weight * before
        gap = sigma_s - alpha_s * sigma_t / alpha_t
        return cast(alpha_s / alpha_t, x) * x + cast(gap, x) * slope, x0, Memory(past)


@dataclass(frozen=True)
class Learnt(Memory):
    """What ``Learned`` keeps on its own lists; no other solver reads it."""


class Learned(Solver):
    """Multistep with learned weights: the first-order fall, at ``x0 + sum_j w_j (x0 - x0_j)`` over all earlier
    estimates, the latest first (S4S: Frankel et al. 2025, arXiv 2502.17423).

    Every consistent linear multistep method with one evaluation a step has this form on its list of times. ``lams`` are
    the lists of ``grid/learned``; ``weights`` one list each, n (n - 1)/2 numbers: step 1's one, step 2's two, ...
    On any other list of times, or where it was not followed from its beginning, ``base`` makes the steps.
    """

    kind = "solver/learned"

    def __init__(self, lams: list[list[float]], weights: list[list[float]], base: Solver) -> None:
        if not lams or [len(row) * (len(row) + 1) // 2 for row in lams] != [len(row) for row in weights]:
            raise KakusanError("weights: need n (n - 1)/2 numbers for each list of n - 1 lams")
        self.lams, self.weights, self.base = lams, weights, base

    def step(
        self, f: Denoise, x: Tensor, t: Tensor, s: Tensor, process: Process, memory: Memory | None
    ) -> tuple[Tensor, Tensor, Memory | None]:
        past = memory.past if isinstance(memory, Learnt) else ()
        row = None if memory is not None and not past else self._row(t, s, past, process)
        if row is None:
            return self.base.step(f, x, t, s, process, None if past else memory)
        x0 = f(x, t, s)
        estimate = combined(x0, [before for _, before in past], row)
        return fall(x, estimate, t, s, process), x0, Learnt(((process.logsnr(t), x0), *past))

    def _row(self, t: Tensor, s: Tensor, past: tuple[tuple[Tensor, Tensor], ...], process: Process) -> Tensor | None:
        """The weights of this step, where the times so far are those of a list; None elsewhere."""
        if t.ndim:
            return None
        count = len(past)
        seen = [float(lam) for lam, _ in reversed(past)][1:] + [float(process.logsnr(t))] * (count > 0)
        ahead = float(process.logsnr(s))
        for lams, weights in zip(self.lams, self.weights, strict=True):
            expected = [*lams, math.inf]
            if count < len(expected) and all(_near(a, b) for a, b in zip([*seen, ahead], expected)):
                begin = count * (count - 1) // 2
                return torch.tensor(weights[begin : begin + count], dtype=torch.float64)
        return None


def combined(x0: Tensor, past: list[Tensor], weights: Tensor) -> Tensor:
    """``x0 + sum_j w_j (x0 - x0_j)``; weights (len(past),), the latest estimate first."""
    out = x0
    for weight, before in zip(weights, past, strict=True):
        out = out + cast(weight, x0) * (x0 - before)
    return out


def _near(a: float, b: float) -> bool:
    return a == b or abs(a - b) < 1e-6
