"""Hooks and Result: what an application hears from a training, and what it gets at the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kakusan.core.model import Model
from kakusan.training.ema import PowerEma

__all__ = ["Hooks", "Result"]


class Hooks:
    """What the application wants to hear of; each does nothing unless overridden, and none may change the run."""

    def on_start(self, info: dict[str, Any]) -> None:
        """Once: step, total (None: the clock decides), minutes, parameters, batch, device, edges (of the levels)."""

    def on_log(self, row: dict[str, Any]) -> None:
        """Each row of log.jsonl, as soon as it is known."""

    def on_preview(self, step: int, model: Model) -> None:
        """At the preview points, with the averaged weights in a model of its own, in eval mode, without gradients."""

    def on_event(self, event: dict[str, Any]) -> None:
        """Each event: pace, skipped, rollback, overfit, chosen, notice."""

    def on_checkpoint(self, path: Path, step: int) -> None:
        """After each checkpoint."""


@dataclass(frozen=True)
class Result:
    """How a run ended; ``model`` holds the weights to ship (when interrupted: the average so far), in eval mode."""

    model: Model
    interrupted: bool
    step: int
    total: int | None
    seconds: float
    loss: float | None  # mean of the last row of the log
    width: float  # relative width of the average
    best_step: int | None  # set when the best held-out point is shipped instead of the end
    overfit: bool
    ema: PowerEma
    checkpoint: Path
