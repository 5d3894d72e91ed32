"""Guidance: turns the estimates of several condition branches into one denoiser; it composes with every solver."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kakusan.core.process import Process, cast
from kakusan.part import KakusanError, Part

__all__ = [
    "Apart",
    "Autoguidance",
    "Branches",
    "Chain",
    "ClassifierFree",
    "Denoise",
    "Guide",
    "Interval",
    "Plain",
    "Relaxed",
    "Several",
    "Share",
    "mixed",
    "pair",
]

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x_t, t, s) -> x0 whose fall lands at s; most ignore s


class Branches(Protocol):
    """One batched evaluation of all condition branches, or of those named in ``which``."""

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, which: tuple[int, ...] | None = None) -> tuple[Tensor, ...]: ...


class Guide(Part, abc.ABC):
    """A rule that combines branch estimates of x0; the last branch is the one fully conditioned (but in ``Several``).

    Guides store nothing and look at one noise time only, so every solver may call them as often as it likes.
    """

    branches: int  # how many it needs

    def needs(self, t: Tensor) -> tuple[int, ...]:
        """The branches that count at noise time t: all, unless a guide says otherwise."""
        return tuple(range(self.branches))

    @abc.abstractmethod
    def combine(self, estimates: tuple[Tensor, ...], t: Tensor) -> Tensor:
        """Estimates of x0 at t, one for each branch of ``needs(t)``, to one."""

    def __call__(self, branches: Branches) -> Denoise:
        """The guided denoiser."""

        def denoise(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            needed = self.needs(t)
            whole = len(needed) == self.branches
            return self.combine(branches(x, t, s) if whole else branches(x, t, s, needed), t)

        return denoise


class Plain(Guide):
    """The conditioned estimate as it is."""

    kind = "guide/plain"
    branches = 1

    def combine(self, estimates: tuple[Tensor, ...], t: Tensor) -> Tensor:
        return estimates[-1]


class ClassifierFree(Guide):
    """``D = D_u + w (D_c - D_u)`` over branches (u, c): w = 1 is no guidance, w = 0 unconditional (Ho & Salimans
    2022, eq. 6, with their weight + 1). With a weaker model as u it is autoguidance (Karras et al. 2024, eq. 3).
    """

    kind = "guide/classifier-free"
    branches = 2

    def __init__(self, weight: float = 2.0) -> None:
        self.weight = float(weight)

    def combine(self, estimates: tuple[Tensor, ...], t: Tensor) -> Tensor:
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

    def needs(self, t: Tensor) -> tuple[int, ...]:
        return 0, *(i + 1 for i in self.guide.needs(t))

    def combine(self, estimates: tuple[Tensor, ...], t: Tensor) -> Tensor:
        return self.guide.combine(estimates[1:], t) + (self.weight - 1) * (estimates[-1] - estimates[0])


class Several(Guide):
    """``D = D_u + sum_i w_i (D_i - D_u)`` over branches (u, 1, 2, ...): several conditions, each against none
    (Liu et al. 2022, eq. 11)."""

    kind = "guide/several"

    def __init__(self, weights: list[float]) -> None:
        if not weights:
            raise KakusanError("weights=[]: need one weight a condition")
        self.weights, self.branches = [float(w) for w in weights], len(weights) + 1

    def combine(self, estimates: tuple[Tensor, ...], t: Tensor) -> Tensor:
        first, out = estimates[0], estimates[0]
        for w, estimate in zip(self.weights, estimates[1:], strict=True):
            out = out + w * (estimate - first)
        return out


class Apart(Guide):
    """``D = D_c + sum_i (w_i - 1) (D_c - D_i)`` over branches (all but 1, all but 2, ..., c = all): each condition has
    a weight of its own, against the others without it.

    Weights of 1 give D_c itself, w_i = 0 leaves condition i out, and with one condition it is classifier-free guidance.
    Equal to ``Several`` where conditions are independent given x_t (Liu et al. 2022, eq. 11); elsewhere what they say
    together stays in.
    """

    kind = "guide/apart"

    def __init__(self, weights: list[float]) -> None:
        if not weights:
            raise KakusanError("weights=[]: need one weight a condition")
        self.weights, self.branches = [float(w) for w in weights], len(weights) + 1

    def combine(self, estimates: tuple[Tensor, ...], t: Tensor) -> Tensor:
        last = out = estimates[-1]
        for w, without in zip(self.weights, estimates, strict=False):
            out = out + (w - 1) * (last - without)
        return out


class Chain(Guide):
    """``D = D_0 + sum_i w_i (D_i - D_{i-1})`` over branches with ever more conditions: picture first, then instruction
    (Brooks et al. 2023, eq. 3)."""

    kind = "guide/chain"

    def __init__(self, weights: list[float]) -> None:
        if not weights:
            raise KakusanError("weights=[]: need one weight a condition")
        self.weights, self.branches = [float(w) for w in weights], len(weights) + 1

    def combine(self, estimates: tuple[Tensor, ...], t: Tensor) -> Tensor:
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

    def needs(self, t: Tensor) -> tuple[int, ...]:
        return self.guide.needs(t) if self._inside(t) else (self.branches - 1,)

    def combine(self, estimates: tuple[Tensor, ...], t: Tensor) -> Tensor:
        return self.guide.combine(estimates, t) if self._inside(t) else estimates[-1]

    def _inside(self, t: Tensor) -> bool:
        if t.ndim:
            raise KakusanError("guide/interval takes one time for the whole batch")
        return self.low < float(self.process.logsnr(t)) <= self.high


class Relaxed(Guide):
    """Another guide with every weight w drawn in to ``1 + r (w - 1)``, r a number of each sample's own:
    ``D = D_c + r (G - D_c)``. r = 1 is that guide, r = 0 the conditioned estimate as it is.
    """

    kind = "guide/relaxed"

    def __init__(self, guide: Guide, shares: list[float]) -> None:
        if not shares:
            raise KakusanError("shares=[]: need one number a sample, or one for all")
        self.guide, self.shares, self.branches = guide, [float(r) for r in shares], guide.branches

    def needs(self, t: Tensor) -> tuple[int, ...]:
        return self.guide.needs(t)

    def combine(self, estimates: tuple[Tensor, ...], t: Tensor) -> Tensor:
        end = self.guide.combine(estimates, t)
        if len(self.shares) not in (1, len(end)):
            raise KakusanError(f"shares has {len(self.shares)} numbers for {len(end)} samples: need one each")
        r = torch.tensor(self.shares, dtype=end.dtype, device=end.device).reshape(-1, *[1] * (end.ndim - 1))
        return torch.lerp(estimates[-1], end, r)


def pair(weak: Branches, strong: Branches) -> Branches:
    """Branches (weak, those of strong) of two models, for ``Autoguidance``; of the weak one the last branch."""

    def evaluate(x: Tensor, t: Tensor, s: Tensor, which: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        if which is None:
            return weak(x, t, s)[-1], *strong(x, t, s)
        found = iter(strong(x, t, s, inner) if (inner := tuple(i - 1 for i in which if i)) else ())
        return tuple(next(found) if i else weak(x, t, s)[-1] for i in which)

    return evaluate


@dataclass(frozen=True)
class Share:
    """A branch's part in a mean: branch ``index`` counts ``weight`` where ``low < sigma/alpha <= high``; (B,) each."""

    index: int
    weight: Tensor
    low: Tensor
    high: Tensor


