"""Watch: the loss by noise level, on the batches trained and on pictures kept aside, and when the two part."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from kakusan.core.batch import Batch
from kakusan.core.rng import Rng

__all__ = ["EDGES", "Batches", "HeldOut", "Meter", "Watch", "levels"]

EDGES = [float(lam) for lam in range(-10, 11)]  # of the levels in lam = log(alpha/sigma), noise first
WATCHED_FROM = -1.0  # above it details are decided: where copies show first
MARGIN = 0.01  # a held-out loss this much above its best is worse
PATIENCE = 2  # evaluations in a row that say so before it is believed

Terms = Callable[[Batch, Rng, int], tuple[Tensor, Tensor]]


class Batches(Protocol):
    """Training data as a pure function of the step."""

    batch: int

    def at(self, step: int) -> Batch: ...
    def rng(self, step: int) -> Rng: ...


@dataclass(frozen=True)
class HeldOut:
    """Pictures kept aside and as many of those trained on, neither augmented, as ``count`` batches each."""

    held: Batches
    train: Batches
    count: int


def levels(lam: Tensor) -> Tensor:
    """lam (B,) to one-hot rows (B, levels) float32, clamped to the outer levels; on lam's device."""
    index = (lam - EDGES[0]).floor().clamp(0, len(EDGES) - 2).long()
    return torch.nn.functional.one_hot(index, len(EDGES) - 1).float()


class Meter:
    """Sums and counts of the loss by noise level, on the device: nothing waits for them until ``read``.

    ``total`` adds up the tables of several processes.
    """

    def __init__(self, device: torch.device, total: Callable[[Tensor], Tensor] = lambda table: table) -> None:
        self.total = total
        self.table = torch.zeros(2, len(EDGES) - 1, device=device)

    def add(self, loss: Tensor, lam: Tensor, finite: Tensor | None = None) -> None:
        """loss (B,) on the device, lam (B,) on the CPU; where ``finite`` is False nothing is added."""
        rows = levels(lam).to(loss.device, non_blocking=True)
        added = torch.stack([loss.detach().float() @ rows, rows.sum(0)])
        self.table += added if finite is None else torch.where(finite, added, 0.0)

    def read(self) -> tuple[list[float | None], list[int]]:
        """Mean loss by level (None where nothing fell) and counts; waits for the device."""
        sums, counts = self.total(self.table).tolist()
        means = [s / n if n and math.isfinite(s) else None for s, n in zip(sums, counts)]
        return means, [int(n) for n in counts]


class Watch:
    """Follows held-out against training loss on fixed pictures and fixed noise, and remembers the best point.

    A score is the loss at lam > -1 relative to the first evaluation's, so that every level counts alike. ``overfit`` is
    set when the held-out score was worse than its best twice in a row while the training score went on falling.
    """

    def __init__(
        self,
        terms: Terms,
        data: HeldOut,
        device: torch.device,
        total: Callable[[Tensor], Tensor] = lambda table: table,
    ) -> None:
        self.terms, self.data, self.device, self.total = terms, data, device, total
        self.count = 0  # batches of each side, fixed at the first evaluation
        self.first: dict[str, list[float | None]] = {}
        self.best: dict[str, float] | None = None  # step, score, train
        self.worse = 0
        self.overfit = False

    @torch.no_grad()
    def measure(self, stop: Callable[[], bool]) -> dict[str, Any] | None:
        """``{"held": losses by level, "train": ..., "counts": ...}``, None when stopped on the way."""
        row: dict[str, Any] = {}
        for side, batches in (("held", self.data.held), ("train", self.data.train)):
            meter = Meter(self.device, self.total)
            for i in range(self.count):
                if stop():
                    return None
                meter.add(*self.terms(batches.at(i), batches.rng(i), i))
            row[side], row[f"{side}_counts"] = meter.read()
        return row

    def scores(self, row: dict[str, Any]) -> tuple[float, float]:
        """Held-out and training score of a measurement."""
        if not self.first:
            self.first = {side: row[side] for side in ("held", "train")}
        return self._score(row, "held"), self._score(row, "train")

    def judge(self, step: int, row: dict[str, Any]) -> bool:
        """Take a measurement into account; True when it is the best so far."""
        held, train = self.scores(row)
        row.update(score=held, train_score=train)
        if self.best is None or held <= self.best["score"]:
            self.best, self.worse = {"step": step, "score": held, "train": train}, 0
            return True
        parting = held > self.best["score"] * (1 + MARGIN) and train < self.best["train"]
        self.worse = self.worse + 1 if parting else 0
        self.overfit = self.overfit or self.worse >= PATIENCE
        return False

    def _score(self, row: dict[str, Any], side: str) -> float:
        """Mean over the watched levels (all, where no draw fell there) of loss / first loss, weighted by the draws."""
        rows = [
            (edge, now / then, n)
            for edge, now, then, n in zip(EDGES, row[side], self.first[side], row[f"{side}_counts"])
            if now is not None and then
        ]
        rows = [r for r in rows if r[0] >= WATCHED_FROM] or rows
        count = sum(n for _, _, n in rows)
        return sum(ratio * n for _, ratio, n in rows) / count if count else 1.0

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {k: getattr(self, k) for k in ("count", "first", "best", "worse", "overfit")}

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what ``state()`` gave."""
        for name, value in state.items():
            setattr(self, name, value)
