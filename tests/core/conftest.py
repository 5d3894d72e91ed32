"""Distributions whose posterior mean is known, so that solvers and samplers can be held against the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from kakusan.core.process import VE, VP, Flow, Process, Shifted, Tabulated, ZeroTerminal

PROCESSES: dict[str, Callable[[], Process]] = {
    "vp-linear": lambda: VP("linear"),
    "vp-cosine": lambda: VP("cosine"),
    "vp-sigmoid": lambda: VP("sigmoid", tau=0.7),
    "ve": VE,
    "flow": Flow,
    "shifted-vp": lambda: Shifted(VP("cosine"), 3.0),
    "shifted-ve": lambda: Shifted(VE(), 0.5),
    "shifted-flow": lambda: Shifted(Flow(), 3.0),
    "zero-terminal-linear": lambda: ZeroTerminal(VP("linear")),
    "zero-terminal-table": lambda: ZeroTerminal(Tabulated()),
    "shifted-zero-terminal": lambda: Shifted(ZeroTerminal(VP("linear")), 2.0),
    "tabulated": Tabulated,
    "tabulated-cosine": lambda: Tabulated(schedule="cosine", steps=100),
    "tabulated-zero": lambda: Tabulated(schedule="scaled_linear", start=0.00085, end=0.012, zero_terminal=True),
}


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians of equal spread in D dimensions: means (K, D), weights (K,), standard deviation."""

    means: Tensor
    weights: Tensor
    std: float

    def denoiser(self, process: Process) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The exact posterior mean of x0 given x_t (B, D)."""

        def denoise(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            alpha, sigma = (v.to(x.dtype) for v in process.scales(t))
            total = (alpha * self.std) ** 2 + sigma**2
            means = self.means.to(x.dtype)
            away = x[:, None] - alpha * means  # (B, K, D)
            share = torch.softmax(self.weights.to(x.dtype).log() - away.square().sum(-1) / (2 * total), 1)
            each = means + alpha * self.std**2 / total * away
            return (share[..., None] * each).sum(1)

        return denoise

    def draw(self, count: int, seed: int = 0) -> Tensor:
        """Exact samples (count, D), float64."""
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[which] + self.std * noise

    def cdf(self, x: Tensor, t: Tensor, process: Process) -> Tensor:
        """P(x_t < x) in one dimension, x (B, 1)."""
        alpha, sigma = process.scales(t)
        total = ((alpha * self.std) ** 2 + sigma**2).sqrt()
        return (self.weights * torch.special.ndtr((x - alpha * self.means[:, 0]) / total)).sum(1, keepdim=True)

    def flow(self, x: Tensor, t: Tensor, s: Tensor, process: Process) -> Tensor:
        """Where the probability-flow ODE carries x (B, 1) from t to s: in one dimension it keeps quantiles."""
        level = self.cdf(x, t, process)
        low, high = torch.full_like(x, -1000.0), torch.full_like(x, 1000.0)
        for _ in range(80):
            middle = (low + high) / 2
            below = self.cdf(middle, s, process) < level
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


@pytest.fixture(autouse=True)
def steady() -> Iterator[None]:
    """The tests' own draws are the same at every run, and their small tensors are not spread over threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def two() -> Mixture:
    """Two unequal modes on a line."""
    return Mixture(torch.tensor([[-1.0], [0.7]], dtype=torch.float64), torch.tensor([0.3, 0.7]).double(), 0.4)


@pytest.fixture
def bell() -> Mixture:
    """One Gaussian on a line: mean 0.5, standard deviation 0.5."""
    return Mixture(torch.tensor([[0.5]], dtype=torch.float64), torch.ones(1, dtype=torch.float64), 0.5)


@pytest.fixture
def plane() -> Mixture:
    """Three unequal modes in the plane."""
    means = torch.tensor([[-1.0, 0.0], [0.8, 0.8], [0.6, -1.0]], dtype=torch.float64)
    return Mixture(means, torch.tensor([0.2, 0.3, 0.5]).double(), 0.25)


@pytest.fixture(params=sorted(PROCESSES))
def process(request: pytest.FixtureRequest) -> Process:
    return PROCESSES[request.param]()
