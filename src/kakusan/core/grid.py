"""Grids: the falling list of times a sampler visits, from the noisiest to 0; ``climb`` makes it climb too."""

from __future__ import annotations

import abc
import math
from itertools import pairwise

import torch
from torch import Tensor

from kakusan.core.process import Process, Tabulated
from kakusan.part import KakusanError, Part

__all__ = [
    "Consistency",
    "Discrete",
    "Every",
    "Grid",
    "Karras",
    "Learned",
    "Listed",
    "UniformLam",
    "UniformT",
    "churn",
    "climb",
    "resample",
]

LAM_LIMIT = 10.0


class Grid(Part, abc.ABC):
    """Where a sampler evaluates the network."""

    @abc.abstractmethod
    def inner(self, steps: int, process: Process) -> Tensor:
        """``steps`` falling times, the noisiest first, float64; 0 is appended by ``times``."""

    def times(self, steps: int, process: Process) -> Tensor:
        """steps + 1 falling times for ``steps`` falls, the last of them 0 (no noise)."""
        if steps < 1:
            raise KakusanError(f"steps={steps}: need at least 1")
        times = torch.cat([self.inner(steps, process), torch.zeros(1, dtype=torch.float64)])
        if not bool((times.diff() < 0).all()):
            raise KakusanError(f"{self.kind} with steps={steps} gives times that do not fall; use fewer steps")
        return times


def _noisiest(process: Process, limit: float) -> float:
    """The largest k = sigma/alpha inside the lam range that a log-SNR grid may start from."""
    return min(float(process.ratio(torch.ones((), dtype=torch.float64))), limit)


def _from_ratio(k: Tensor, process: Process, starts_at_end: bool) -> Tensor:
    times = process.time(-k.log())
    first = torch.ones(1, dtype=torch.float64)
    if process.zero_terminal:
        return torch.cat([first, times])
    return torch.cat([first, times[1:]]) if starts_at_end else times


class Karras(Grid):
    """``k_i = (k_max^(1/rho) + i/(n-1) (k_min^(1/rho) - k_max^(1/rho)))^rho`` for k = sigma/alpha
    (Karras et al. 2022, eq. 5).

    k_max is where the process ends, or ``k_max`` if that is less noisy. A process that ends at alpha = 0 gets t = 1
    in front.
    """

    kind = "grid/karras"

    def __init__(self, rho: float = 7.0, k_min: float = 0.002, k_max: float = 80.0) -> None:
        if not 0 < k_min < k_max or not rho > 0:
            raise KakusanError(f"rho={rho}, k_min={k_min}, k_max={k_max}: need rho > 0 and 0 < k_min < k_max")
        self.rho, self.k_min, self.k_max = float(rho), float(k_min), float(k_max)

    def inner(self, steps: int, process: Process) -> Tensor:
        high = _noisiest(process, self.k_max)
        count = steps - 1 if process.zero_terminal else steps
        place = torch.linspace(0, 1, max(count, 1), dtype=torch.float64)[:count]
        low, top = self.k_min ** (1 / self.rho), high ** (1 / self.rho)
        return _from_ratio((top + place * (low - top)) ** self.rho, process, high < self.k_max)


class UniformLam(Grid):
    """Even steps in lam = log(alpha/sigma), down to ``k_min`` (Lu et al. 2022, section 3.3)."""

    kind = "grid/uniform-lam"

    def __init__(self, k_min: float = 0.002, k_max: float = 80.0) -> None:
        if not 0 < k_min < k_max:
            raise KakusanError(f"k_min={k_min}, k_max={k_max}: need 0 < k_min < k_max")
        self.k_min, self.k_max = float(k_min), float(k_max)

    def inner(self, steps: int, process: Process) -> Tensor:
        high = _noisiest(process, self.k_max)
        count = steps - 1 if process.zero_terminal else steps
        lam = torch.linspace(-math.log(high), -math.log(self.k_min), max(count, 1), dtype=torch.float64)[:count]
        return _from_ratio(torch.exp(-lam), process, high < self.k_max)


