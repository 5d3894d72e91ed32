"""Losses and gradients that are not finite never reach weights, averages or optimiser state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.tiny import Data, everything, model, rows, settings, watched
from kakusan.core.batch import Batch
from kakusan.training.loop import run
from kakusan.training.optim import AdamW, Muon


class Poisoned(Data):
    """At the bad steps a picture holds a value that is not finite, or only a gradient does."""

    def __init__(self, bad: tuple[int, ...], how: str) -> None:
        super().__init__(spy=self.remember)
        self.at_step, self.poison, self.how = 0, bad, how

    def remember(self, step: int) -> None:
        self.at_step = step

    def at(self, step: int) -> Batch:
        batch = super().at(step)
        if step in self.poison and self.how != "gradient":
            batch.x0[1, 0, 2, 2] = {"nan": float("nan"), "infinity": float("inf"), "huge": 1e38}[self.how]
        return batch

    def hook(self, gradient: Tensor) -> Tensor:
        return gradient * float("nan") if self.how == "gradient" and self.at_step in self.poison else gradient


def check_injected(folder: Path, count: int, how: str, optimiser: Any) -> None:
    """``count`` bad steps, some of them several in a row."""
    bad = tuple(step for step in range(2, 10 * count, 3) if step % 7)[:count]
    data, trained = Poisoned(bad, how), model()
    trained.denoiser.net.inner.weight.register_hook(data.hook)
    run(trained, data, settings(steps=bad[-1] + 4, optim=optimiser, previews=0), folder, held_out=watched())
    kept = everything(folder)
    assert {name.split("/")[0] for name in kept} >= {"weights", "ema", "optim"}
    for name, tensor in kept.items():
        if not name.startswith("meter/"):
            assert tensor.isfinite().all(), name
    skipped = [s for e in rows(folder, "events.jsonl") if e["kind"] == "skipped" for s in e["steps"]]
    assert skipped == list(bad) and len(skipped) == count
    assert all(torch.isfinite(p).all() for p in trained.parameters())


@pytest.mark.parametrize("how", ["nan", "infinity", "huge", "gradient"])
def test_twenty_injected_steps_leave_nothing(tmp_path: Path, how: str) -> None:
    check_injected(tmp_path, 20, how, Muon(lr=0.02))


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", ["muon", "adamw"])
@pytest.mark.parametrize("how", ["nan", "infinity", "huge", "gradient"])
def test_two_hundred_injected_steps_leave_nothing(tmp_path: Path, how: str, optimiser: str) -> None:
    check_injected(tmp_path, 200, how, Muon(lr=0.02) if optimiser == "muon" else AdamW(1e-3))
