"""Muon and AdamW: what moves the weights; one optimiser class, whose step can be skipped without asking the device.

Muon (Jordan et al. 2024) replaces the update of a hidden matrix by the nearest orthogonal one, U V^T of its momentum
U S V^T, found by a Newton-Schulz iteration. First and last layers, embeddings, gains and biases stay with AdamW.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from kakusan.core.model import Encoder
from kakusan.part import KakusanError, Part

__all__ = ["AdamW", "Muon", "Optim", "Optimiser", "hidden_names", "orthogonalise"]

QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: steepest at 0, singular values end within about [0.7, 1.2]
GRAM_FROM = 4  # columns a row: below it, iterating on the matrix itself is less work
TINY = 1e-7  # keeps the norm of a zero matrix from dividing by zero


def orthogonalise(x: Tensor, iterations: int = 5, scale: float = 1.0) -> Tensor:
    """``scale`` times the nearest orthogonal matrices: ``X <- a X + b (X X^T) X + c (X X^T)^2 X`` from ``X / |X|``.

    x (n, rows, cols), a stack; returns the same shape and dtype, singular values in about [0.7, 1.2] (a zero matrix
    stays zero). bf16 on CUDA and under autocast; on a CPU in fp32 wide matrices iterate on their Gram matrix alone,
    which is the same polynomial for less arithmetic. Source: Jordan et al. 2024, "Muon".
    """
    if x.shape[-2] > x.shape[-1]:
        return orthogonalise(x.mT, iterations, scale).mT
    kind = x.device.type
    half = x.is_cuda or (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind))
    if x.device.type == "cpu" and not half and x.shape[-1] >= GRAM_FROM * x.shape[-2]:
        return _gram_steps(x, iterations, scale)
    return _plain_steps(x.bfloat16() if half else x, iterations).to(x.dtype) * scale


def _plain_steps(x: Tensor, iterations: int) -> Tensor:
    a, b, c = QUINTIC
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + TINY)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _gram_steps(x: Tensor, iterations: int, scale: float = 1.0) -> Tensor:
    """Every iterate is Q X, Q a polynomial in G = X X^T: iterate on rows x rows matrices and pass over X only twice.

    In float64: G holds squares, and Q grows 485-fold where they are small. In float32 G's last digit decides there (a
    run parted from its twin by 3e-5 of the loss within 80 steps, measured; 3e-7 so, as with ``_plain_steps``).
    """
    a, b, c = QUINTIC
    wide = x.double()
    gram = wide @ wide.mT
    norm = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None].sqrt() + TINY
    gram /= norm**2
    product: Tensor | None = None
    for i in range(iterations):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor if product is None else factor @ product
        if i + 1 < iterations:
            gram = factor @ gram @ factor
    assert product is not None
    return (product * (scale / norm)).to(x.dtype) @ x


def hidden_names(model: nn.Module) -> set[str]:
    """Names in ``model`` of the matrices that Muon moves: those that its network names in ``net.hidden()``, and its
    encoders in theirs.

    A network without that method gives all its parameters of two or more dimensions but the first and the last; an
    encoder without it none.
    """
    prefix, net = next(((f"{n}.", m) for n, m in model.named_modules() if n.endswith("denoiser.net")), ("", model))
    known = {n for n, p in net.named_parameters() if p.ndim >= 2}
    method: Callable[[], set[str]] | None = getattr(net, "hidden", None)
    if callable(method):
        names = set(method())
        unknown = sorted(names - known)
        if unknown:
            raise KakusanError(
                f"hidden() of {type(net).__name__} names {unknown[0]!r}, which is no matrix of that network"
            )
    else:
        names = set([n for n, p in net.named_parameters() if p.ndim >= 2][1:-1])
    own = {prefix + n for n in names}
    encoders = [(n, m) for n, m in model.named_modules() if isinstance(m, Encoder) and hasattr(m, "hidden")]
    return own.union(f"{n}.{name}" for n, m in encoders for name in m.hidden())


class Optimiser(torch.optim.Optimizer):
    """Muon for the matrices ``hidden``, AdamW for ``rest``; matrices of one shape are moved as one stack.

    The step of a matrix (rows, cols) is ``-lr max(1, rows/cols)^0.5 orthogonalise(momentum)``: an orthogonal update has
    spectral norm 1, and the factor makes its effect on the layer's output, relative to the input's size, the same
    for every shape, so that one lr fits narrow and wide networks (Jordan et al. 2024; Bernstein 2024).
    All state is made at construction, so that a restored optimiser is exactly the one that was saved.
    """

    def __init__(self, hidden: Sequence[Tensor], rest: Sequence[Tensor], settings: dict[str, Any]) -> None:
        muon = {"method": "muon", "params": list(hidden), "lr": settings.get("lr", 0.0)}
        adamw = {"method": "adamw", "params": list(rest), "lr": settings["lr_rest"]}
        groups = [g | {"initial_lr": g["lr"]} for g in (muon, adamw) if g["params"]]
        super().__init__(groups, {k: v for k, v in settings.items() if k not in ("lr", "lr_rest")})
        self._stacks: dict[tuple[int, int], list[Tensor]] = {}
        for p in hidden:
            rows, cols = _matrix(p, p).shape
            self._stacks.setdefault((rows, cols), []).append(p)
        for shape, params in self._stacks.items():
            self.state[params[0]]["momentum"] = torch.zeros(len(params), *shape, device=params[0].device)
        for p in rest:
            zeros = torch.zeros_like(p, memory_format=torch.preserve_format)
            self.state[p].update(step=torch.zeros((), device=p.device), exp_avg=zeros, exp_avg_sq=zeros.clone())

    @torch.no_grad()
    def step(self, closure: None = None, finite: Tensor | None = None) -> None:  # type: ignore[override]
        """Move the weights; where ``finite`` (a boolean scalar on the device) is False, nothing changes."""
        if finite is not None and not finite.is_cuda:  # a flag on the CPU costs nothing to read; on CUDA it would wait
            if not bool(finite):
                return
            finite = None
        for group in self.param_groups:
            if group["method"] == "muon":
                for params in self._stacks.values():
                    self._step_stack(params, group, finite)
            else:
                self._step_rest(group, finite)

    def _step_stack(self, params: list[Tensor], group: dict[str, Any], finite: Tensor | None) -> None:
        views = [_matrix(p, p) for p in params]
        grads = torch.stack(
            [torch.zeros_like(v) if p.grad is None else _matrix(p.grad, p) for p, v in zip(params, views)]
        )
        momentum: Tensor = self.state[params[0]]["momentum"]
        if finite is None:
            momentum.lerp_(grads, 1 - group["momentum"])
        else:
            grads = torch.where(finite, grads, 0.0)
            momentum.lerp_(grads, finite * (1 - group["momentum"]))
        ahead = torch.lerp(grads, momentum, group["momentum"]) if group["nesterov"] else momentum
        scale = max(1.0, views[0].shape[0] / views[0].shape[1]) ** 0.5
        update = orthogonalise(ahead, group["iterations"], scale)
        if group["decay"]:
            update = update.add_(torch.stack(views), alpha=group["decay"])
        if finite is not None:
            update = update * finite
        torch._foreach_add_(views, list(update.unbind()), alpha=-group["lr"])

    def _step_rest(self, group: dict[str, Any], finite: Tensor | None) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        states = [self.state[p] for p in params]
        adamw(
            params,
            [p.grad for p in params],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            fused=True,
            found_inf=None if finite is None else (~finite).to(torch.float32).reshape(()),
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["decay_rest"],
            eps=group["eps"],
            maximize=False,
        )


def _matrix(value: Tensor, like: Tensor) -> Tensor:
    """A view (out, in * h * w) in the memory order of parameter ``like``: the order of columns does not matter."""
    order = sorted(range(1, like.ndim), key=like.stride, reverse=True)
    return value.permute(0, *order).flatten(1) if like.ndim > 2 else value


class Optim(Part, abc.ABC):
    """An optimiser's settings."""

    @abc.abstractmethod
    def build(self, model: nn.Module) -> Optimiser:
        """The optimiser of the model's trainable parameters, in their present device and memory format."""