class UniformT(Grid):
    """Even steps in t, from 1."""

    kind = "grid/uniform-t"

    def inner(self, steps: int, process: Process) -> Tensor:
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]


class Discrete(Grid):
    """Entries of a table, chosen as discrete-time libraries do (Lin et al. 2024, table 2, names the three spacings).

    For T entries, n steps: ``leading`` i (T // n) + offset, ``trailing`` round(T - i T/n) - 1, ``linspace`` n even
    points from T - 1 to 0.
    """

    kind = "grid/discrete"

    def __init__(self, spacing: str = "trailing", offset: int = 0) -> None:
        if spacing not in ("leading", "trailing", "linspace"):
            raise KakusanError(f"spacing={spacing!r} is not known; choose 'leading', 'trailing' or 'linspace'")
        self.spacing, self.offset = spacing, int(offset)

    def entries(self, steps: int, total: int) -> Tensor:
        """The integer time steps, falling, 0 .. total - 1."""
        if steps > total:
            raise KakusanError(f"steps={steps}: the process has only {total} entries; use steps={total} or fewer")
        index = torch.arange(steps, dtype=torch.float64)
        if self.spacing == "leading":
            chosen = (index * (total // steps)).flip(0) + self.offset
        elif self.spacing == "trailing":
            chosen = torch.round(total - index * (total / steps)) - 1
        else:
            chosen = torch.linspace(0, total - 1, steps, dtype=torch.float64).round().flip(0)
        return chosen.clamp(0, total - 1).long()

    def inner(self, steps: int, process: Process) -> Tensor:
        if not isinstance(process, Tabulated):
            raise KakusanError(f"grid/discrete needs process/tabulated, not {process.kind}; use grid/uniform-t")
        return (self.entries(steps, process.steps) + 1).double() / process.steps


class Listed(Grid):
    """k = sigma/alpha written out, falling: learned or hand-made grids, for that many steps only."""

    kind = "grid/listed"

    def __init__(self, ratios: list[float]) -> None:
        if not ratios or any(not k > 0 for k in ratios):
            raise KakusanError("ratios: need a falling list of sigma/alpha, each > 0")
        self.ratios = [float(k) for k in ratios]

    def inner(self, steps: int, process: Process) -> Tensor:
        if steps != len(self.ratios):
            raise KakusanError(
                f"steps={steps}: this grid is a list of {len(self.ratios)} noise levels; use that number"
            )
        return process.time(-torch.tensor(self.ratios, dtype=torch.float64).log())


class Learned(Grid):
    """Learned lists: n steps begin where ``base`` begins and go on at the list of n - 1 rising lam = log(alpha/sigma).

    Numbers of steps that were not learned are left to ``base`` (LD3: Tong et al. 2025, arXiv 2405.15506).
    """

    kind = "grid/learned"

    def __init__(self, lams: list[list[float]], base: Grid) -> None:
        if not lams or any(not row or any(a >= b for a, b in pairwise(row)) for row in lams):
            raise KakusanError("lams: need lists of rising log(alpha/sigma), at least one")
        self.lams, self.base = [[float(lam) for lam in row] for row in lams], base

    def inner(self, steps: int, process: Process) -> Tensor:
        rest = next((row for row in self.lams if len(row) == steps - 1), None)
        if rest is None:
            return self.base.inner(steps, process)
        first = self.base.inner(steps, process)[:1]
        return torch.cat([first, process.time(torch.tensor(rest, dtype=torch.float64))])


class Every(Grid):
    """Every so many-th time of ``base``'s list of ``steps``, so that lists of half as many steps lie within each other
    (Salimans & Ho 2022, arXiv 2202.00512, algorithm 2). Where a number of steps does not divide ``steps``, ``base``'s
    own list of that number.
    """

    kind = "grid/every"

    def __init__(self, base: Grid, steps: int) -> None:
        if steps < 1:
            raise KakusanError(f"steps={steps}: need at least 1")
        self.base, self.steps = base, int(steps)

    def inner(self, steps: int, process: Process) -> Tensor:
        if steps > self.steps or self.steps % steps:
            return self.base.inner(steps, process)
        return self.base.inner(self.steps, process)[:: self.steps // steps]


class Consistency(Grid):
    """The climbing list of multistep consistency sampling: from each of n noise levels to 0, and up to the next.

    The levels lie evenly in lam from ``k_max`` (or where the process ends) to ``k_low``, k = sigma/alpha; one step
    starts at the first (Song et al. 2023, arXiv 2303.01469, algorithm 1; Geng et al. 2024, arXiv 2406.14548: a second
    level of 0.82).
    """

    kind = "grid/consistency"

    def __init__(self, k_low: float = 0.8, k_max: float = 80.0) -> None:
        if not 0 < k_low < k_max:
            raise KakusanError(f"k_low={k_low}, k_max={k_max}: need 0 < k_low < k_max")
        self.k_low, self.k_max = float(k_low), float(k_max)

    def inner(self, steps: int, process: Process) -> Tensor:
        high = _noisiest(process, self.k_max)
        lam = torch.linspace(-math.log(high), -math.log(self.k_low), steps, dtype=torch.float64)
        return process.time(lam).clamp(max=1.0)

    def times(self, steps: int, process: Process) -> Tensor:
        """2 steps times: every level, each followed by 0."""
        levels = super().times(steps, process)[:-1]
        return torch.stack([levels, torch.zeros_like(levels)], 1).flatten()


def climb(times: Tensor, process: Process, eta: float = 1.0) -> Tensor:
    """The list for eta-DDIM, eta = 1 being DDPM: fall to ``k_d = k_s sqrt(1 - eta^2 (1 - k_s^2/k_t^2))``, climb to s.

    Equal to the posterior mean and variance of Ho et al. 2020, eq. 7, and Song et al. 2021, eq. 16, for any process.
    """
    if not 0 <= eta <= 1:
        raise KakusanError(f"eta={eta}: need a number between 0 (no noise added) and 1 (ancestral sampling, DDPM)")
    if eta == 0:
        return times
    k = process.ratio(times)
    down = k[1:] * (1 - eta**2 * (1 - (k[1:] / k[:-1]) ** 2)).clamp(min=0).sqrt()
    below = process.time(-down.log())
    return torch.cat([times[:1], torch.stack([below, times[1:]], 1).flatten()])[: 2 * len(times) - 2]


def churn(times: Tensor, process: Process, amount: float, k_low: float = 0.05, k_high: float = 50.0) -> Tensor:
    """The list for EDM's stochastic sampler: before each fall from k in [k_low, k_high], climb to
    ``k (1 + min(amount/n, sqrt 2 - 1))`` (Karras et al. 2022, algorithm 2). Nothing is added at t = 1.
    """
    if amount < 0:
        raise KakusanError(f"churn={amount}: need a number >= 0 (EDM uses 5 to 80)")
    if amount == 0:
        return times
    gain = 1 + min(amount / (len(times) - 1), 2**0.5 - 1)
    k = process.ratio(times)
    raised = process.time(-(k * gain).log()).clamp(max=1.0)
    inside = (k >= k_low) & (k <= k_high) & (raised > times)
    listed: list[Tensor] = []
    for i in range(len(times)):
        listed.append(times[i : i + 1])
        if bool(inside[i]) and i < len(times) - 1:
            listed.append(raised[i : i + 1])
    return torch.cat(listed)


def resample(times: Tensor, repeats: int) -> Tensor:
    """RePaint's list: every fall but the last is taken back and repeated, ``repeats`` times in all
    (Lugmayr et al. 2022, algorithm 1)."""
    if repeats < 1:
        raise KakusanError(f"repeats={repeats}: need at least 1 (1 = no resampling)")
    listed = [times[:1]]
    for i in range(len(times) - 1):
        again = 1 if i == len(times) - 2 else repeats
        listed += [times[i + 1 : i + 2]] + [times[i : i + 2]] * (again - 1)
    return torch.cat(listed)