def mixed(branches: Branches, means: Sequence[Sequence[Share]], process: Process) -> Branches:
    """Branches that are weighted means of others, ``D_m = sum_j w_j D_j / sum_j w_j``, weights of each sample's own:
    blends of conditions; and with spans of noise levels, a condition that gives way to another as the noise falls.

    The mean of posterior means is that of a product of densities, each to the power of its weight (Liu et al. 2022,
    eq. 9, with weights that sum to 1).
    """

    def evaluate(x: Tensor, t: Tensor, s: Tensor, which: tuple[int, ...] | None = None) -> tuple[Tensor, ...]:
        chosen = [means[i] for i in (range(len(means)) if which is None else which)]
        k = process.ratio(t).double()
        weights = [{p.index: p.weight * ((p.low < k) & (k <= p.high)) for p in mean} for mean in chosen]
        weights = [{i: w for i, w in mean.items() if bool((w != 0).any())} for mean in weights]
        needed = tuple(sorted({i for mean in weights for i in mean}))
        found = dict(zip(needed, branches(x, t, s, needed), strict=True))
        return tuple(_mean([(w, found[i]) for i, w in mean.items()]) for mean in weights)

    return evaluate


def _mean(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Weights (B,) and estimates (B, C, *S) to their mean."""
    if len(parts) == 1:
        return parts[0][1]
    total = torch.stack([w for w, _ in parts]).sum(0)
    return torch.stack([cast(w / total, e) * e for w, e in parts]).sum(0)
