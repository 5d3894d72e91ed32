"""Where sampling begins: from noise alone, or from a picture that noise is added to, which varies it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kakusan.core.process import Process
from kakusan.core.rng import Rng
from kakusan.core.sample import start
from kakusan.core.space import Space
from kakusan.part import KakusanError

__all__ = ["LEVELS", "Start", "begin", "cut", "level_of", "stamp"]

LEVELS = {"subtle": 0.6, "strong": 2.5}  # sigma/alpha to which a picture is noised again


@dataclass(frozen=True)
class Start:
    """A clean picture (C, *S) as the model sees it, and the noise level sigma/alpha that it is raised to.

    ``source`` says in a recipe which picture it was: path, stamp of its numbers, and its own recipe where it has one.
    """

    x0: Tensor
    level: float
    source: dict[str, Any] = field(default_factory=dict)


def level_of(strength: str | float) -> float:
    """A strength by name, or a noise level itself."""
    if isinstance(strength, str):
        if strength not in LEVELS:
            raise KakusanError(f"strength={strength!r}: choose {', '.join(LEVELS)}, or a noise level above 0")
        return LEVELS[strength]
    if not 0 < float(strength) <= 1e6:
        raise KakusanError(f"strength={strength}: a noise level sigma/alpha is above 0; subtle is {LEVELS['subtle']:g}")
    return float(strength)


def stamp(x0: Tensor) -> str:
    """16 hex digits over a picture's numbers: whether it is still the same one."""
    return hashlib.sha256(x0.contiguous().cpu().numpy().tobytes()).hexdigest()[:16]


def cut(times: Tensor, process: Process, begun: Start | None) -> Tensor:
    """The part of a falling list below the picture's noise level, which comes first."""
    if begun is None:
        return times
    first = process.time(-torch.tensor(begun.level, dtype=torch.float64).log()).clamp(max=float(times[0]))
    return torch.cat([first[None], times[times < first - 1e-9]])


def begin(
    times: Tensor, process: Process, space: Space, shapes: Sequence[tuple[int, ...]], rng: Rng, begun: Start | None
) -> Tensor:
    """x at the first time: noise, or ``alpha x0 + sigma eps`` of the picture (Meng et al. 2022, algorithm 1)."""
    if begun is None:
        return start(times, process, space, shapes, rng)
    if any(tuple(shape) != tuple(begun.x0.shape) for shape in shapes):
        raise KakusanError(f"the picture is {tuple(begun.x0.shape)}, the samples are {tuple(shapes[0])}: give its size")
    eps = space.noise(shapes, rng, "vary")
    return process.noised(begun.x0.to(eps).expand_as(eps), eps, times[0])
