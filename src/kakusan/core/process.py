"""Forward processes: ``x_t = alpha(t) x0 + sigma(t) eps`` for t in [0, 1], 1 = noise.

``t`` is only an address; what matters at it is ``logsnr = log(alpha/sigma)`` (half of what most papers call log-SNR).
Every process starts at sigma(0) = 0. Times and coefficients are float64 tensors on the CPU, of any shape.
"""

from __future__ import annotations

import abc
import math

import torch
from torch import Tensor

from kakusan.part import KakusanError, Part

__all__ = [
    "VE",
    "VP",
    "Flow",
    "Process",
    "Shifted",
    "Tabulated",
    "ZeroTerminal",
    "as_time",
    "betas",
    "cast",
    "level",
    "place",
]

# cosine and sigmoid schedules stop here at t = 1, as the clipped betas of their discrete originals do
_LAST_LOGSNR = -10.0
_MOST_STEPS = 1_000_000


def as_time(t: float | Tensor) -> Tensor:
    """A time (or a list's tensor of them) as float64 on the CPU."""
    return torch.as_tensor(t, dtype=torch.float64)


def cast(value: Tensor, like: Tensor) -> Tensor:
    """A float64 coefficient, () or (B,), in ``like``'s dtype and device, shaped to multiply it."""
    value = value.to(like.dtype)
    if value.ndim == 0:
        return value  # a CPU scalar multiplies a tensor of any device without a copy or a wait
    return value.to(like.device, non_blocking=True).reshape(-1, *[1] * (like.ndim - 1))


def place(lam: Tensor) -> Tensor:
    """Where a noise level lies between none (0) and nothing else (1): ``k^(1/4) / (1 + k^(1/4)) = sigmoid(-lam/4)``,
    k = sigma/alpha; all levels that matter are far apart there (k = 0.01 at 0.24, 1 at 0.5, 80 at 0.75)."""
    return torch.sigmoid(-lam / 4)


def level(place: Tensor) -> Tensor:
    """The lam at a ``place``: +inf at 0, -inf at 1."""
    return -4 * torch.logit(place)


def _alpha(lam: Tensor) -> Tensor:
    """alpha at a log-SNR where alpha^2 + sigma^2 = 1."""
    return torch.sigmoid(2 * lam).sqrt()


def _lam(alpha: Tensor) -> Tensor:
    """log(alpha/sigma) where alpha^2 + sigma^2 = 1."""
    return alpha.log() - 0.5 * (-(alpha**2) + 1).log()


