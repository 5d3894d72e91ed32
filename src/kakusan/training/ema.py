"""PowerEma: averages of the weights by a power function of time, several relative widths at once.

``x_bar(t) = beta x_bar(t') + (1 - beta) x(t)`` with ``beta = (t'/t)^(gamma + 1)``, t' the step of the update
before: for t' = t - 1 this is Karras et al. 2024 (EDM2), section 3.1; for updates k steps apart it is the same average
of weights held between updates. A width is the profile's standard deviation relative to the run's length.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from kakusan.part import KakusanError

__all__ = ["PowerEma", "gamma_of", "width_of"]


def width_of(gamma: float) -> float:
    """sigma_rel = (gamma + 1)^(1/2) (gamma + 2)^-1 (gamma + 3)^(-1/2) (Karras et al. 2024, EDM2, appendix C.1)."""
    return math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3))


def gamma_of(width: float) -> float:
    """The exponent of a relative width: the largest root of ``(gamma + 2)^2 (gamma + 3) = (gamma + 1) / width^2``."""
    if not 0 < width <= width_of(0.0):
        raise KakusanError(f"ema width {width}: it lies above 0 and at most {width_of(0.0):.3f} of the run (try 0.05)")
    t = width**-2
    roots = np.roots([1, 7, 16 - t, 12 - t])
    return float(roots.real.max())


class PowerEma:
    """The running averages of a model's parameters, kept on their device in their memory format."""

    def __init__(self, model: nn.Module, widths: list[float], every: int = 1) -> None:
        if not widths:
            raise KakusanError("ema widths: at least one is needed, as [0.05]")
        if every < 1:
            raise KakusanError(f"ema_every = {every}: the average is updated every 1 or more steps")
        self.widths = list(widths)
        self.every = every
        self.last = 0  # step of the last update
        self._powers = [gamma_of(w) + 1 for w in widths]
        self._names = [n for n, _ in model.named_parameters()]
        self._params = [p.detach() for p in model.parameters()]
        self.averages: list[list[Tensor]] = [[p.clone() for p in self._params] for _ in widths]

    @torch.no_grad()
    def update(self, step: int, now: bool = False) -> None:
        """After ``step`` optimiser steps (1 is the first): average, if it is a multiple of ``every`` or ``now``."""
        if step <= self.last or not (now or step % self.every == 0):
            return
        for power, average in zip(self._powers, self.averages):
            torch._foreach_lerp_(average, self._params, 1 - (self.last / step) ** power)
        self.last = step

    def weights(self, width: float) -> dict[str, Tensor]:
        """One average by parameter name (the tensors themselves, not copies)."""
        if width not in self.widths:
            raise KakusanError(f"no average of width {width}: this run keeps {', '.join(map(str, self.widths))}")
        return dict(zip(self._names, self.averages[self.widths.index(width)]))

    @torch.no_grad()
    def write(self, width: float, model: nn.Module) -> None:
        """Copy one average into ``model``, a copy of the trained one."""
        load_weights(model, self.weights(width))

    def tensors(self) -> dict[str, Tensor]:
        """All averages under ``width/parameter``, for a checkpoint."""
        return {f"{w:g}/{n}": t for w in self.widths for n, t in self.weights(w).items()}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], last: int) -> None:
        """Put back what ``tensors()`` gave, and the step of the last update."""
        mine = self.tensors()
        if mine.keys() != tensors.keys():
            odd = sorted(mine.keys() ^ tensors.keys())[0]
            raise KakusanError(f"the saved averages do not fit this model: {odd!r} is on one side only")
        for name, tensor in mine.items():
            tensor.copy_(tensors[name])
        self.last = last


@torch.no_grad()
def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy tensors by parameter name into a model, in its own device, dtype and memory format."""
    for name, param in model.named_parameters():
        param.copy_(weights[name])
