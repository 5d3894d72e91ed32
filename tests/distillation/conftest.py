"""A plane of three modes whose denoiser is known, and a network small enough to be trained in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kakusan.core.batch import Batch, Cond
from kakusan.core.denoiser import Denoiser, Net
from kakusan.core.guide import Denoise
from kakusan.core.model import Encoder, Model
from kakusan.core.objective import Objective
from kakusan.core.param import Karras, Param
from kakusan.core.process import VE, Process
from kakusan.core.rng import Rng, mix
from kakusan.core.space import Flat

MEANS = torch.tensor([[-1.0, 0.0], [0.8, 0.8], [0.6, -1.0]], dtype=torch.float64)
SHARES = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
SPREAD = 0.25
STD = 0.7  # of the Gaussians


def exact(process: Process) -> Denoise:
    """The posterior mean of the three modes."""

    def denoise(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        alpha, sigma = process.scales(t)
        total = (alpha * SPREAD) ** 2 + sigma**2
        away = x[:, None] - alpha * MEANS
        share = torch.softmax(SHARES.log() - away.square().sum(-1) / (2 * total), 1)
        return (share[..., None] * (MEANS + alpha * SPREAD**2 / total * away)).sum(1)

    return denoise


class Small(Net):
    """Two hidden layers over x, sines of the noise level and a vector."""

    kind = "test/small"

    def __init__(self, channels: int = 2, width: int = 48, vector: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.vector = vector
        self.first = nn.Linear(channels + 8 + vector, width)
        self.inner = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)
        self.last = nn.Linear(width, channels)

    def forward(self, x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
        angle = lam[:, None] * torch.tensor([0.3, 0.7, 1.3, 2.5])
        parts = [x, angle.sin(), angle.cos()] + ([cond.vector] if self.vector else [])
        h = nn.functional.silu(self.first(torch.cat([p for p in parts if p is not None], 1)))
        return self.last(self.drop(nn.functional.silu(self.inner(h))))


def made(
    channels: int = 2, process: Process | None = None, param: Param | None = None, dropout: float = 0.0, seed: int = 0
) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Small(channels, dropout=dropout)
        return Model(Denoiser(net, process or VE(), param or Karras(0.8), Flat()))


def taught(
    model: Model, objective: Objective, data: Tensor, steps: int, teacher: Model | None = None, lr: float = 5e-3,
    batch: int = 64,
) -> Model:  # fmt: skip
    """A training of seconds: AdamW, its rate falling to 0 over the second half."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = lr * min(1.0, 2 * (1 - step / steps))
        rows = torch.tensor([mix(step, i) % len(data) for i in range(batch)])
        given = Batch(data[rows], stratum=(torch.arange(batch).double() + 0.5) / batch)
        loss = objective.loss(model, given, Rng([mix("draw", step, i) for i in range(batch)]), step, teacher).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return model


def gaussian(process, param) -> Model:
    """The exact denoiser of N(0, STD^2): Karras's skip alone, the network giving 0."""
    model = made(1, process, param)
    with torch.no_grad():
        for p in model.denoiser.net.last.parameters():
            p.zero_()
    return model.requires_grad_(False)


class Mean(Encoder):
    """A Gaussian's mean as the condition; its null is 0."""

    kind = "test/mean"

    def prepare(self, values: list[Any]) -> dict[str, Tensor]:
        return {"mean": torch.tensor([[0.0 if v is None else v] for v in values])}

    def forward(self, inputs: dict[str, Tensor], keep: Tensor) -> Cond:
        return Cond(vector=torch.where(keep[:, None], inputs["mean"], 0.0))


def told(student: Model, objective: Objective, teacher: Model, steps: int) -> None:
    """A training of seconds on two means, 0.8 and -0.6, whose data do not matter: the teacher knows them."""
    optimiser = torch.optim.AdamW(student.parameters(), lr=5e-3)
    means = torch.tensor([0.8, -0.6]).repeat(64)[:, None]
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 5e-3 * min(1.0, 2 * (1 - step / steps))
        batch = Batch(torch.zeros(128, 1), inputs={"mean": {"mean": means}})
        loss = objective.loss(student, batch, Rng([1000 * step + i for i in range(128)]), step, teacher).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


class Shift(Net):
    """What Karras's parametrisation needs for the exact denoiser of N(mean, STD^2)."""

    kind = "test/shift"

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
        k = torch.exp(-lam)[:, None]
        assert cond.vector is not None
        return self.one * cond.vector * k / (STD * (k**2 + STD**2).sqrt())


@pytest.fixture(autouse=True)
def steady() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
