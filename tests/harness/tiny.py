"""A training so small that a hundred of them are nothing: network, data, settings, and what to compare afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kakusan.core.batch import Batch, Cond
from kakusan.core.denoiser import Denoiser, Net
from kakusan.core.model import Encoder, Model
from kakusan.core.objective import EDM, Denoising, LogNormal
from kakusan.core.param import Karras
from kakusan.core.process import VE
from kakusan.core.rng import Rng, mix
from kakusan.core.space import Flat
from kakusan.training import state
from kakusan.training.events import read_rows
from kakusan.training.optim import Muon
from kakusan.training.settings import Training
from kakusan.training.watch import HeldOut

TIMES = ("seconds", "pictures_per_second")


class Tiny(Net):
    """A network of three convolutions with dropout, a noise level and a vector."""

    kind = "test/tiny"

    def __init__(self, dropout: float = 0.1, vector: int = 2) -> None:
        super().__init__()
        self.vector = vector
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.level = nn.Linear(1 + vector, 8)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Conv2d(8, 1, 3, padding=1)

    def hidden(self) -> set[str]:
        return {"inner.weight"}

    def forward(self, x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
        given = torch.zeros(len(x), self.vector) if cond.vector is None else cond.vector
        h = self.stem(x) + self.level(torch.cat([lam[:, None] / 5, given], 1))[:, :, None, None]
        return self.out(torch.tanh(self.inner(self.drop(torch.tanh(h)))))


class Kind(Encoder):
    """One of three, as a learned vector."""

    kind = "test/kind"

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 2)

    def prepare(self, values: list[Any]) -> dict[str, Tensor]:
        return {"index": torch.tensor([3 if v is None else v for v in values])}

    def forward(self, inputs: dict[str, Tensor], keep: Tensor) -> Cond:
        return Cond(vector=self.table(torch.where(keep, inputs["index"], 3)))


class Data:
    """Batches of 8 from 32 smooth pictures, with a kind; ``bad`` steps hold a NaN; ``spy`` is called at each step."""

    batch = 8

    def __init__(self, seed: int = 0, bad: tuple[int, ...] = (), spy: Callable[[int], None] | None = None) -> None:
        draws = Rng(range(32)).normal([(1, 2, 2)] * 32, "data")
        self.x = 0.5 * nn.functional.interpolate(draws, size=(6, 6), mode="bilinear")
        self.seed, self.bad, self.spy = seed, bad, spy

    def at(self, step: int) -> Batch:
        if self.spy:
            self.spy(step)
        rows = torch.tensor([mix("row", self.seed, step, i) % 32 for i in range(self.batch)])
        x0 = self.x[rows].clone()
        if step in self.bad:
            x0[0, 0, 0, 0] = float("nan")
        return Batch(x0, inputs={"kind": {"index": rows % 3}}, stratum=(torch.arange(8).double() + 0.5) / 8)

    def rng(self, step: int) -> Rng:
        return Rng([mix("draws", self.seed, step, i) for i in range(self.batch)])


def model(dropout: float = 0.1) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return Model(Denoiser(Tiny(dropout), VE(), Karras(0.5), Flat()), None, {"kind": Kind()})


def settings(**changes: Any) -> Training:
    base = {
        "optim": Muon(lr=0.02),
        "batch": 8,
        "warmup": 3,
        "log_every": 5,
        "ema_every": 2,
        "previews": 4,
        "evaluations": 3,
    }
    if "minutes" not in changes:
        base["steps"] = 30
    return Training(Denoising(LogNormal(), EDM(0.5), dropout=0.2), **(base | changes))


class Fake:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def watched() -> HeldOut:
    return HeldOut(Data(seed=91), Data(seed=92), 2)


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in TIMES} for r in read_rows(folder / name)]


def everything(folder: Path) -> dict[str, Tensor]:
    saved = state.load(folder / "state", pytest.fail)
    assert saved is not None
    return {f"{g}/{n}": t for g, tensors in saved.groups.items() for n, t in tensors.items()}


def assert_same(a: Path, b: Path) -> None:
    left, right = everything(a), everything(b)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name
    assert rows(a, "log.jsonl") == rows(b, "log.jsonl")
    assert rows(a, "events.jsonl") == rows(b, "events.jsonl")