class Process(Part, abc.ABC):
    """The fixed forward process that adds noise."""

    variance_preserving = False

    @abc.abstractmethod
    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at t."""

    @abc.abstractmethod
    def time(self, logsnr: Tensor) -> Tensor:
        """The t at which log(alpha/sigma) has this value; +inf gives 0."""

    def logsnr(self, t: Tensor) -> Tensor:
        """log(alpha/sigma) at t: +inf where sigma = 0, -inf where alpha = 0."""
        alpha, sigma = self.scales(t)
        return alpha.log() - sigma.log()

    def ratio(self, t: Tensor) -> Tensor:
        """k = sigma/alpha at t: 0 at t = 0, inf where alpha = 0."""
        alpha, sigma = self.scales(t)
        return sigma / alpha

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(d alpha/dt, d sigma/dt), by differentiating ``scales``."""
        with torch.enable_grad():
            at = as_time(t).detach().requires_grad_()
            alpha, sigma = self.scales(at)
            both = [
                torch.autograd.grad(v.sum(), at, retain_graph=True)[0] if v.requires_grad else torch.zeros_like(at)
                for v in (alpha, sigma)
            ]
        return both[0], both[1]

    @property
    def zero_terminal(self) -> bool:
        """Whether nothing of the data is left at t = 1 (alpha = 0)."""
        return bool(self.scales(as_time(1.0))[0] == 0)

    def noised(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The forward process from data, ``alpha x0 + sigma eps`` (Ho et al. 2020, eq. 4)."""
        alpha, sigma = self.scales(t)
        return cast(alpha, x0) * x0 + cast(sigma, x0) * eps

    def renoise(self, x: Tensor, eps: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The forward kernel from t up to s: ``r x + sqrt(sigma_s^2 - r^2 sigma_t^2) eps``, r = alpha_s/alpha_t."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.scales(t), self.scales(s)
        r = alpha_s / alpha_t
        spread = (sigma_s**2 - (r * sigma_t) ** 2).clamp(min=0).sqrt()
        return cast(r, x) * x + cast(spread, x) * eps


class VP(Process):
    """Variance preserving, ``alpha^2 + sigma^2 = 1``.

    ``linear``: ``log alpha = -(b1 - b0) t^2/4 - b0 t/2`` (Song et al. 2021, eq. 32; the limit of Ho et al.'s betas).
    ``cosine``: ``alpha = cos((t + s)/(1 + s) pi/2) / cos(s/(1 + s) pi/2)``, s = 0.008
    (Nichol & Dhariwal 2021, eq. 17).
    ``sigmoid``: ``alpha^2 = (f(1) - f(t)) / (f(1) - f(0))``, f(t) = sigmoid((6 t - 3)/tau)
    (Jabri et al. 2022, algorithm 1).
    """

    kind = "process/vp"
    variance_preserving = True

    def __init__(
        self, schedule: str = "linear", beta_min: float = 0.1, beta_max: float = 20.0, tau: float = 1.0
    ) -> None:
        if schedule not in ("linear", "cosine", "sigmoid"):
            raise KakusanError(f"schedule={schedule!r} is not known; choose 'linear', 'cosine' or 'sigmoid'")
        if not 0 < beta_min < beta_max:
            raise KakusanError(f"beta_min={beta_min}, beta_max={beta_max}: need 0 < beta_min < beta_max")
        if not tau > 0:
            raise KakusanError(f"tau={tau}: need tau > 0")
        self.schedule, self.b0, self.b1, self.tau = schedule, float(beta_min), float(beta_max), float(tau)
        self.offset = 0.008
        self.floor = 1 / (1 + math.exp(-2 * _LAST_LOGSNR))  # alpha^2 left at t = 1 by the sigmoid schedule
        last = math.acos(math.sqrt(self.floor) * self._cos0) * 2 / math.pi * (1 + self.offset) - self.offset
        self.reach = last  # the cosine schedule's own time at t = 1

    @property
    def _cos0(self) -> float:
        return math.cos(self.offset / (1 + self.offset) * math.pi / 2)

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = as_time(t)
        if self.schedule == "linear":
            log_alpha = -(t**2) * (self.b1 - self.b0) / 4 - t * self.b0 / 2
            return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()
        if self.schedule == "cosine":
            alpha = torch.cos((t * self.reach + self.offset) / (1 + self.offset) * math.pi / 2) / self._cos0
            return alpha, (1 - alpha**2).clamp(min=0).sqrt()
        low, high = _sigmoid(-3 / self.tau), _sigmoid(3 / self.tau)
        left = (high - torch.sigmoid((6 * t - 3) / self.tau)) / (high - low)
        square = self.floor + (1 - self.floor) * left
        return square.sqrt(), (1 - square).clamp(min=0).sqrt()

    def logsnr(self, t: Tensor) -> Tensor:
        return _lam(self.scales(t)[0]) if self.schedule != "linear" else super().logsnr(t)

    def time(self, logsnr: Tensor) -> Tensor:
        lam = as_time(logsnr)
        if self.schedule == "linear":
            log_alpha = -0.5 * torch.nn.functional.softplus(-2 * lam)
            return -2 * log_alpha / (self.b0 / 2 + (self.b0**2 / 4 - (self.b1 - self.b0) * log_alpha).sqrt())
        if self.schedule == "cosine":
            own = torch.acos(_alpha(lam) * self._cos0) * 2 / math.pi * (1 + self.offset) - self.offset
            return (own / self.reach).clamp(min=0)
        low, high = _sigmoid(-3 / self.tau), _sigmoid(3 / self.tau)
        left = ((torch.sigmoid(2 * lam) - self.floor) / (1 - self.floor)).clamp(0, 1)
        return torch.where(left < 1, (torch.logit(high - left * (high - low)) * self.tau + 3) / 6, 0.0).clamp(0, 1)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


class VE(Process):
    """Variance exploding, alpha = 1: ``sigma = sigma_min (sigma_max/sigma_min)^t`` (Song et al. 2021, eq. 30).

    Below t = 0.001 sigma is linear and reaches 0, so that clean data has an address.
    """

    kind = "process/ve"
    _LINEAR = 1e-3

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        if not 0 < sigma_min < sigma_max:
            raise KakusanError(f"sigma_min={sigma_min}, sigma_max={sigma_max}: need 0 < sigma_min < sigma_max")
        self.low, self.span = float(sigma_min), math.log(sigma_max / sigma_min)

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = as_time(t)
        geometric = self.low * torch.exp(self.span * (t - self._LINEAR) / (1 - self._LINEAR))
        return torch.ones_like(t), torch.where(t < self._LINEAR, self.low * t / self._LINEAR, geometric)

    def time(self, logsnr: Tensor) -> Tensor:
        sigma = torch.exp(-as_time(logsnr))
        geometric = self._LINEAR + (sigma / self.low).log() / self.span * (1 - self._LINEAR)
        return torch.where(sigma < self.low, sigma / self.low * self._LINEAR, geometric)


class Flow(Process):
    """The straight path ``alpha = 1 - t, sigma = t`` (Liu et al. 2023; Lipman et al. 2023, optimal-transport path)."""

    kind = "process/flow"

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = as_time(t)
        return 1 - t, t.clone()

    def time(self, logsnr: Tensor) -> Tensor:
        return torch.sigmoid(-as_time(logsnr))


class Shifted(Process):
    """Another process with its log-SNR lowered everywhere: ``lam(t) = lam_base(t) - log factor``.

    factor > 1 puts more noise at each t, as large pictures need (Hoogeboom et al. 2023, eq. 4; for flow it is
    ``t' = f t/(1 + (f - 1) t)``, Esser et al. 2024, eq. 23). The noise levels are relabelled; the process is the same.
    """

    kind = "process/shifted"

    def __init__(self, base: Process, factor: float) -> None:
        if not factor > 0:
            raise KakusanError(f"factor={factor}: need factor > 0 (1 = no shift)")
        self.base, self.offset = base, math.log(factor)
        self.variance_preserving = base.variance_preserving

    def _inner(self, t: Tensor) -> Tensor:
        return self.base.time(self.base.logsnr(as_time(t)) - self.offset)

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.base.scales(self._inner(t))

    def time(self, logsnr: Tensor) -> Tensor:
        return self.base.time(as_time(logsnr) + self.offset)


class ZeroTerminal(Process):
    """A variance-preserving process with its alpha rescaled so that nothing is left at t = 1:
    ``alpha = (alpha_base(t) - alpha_base(1)) / (1 - alpha_base(1))`` (Lin et al. 2024, algorithm 1).
    """

    kind = "process/zero-terminal"
    variance_preserving = True

    def __init__(self, base: Process) -> None:
        if not base.variance_preserving:
            raise KakusanError(
                f"base={base.kind!r} does not preserve variance: rescaling to zero terminal SNR is for process/vp and "
                "process/tabulated (process/flow ends at alpha = 0 already)"
            )
        self.base = base
        self.last = float(base.scales(as_time(1.0))[0])

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha = (self.base.scales(t)[0] - self.last) / (1 - self.last)
        return alpha, (1 - alpha**2).clamp(min=0).sqrt()

    def time(self, logsnr: Tensor) -> Tensor:
        alpha = _alpha(as_time(logsnr))
        return torch.where(alpha > 0, self.base.time(_lam(alpha * (1 - self.last) + self.last)), 1.0)  # 1 exactly


def betas(schedule: str = "linear", steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> Tensor:
    """The usual discrete beta lists, float64 (steps,).

    ``linear`` (Ho et al. 2020), ``scaled_linear`` (linear in the square root; latent diffusion), ``cosine`` (Nichol &
    Dhariwal 2021, eq. 17, clipped at 0.999) and ``sigmoid`` (``start + (end - start) sigmoid(-6..6)``).
    """
    if schedule == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float64, device="cpu")
    if schedule == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64, device="cpu") ** 2
    if schedule == "cosine":
        edge = torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps
        left = torch.cos((edge + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - left[1:] / left[:-1]).clamp(max=0.999)
    if schedule == "sigmoid":
        return torch.sigmoid(torch.linspace(-6, 6, steps, dtype=torch.float64, device="cpu")) * (end - start) + start
    raise KakusanError(f"schedule={schedule!r} is not known; choose 'linear', 'scaled_linear', 'cosine' or 'sigmoid'")


class Tabulated(Process):
    """A discrete variance-preserving process made continuous: entry i of the table lies at t = (i + 1)/T.

    ``alpha_i^2 = prod_{j<=i} (1 - beta_j)`` (Ho et al. 2020, eq. 4). Between entries the angle
    ``arctan(sigma/alpha)`` is linear in t; it is finite at both ends, so the table continues to sigma = 0 at t = 0
    and may end at alpha = 0. ``table``: any list of betas; without one, ``schedule``, ``steps``, ``start`` and
    ``end`` make it. ``zero_terminal`` rescales it (Lin et al. 2024, algorithm 1).
    """

    kind = "process/tabulated"
    variance_preserving = True

    def __init__(
        self,
        table: list[float] | None = None,
        schedule: str = "linear",
        steps: int = 1000,
        start: float = 1e-4,
        end: float = 0.02,
        zero_terminal: bool = False,
    ) -> None:
        if not 2 <= steps <= _MOST_STEPS:
            raise KakusanError(f"steps={steps}: need 2 to {_MOST_STEPS} (the usual number is 1000)")
        listed = None if table is None else torch.tensor(table, dtype=torch.float64, device="cpu")
        given = betas(schedule, steps, start, end) if listed is None else listed
        if given.ndim != 1 or len(given) < 2 or not bool(((given > 0) & (given <= 1)).all()):
            raise KakusanError("table: need a list of at least two betas, each in (0, 1]")
        alpha = (1 - given).cumprod(0).sqrt()
        if zero_terminal:
            alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
        self.steps, self.betas = len(given), given
        angle = torch.atan2((1 - alpha**2).clamp(min=0).sqrt(), alpha)
        if not bool((angle.diff() > 0).all()):
            raise KakusanError(
                "table: the noise must grow at every entry; these betas leave alpha unchanged or zero twice"
            )
        self.angles = torch.cat([torch.zeros(1, dtype=torch.float64, device="cpu"), angle])
        self._ends_at_zero = bool(alpha[-1] == 0)

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        place = as_time(t) * self.steps
        left = place.detach().floor().clamp(0, self.steps - 1).long()
        angle = self.angles[left] + (place - left) * (self.angles[left + 1] - self.angles[left])
        alpha = torch.cos(angle)
        if self._ends_at_zero:
            alpha = torch.where(place >= self.steps, torch.zeros_like(alpha), alpha)
        return alpha, torch.sin(angle)

    def time(self, logsnr: Tensor) -> Tensor:
        angle = torch.atan(torch.exp(-as_time(logsnr)))
        left = (torch.searchsorted(self.angles, angle.contiguous(), right=True) - 1).clamp(0, self.steps - 1)
        return (left + (angle - self.angles[left]) / (self.angles[left + 1] - self.angles[left])) / self.steps
