"""Net and Denoiser: a network with its process and parametrisation is an estimate of the clean data."""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from kakusan.core.batch import NO_COND, Cond
from kakusan.core.param import Param
from kakusan.core.process import Process, cast
from kakusan.core.space import Space
from kakusan.part import KakusanError, Part

__all__ = ["LAM_MAX", "Denoiser", "Net"]

LAM_MAX = 10.0  # the network's noise-level input is clamped to [-10, 10], as the training densities are


class Net(Part, nn.Module, abc.ABC):
    """A network F(x, lam, cond): same shape out as in."""

    @abc.abstractmethod
    def forward(self, x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
        """x (B, C, *S); lam (B,) = log(alpha/sigma), clamped to [-10, 10]; returns (B, C, *S)."""

    def taps(self) -> list[nn.Module]:
        """Modules whose outputs are this network's features, (B, C, *S) or (B, N, C), in the order of evaluation; a
        narrower network of the same kind has as many, of the same sizes. None, by default."""
        return []


class Denoiser(Part, nn.Module):
    """The posterior mean of x0: ``D(x, t) = c_skip x + c_out F(c_in x, lam(t), cond)`` (Karras et al. 2022, eq. 7)."""

    kind = "denoiser"

    def __init__(self, net: Net, process: Process, param: Param, space: Space) -> None:
        super().__init__()
        param.check(process)
        self.net = net
        self.process = process
        self.param = param
        self.space = space

    def raw(self, x: Tensor, t: Tensor, cond: Cond = NO_COND) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """F itself with (c_in, c_skip, c_out) in float64: what the training loss regresses."""
        alpha, sigma = self.process.scales(t)
        coefs = self.param.coefs(alpha, sigma)
        lam = self.process.logsnr(t).clamp(-LAM_MAX, LAM_MAX).to(torch.float32)
        lam = lam.expand(x.shape[0]).to(x.device, non_blocking=True)
        return self.net(cast(coefs[0], x) * x, lam, cond.over(x.shape[2:])), coefs

    def forward(self, x: Tensor, t: Tensor, cond: Cond = NO_COND) -> Tensor:
        """x (B, C, *S) at noise time t, () or (B,) float64 on the CPU; returns the estimate of x0, same shape as x."""
        if x.ndim < 2:
            raise KakusanError(f"x has shape {tuple(x.shape)}: a denoiser takes (batch, channels, ...)")
        out, (_, c_skip, c_out) = self.raw(x, t, cond)
        return self.space.project(cast(c_skip, x) * x + cast(c_out, x) * out.to(x.dtype), cond.mask)
