"""Constraints wrap a denoiser: known parts of the answer (inpainting), linear measurements, any smooth energy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kakusan.core.guide import Denoise
from kakusan.core.process import Process, cast

__all__ = ["energy", "inpaint", "linear", "posterior"]


def inpaint(f: Denoise, known: Tensor, keep: Tensor) -> Denoise:
    """Estimates of x0 with ``known`` (B, C, *S) in place where ``keep`` (broadcast, 0..1) is 1.

    With ``grid.resample`` it is RePaint (Lugmayr et al. 2022): the known part then follows the exact forward process
    at each climb.
    """
    return lambda x, t, s: torch.lerp(f(x, t, s), known, keep)


def linear(
    f: Denoise,
    measured: Tensor,
    apply: Callable[[Tensor], Tensor],
    process: Process,
    noise: float = 0.01,
    variance: Callable[[Tensor], Tensor] | None = None,
) -> Denoise:
    """Posterior mean given ``y = A x0 + N(0, noise^2)``, by a Gaussian of covariance r^2 I about the estimate
    (PiGDM; Song et al. 2023, eq. 7):

    ``x0 <- x0 + (sigma_t^2/alpha_t) (d x0/d x)^T A^T (r^2 A A^T + noise^2)^-1 (y - A x0)``, r^2 = k^2/(1 + k^2)
    unless ``variance`` gives it as a function of k = sigma/alpha. ``apply`` is A, linear in x0; the inverse is taken
    by conjugate gradients. Needs gradients through f.
    """

    def denoise(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        alpha, sigma = process.scales(t)
        if alpha == 0:
            return f(x, t, s)
        k = sigma / alpha
        spread = (k**2 / (1 + k**2)) if variance is None else variance(k)
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            x0 = f(point, t, s)
            residual = (measured - apply(x0)).detach()
            transpose = torch.func.vjp(apply, x0.detach())[1]

            def normal(v: Tensor) -> Tensor:
                return cast(spread, v) * apply(transpose(v)[0]) + noise**2 * v

            pull = torch.autograd.grad((transpose(_solve(normal, residual))[0].detach() * x0).sum(), point)[0]
        return (x0 + cast(sigma**2 / alpha, x) * pull).detach()

    return denoise


def posterior(
    f: Denoise,
    measured: Tensor,
    apply: Callable[[Tensor], Tensor],
    process: Process,
    noise: float | Tensor = 0.01,
    rounds: int = 3,
) -> Denoise:
    """Posterior mean given ``y = A x0 + N(0, noise^2)``, with the covariance that the denoiser itself implies
    (Boys et al. 2023, eq. 11; by conjugate gradients as in Rozet et al. 2024, section 4.2):

    ``x0 <- x0 + V A^T (A V A^T + noise^2)^-1 (y - A x0)``, ``V = Cov(x0 | x_t) = (sigma_t^2/alpha_t) d x0/d x``.

    Exact where x0 given x_t is Gaussian, whatever its covariance. ``noise`` is one number or one for each measured
    value (broadcast to y). Each of the ``rounds`` of conjugate gradients, and one more, differentiates f once.
    """

    def denoise(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        alpha, sigma = process.scales(t)
        if alpha == 0:
            return f(x, t, s)
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            x0 = f(point, t, s)
        estimate = x0.detach()
        transpose = torch.func.vjp(apply, estimate)[1]

        def spread(v: Tensor) -> Tensor:
            """V A^T v."""
            return cast(sigma**2 / alpha, x) * torch.autograd.grad(x0, point, transpose(v)[0], retain_graph=True)[0]

        def normal(v: Tensor) -> Tensor:
            return apply(spread(v)) + noise**2 * v

        return estimate + spread(_solve(normal, measured - apply(estimate), rounds))

    return denoise


def energy(f: Denoise, potential: Callable[[Tensor], Tensor], process: Process, weight: float = 1.0) -> Denoise:
    """Samples from ``p(x0) exp(-weight E(x0))``, to first order in E (Chung et al. 2023, eq. 16, for any E):

    ``x0 <- x0 - weight (sigma_t^2/alpha_t) grad_x E(x0(x))``. ``potential`` gives one value a sample, (B,).
    """

    def denoise(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        alpha, sigma = process.scales(t)
        if alpha == 0:
            return f(x, t, s)
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            x0 = f(point, t, s)
            push = torch.autograd.grad(potential(x0).sum(), point)[0]
        return (x0 - weight * cast(sigma**2 / alpha, x) * push).detach()

    return denoise


def _solve(matrix: Callable[[Tensor], Tensor], rhs: Tensor, rounds: int = 100, tolerance: float = 1e-6) -> Tensor:
    """Conjugate gradients for a symmetric positive matrix, each row of the batch on its own.

    A row whose search meets a direction along which the matrix is not positive (a network's is not quite) stays where
    it is.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (rhs.ndim - 1))

    x, r = torch.zeros_like(rhs), rhs
    p, square = r, dot(r, r)
    limit = tolerance**2 * square
    for _ in range(rounds):
        if bool((square <= limit).all()):
            break
        q = matrix(p)
        curve = dot(p, q)
        step = torch.where(curve > 0, square / curve.clamp(min=1e-30), 0)
        x, r = x + step * p, r - step * q
        before, square = square, dot(r, r)
        p = r + square / before.clamp(min=1e-30) * p
    return x
