"""Guidance: turns the estimates of several condition branches into one denoiser; it composes with every solver."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from kakusan.core.process import Process
from kakusan.part import KakusanError, Part

__all__ = [
    "Autoguidance",
    "Branches",
    "Chain",
    "ClassifierFree",
    "Denoise",
    "Guide",
    "Interval",
    "Plain",
    "Several",
    "pair",
]

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x_t, t, s) -> x0 whose fall lands at s; most ignore s


class Branches(Protocol):
    """One batched evaluation of all condition branches, or of those named in ``which``."""

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, which: tuple[int, ...] | None = None) -> tuple[Tensor, ...]: ...


class Guide(Part, abc.ABC):
    """A rule that combines branch estimates of x0; the last branch is the one fully conditioned."""

    branches: int  # how many it needs

    @abc.abstractmethod
    def combine(self, estimates: tuple[Tensor, ...]) -> Tensor:
        """Estimates of x0, one a branch, to one."""

    def __call__(self, branches: Branches) -> Denoise:
        """The guided denoiser."""
        return lambda x, t, s: self.combine(branches(x, t, s))


class Plain(Guide):
    """The conditioned estimate as it is."""

    kind = "guide/plain"
    branches = 1

    def combine(self, estimates: tuple[Tensor, ...]) -> Tensor:
        return estimates[-1]


class ClassifierFree(Guide):
    """``D = D_u + w (D_c - D_u)`` over branches (u, c): w = 1 is no guidance, w = 0 unconditional (Ho & Salimans
    2022, eq. 6, with their weight + 1). With a weaker model as u it is autoguidance (Karras et al. 2024, eq. 3).
    """

    kind = "guide/classifier-free"
    branches = 2

    def __init__(self, weight: float = 2.0) -> None:
        self.weight = float(weight)

    def combine(self, estimates: tuple[Tensor, ...]) -> Tensor:
        return torch.lerp(estimates[0], estimates[1], self.weight)


class Autoguidance(Guide):
    """``D = G + (w - 1) (D_c - D_weak)`` over branches (weak, those of ``guide``), G what that guide makes of its own.

    Away from a weaker version of the model itself: its errors are larger, but of the same kind (Karras et al. 2024,
    arXiv 2406.02507, eq. 3; beside classifier-free guidance, where that is the guide, each with its own weight).
    """

    kind = "guide/auto"

    def __init__(self, weight: float = 2.0, guide: Guide | None = None) -> None:
        self.weight, self.guide = float(weight), guide or Plain()
        self.branches = 1 + self.guide.branches

    def combine(self, estimates: tuple[Tensor, ...]) -> Tensor:
        return self.guide.combine(estimates[1:]) + (self.weight - 1) * (estimates[-1] - estimates[0])


class Several(Guide):
    """``D = D_u + sum_i w_i (D_i - D_u)`` over branches (u, 1, 2, ...): several conditions, each against none
    (Liu et al. 2022, eq. 11)."""

    kind = "guide/several"

    def __init__(self, weights: list[float]) -> None:
        if not weights:
            raise KakusanError("weights=[]: need one weight a condition")
        self.weights, self.branches = [float(w) for w in weights], len(weights) + 1

    def combine(self, estimates: tuple[Tensor, ...]) -> Tensor:
        first, out = estimates[0], estimates[0]
        for w, estimate in zip(self.weights, estimates[1:], strict=True):
            out = out + w * (estimate - first)
        return out


class Chain(Guide):
    """``D = D_0 + sum_i w_i (D_i - D_{i-1})`` over branches with ever more conditions: picture first, then instruction
    (Brooks et al. 2023, eq. 3)."""

    kind = "guide/chain"

    def __init__(self, weights: list[float]) -> None:
        if not weights:
            raise KakusanError("weights=[]: need one weight a condition")
        self.weights, self.branches = [float(w) for w in weights], len(weights) + 1

    def combine(self, estimates: tuple[Tensor, ...]) -> Tensor:
        out = estimates[0]
        for w, before, after in zip(self.weights, estimates, estimates[1:], strict=False):
            out = out + w * (after - before)
        return out


class Interval(Guide):
    """Another guide where ``low < lam(t) <= high`` only, the conditioned branch alone elsewhere: better and cheaper
    (Kynkäänniemi et al. 2024, eq. 5; their sigma is exp(-lam)).
    """

    kind = "guide/interval"

    def __init__(self, guide: Guide, process: Process, low: float = -1.6, high: float = 1.2) -> None:
        if not low < high:
            raise KakusanError(f"low={low}, high={high}: need low < high, both log(alpha/sigma)")
        self.guide, self.process, self.low, self.high = guide, process, float(low), float(high)
        self.branches = guide.branches

    def combine(self, estimates: tuple[Tensor, ...]) -> Tensor:
        return self.guide.combine(estimates)

    def __call__(self, branches: Branches) -> Denoise:
        def denoise(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            if t.ndim:
                raise KakusanError("guide/interval takes one time for the whole batch")
            if self.low < float(self.process.logsnr(t)) <= self.high:
                return self.guide.combine(branches(x, t, s))
            return branches(x, t, s, (self.branches - 1,))[0]

        return denoise


def pair(weak: Branches, strong: Branches) -> Branches:
    """Branches (weak, those of strong) of two models, for ``Autoguidance``; of the weak one the last branch."""

    def evaluate(x: Tensor, t: Tensor, s: Tensor, which: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        if which is None:
            return weak(x, t, s)[-1], *strong(x, t, s)
        found = iter(strong(x, t, s, inner) if (inner := tuple(i - 1 for i in which if i)) else ())
        return tuple(next(found) if i else weak(x, t, s)[-1] for i in which)

    return evaluate
