"""LoRA: low-rank adapters beside frozen weights, W + (alpha / rank) B A (Hu et al. 2021, arXiv 2106.09685, eq. 3).

A starts at random and B at zero, so that an adapted network begins as the one it was. Kernels (out, in, *S) are adapted
as the matrices (out, in prod(S)) that they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kakusan.part import KakusanError, Part

__all__ = ["LoRA", "Pair", "factors", "merge"]

ADAPTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
MOST = 1024  # of a rank


class Pair(nn.Module):
    """The trained matrices of one layer: A (rank, in), B (out, rank)."""

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        rank = min(rank, rows, columns)
        self.scale = scale
        self.a = nn.Parameter(torch.empty(rank, columns, device=weight.device))
        self.b = nn.Parameter(torch.zeros(rows, rank, device=weight.device))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))  # as torch begins a linear layer

    def forward(self, weight: Tensor) -> Tensor:
        """W to ``W + scale B A``, of W's shape."""
        return weight + self.scale * (self.b @ self.a).reshape(weight.shape)


class LoRA(Part):
    """Adapters of ``rank`` on a network's hidden matrices and kernels; what they add is scaled by ``alpha`` / ``rank``.

    ``alpha`` None is ``rank``: a scale of 1. The matrices are those that ``hidden()`` of the network names (of one
    without that method all its linear and convolution layers): the first and last layers, norms and biases stay.
    """

    kind = "adapters/lora"

    def __init__(self, rank: int = 8, alpha: float | None = None) -> None:
        if not 1 <= rank <= MOST:
            raise KakusanError(f"rank={rank}: choose between 1 and {MOST}; 4 to 16 are usual")
        if alpha is not None and not alpha > 0:
            raise KakusanError(f"alpha={alpha}: need alpha > 0; without it, it is the rank")
        self.rank, self.alpha = rank, float(rank if alpha is None else alpha)

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank

    def attach(self, net: nn.Module) -> int:
        """Freeze the network and give its layers trained pairs, which the global generator begins; returns their
        parameters."""
        net.requires_grad_(False)
        names = _layers(net)
        if not names:
            raise KakusanError(f"{type(net).__name__} has no linear or convolution layer to adapt: train it in full")
        total = 0
        for name in names:
            layer = net.get_submodule(name)
            pair = Pair(layer.weight, self.rank, self.scale)
            parametrize.register_parametrization(layer, "weight", pair)
            total += pair.a.numel() + pair.b.numel()
        return total


def _layers(net: nn.Module) -> list[str]:
    """Names of the layers that are adapted, in the network's order."""
    hidden = getattr(net, "hidden", None)
    chosen = set(hidden()) if callable(hidden) else None
    found = [name for name, layer in net.named_modules() if isinstance(layer, ADAPTED)]
    return [name for name in found if chosen is None or f"{name}.weight" in chosen]


def _pairs(net: nn.Module) -> Iterator[tuple[str, Pair]]:
    for name, layer in net.named_modules():
        if isinstance(layer, ADAPTED) and parametrize.is_parametrized(layer, "weight"):
            for pair in layer.parametrizations["weight"]:  # type: ignore[union-attr]
                if isinstance(pair, Pair):
                    yield name, pair


def factors(net: nn.Module) -> dict[str, Tensor]:
    """What was trained: ``LAYER.a`` (rank, in) and ``LAYER.b`` (out, rank) of every adapted layer."""
    return {f"{name}.{side}": getattr(pair, side).detach() for name, pair in _pairs(net) for side in ("a", "b")}


@torch.no_grad()
def merge(net: nn.Module, given: Mapping[str, Tensor], scale: float) -> None:
    """Add ``scale`` B A to a plain network's weights in place, so that sampling costs nothing; 0 changes no bit."""
    names = {key.rpartition(".")[0] for key in given}
    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, ADAPTED)}
    for name in sorted(names):
        a, b = given.get(f"{name}.a"), given.get(f"{name}.b")
        weight = layers[name].weight if name in layers else None
        if a is None or b is None or weight is None or a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise KakusanError(f"the adapter of {name[:60]!r} fits no layer of this network")
        if (b.shape[0], a.shape[1]) != tuple(weight.flatten(1).shape):
            raise KakusanError(f"the adapter of {name[:60]!r} is {b.shape[0]} x {a.shape[1]}, the layer is not")
        if scale:
            weight.add_((b.float() @ a.float()).reshape(weight.shape).to(weight), alpha=scale)