class Muon(Optim):
    """Muon with Nesterov momentum on hidden matrices (Jordan et al. 2024), AdamW at ``lr_rest`` on everything else."""

    kind = "optim/muon"

    def __init__(
        self,
        lr: float = 0.02,
        lr_rest: float = 3e-3,
        momentum: float = 0.95,
        nesterov: bool = True,
        iterations: int = 5,
        betas: list[float] | tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        decay: float = 0.0,
        decay_rest: float = 0.0,
    ) -> None:
        _check(lr=lr, lr_rest=lr_rest)
        if iterations < 1:
            raise KakusanError(f"iterations = {iterations}: the Newton-Schulz iteration needs at least 1 (5 is usual)")
        self.settings = {
            "lr": lr, "lr_rest": lr_rest, "momentum": momentum, "nesterov": nesterov, "iterations": iterations,
            "betas": tuple(betas), "eps": eps, "decay": decay, "decay_rest": decay_rest,
        }  # fmt: skip

    def build(self, model: nn.Module) -> Optimiser:
        """The optimiser of the model's trainable parameters, in their present device and memory format."""
        names = hidden_names(model)
        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        hidden = [p for n, p in trained if n in names]
        return Optimiser(hidden, [p for n, p in trained if n not in names], self.settings)


class AdamW(Optim):
    """AdamW (Loshchilov & Hutter 2019) on every parameter."""

    kind = "optim/adamw"

    def __init__(
        self,
        lr: float = 1.5e-3,
        betas: list[float] | tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        decay: float = 0.0,
    ) -> None:
        _check(lr=lr)
        self.settings = {"lr_rest": lr, "betas": tuple(betas), "eps": eps, "decay_rest": decay}

    def build(self, model: nn.Module) -> Optimiser:
        """The optimiser of the model's trainable parameters, in their present device and memory format."""
        return Optimiser([], [p for p in model.parameters() if p.requires_grad], self.settings)


def _check(**rates: float) -> None:
    for name, value in rates.items():
        if not 0 < value < 10:
            raise KakusanError(f"{name} = {value}: a learning rate lies above 0 and below 10 (try 0.003)")
