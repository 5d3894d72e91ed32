"""Parametrisations: what the network predicts, as three coefficients of ``x0 = c_skip x_t + c_out F(c_in x_t)``.

The training target of F follows from them with no branch on the kind:
``((1 - c_skip alpha)/c_out) x0 - (c_skip sigma/c_out) eps``.
"""

from __future__ import annotations

import abc

from torch import Tensor

from kakusan.core.process import Process
from kakusan.part import KakusanError, Part

__all__ = ["X0", "Eps", "Karras", "Param", "V", "Velocity"]

Coefs = tuple[Tensor, Tensor, Tensor]


class Param(Part, abc.ABC):
    """What the network's output means; alpha, sigma and the coefficients are float64 of one shape."""

    @abc.abstractmethod
    def coefs(self, alpha: Tensor, sigma: Tensor) -> Coefs:
        """(c_in, c_skip, c_out) at a noise level."""

    def check(self, process: Process) -> None:
        """Refuse a process under which this parametrisation does not determine x0."""


def _norm(alpha: Tensor, sigma: Tensor) -> Tensor:
    return (alpha**2 + sigma**2).sqrt()


class Eps(Param):
    """F = eps, so ``x0 = (x_t - sigma F)/alpha`` (Ho et al. 2020, eq. 15). Not for processes that end at alpha = 0."""

    kind = "param/eps"

    def coefs(self, alpha: Tensor, sigma: Tensor) -> Coefs:
        return 1 / _norm(alpha, sigma), 1 / alpha, -sigma / alpha

    def check(self, process: Process) -> None:
        if process.zero_terminal:
            raise KakusanError(
                f"param/eps cannot be used with {process.kind}: at t = 1 alpha is 0, where the noise says nothing "
                "about x0; use param/v, param/x0, param/karras or param/velocity"
            )


class X0(Param):
    """F = x0 itself."""

    kind = "param/x0"

    def coefs(self, alpha: Tensor, sigma: Tensor) -> Coefs:
        return 1 / _norm(alpha, sigma), alpha * 0, alpha * 0 + 1


class V(Param):
    """``F = (alpha eps - sigma x0)/n``, n = sqrt(alpha^2 + sigma^2) (Salimans & Ho 2022, section 4; n = 1 under VP)."""

    kind = "param/v"

    def coefs(self, alpha: Tensor, sigma: Tensor) -> Coefs:
        n = _norm(alpha, sigma)
        return 1 / n, alpha / n**2, -sigma / n


class Velocity(Param):
    """``F = eps - x0``, the velocity of the straight path (Lipman et al. 2023); the network sees x_t as it is."""

    kind = "param/velocity"

    def coefs(self, alpha: Tensor, sigma: Tensor) -> Coefs:
        total = alpha + sigma
        return alpha * 0 + 1, 1 / total, -sigma / total


class Karras(Param):
    """Unit-variance input and target at every noise level for data of standard deviation ``sigma_data``.

    ``n^2 = sigma^2 + (alpha sigma_data)^2``: c_in = 1/n, c_skip = alpha sigma_data^2/n^2, c_out = sigma sigma_data/n
    (Karras et al. 2022, table 1, carried from x/alpha to any process).
    """

    kind = "param/karras"

    def __init__(self, sigma_data: float = 0.5) -> None:
        if not sigma_data > 0:
            raise KakusanError(f"sigma_data={sigma_data}: need the data's standard deviation, > 0")
        self.sigma_data = float(sigma_data)

    def coefs(self, alpha: Tensor, sigma: Tensor) -> Coefs:
        n = _norm(alpha * self.sigma_data, sigma)
        return 1 / n, alpha * self.sigma_data**2 / n**2, sigma * self.sigma_data / n
