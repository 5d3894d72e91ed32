"""Verify: is an exported network with its table the same sampler as PyTorch's?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kakusan.core.model import Model
from kakusan.core.rng import Rng
from kakusan.core.sample import run, sample
from kakusan.part import KakusanError
from kakusan.runtime import host
from kakusan.runtime.engines import Feed, Run
from kakusan.runtime.graph import Graph

if TYPE_CHECKING:
    from kakusan.runtime.export import Sampling

__all__ = ["EVALUATION", "SAMPLE", "Checked", "anything", "apart", "verify", "within"]

EVALUATION = 1e-4  # largest difference of one estimate of x0 from PyTorch's, where data are about [-1, 1]
SAMPLE = 1 / 255  # of a whole sample: half a grey level of 8 bits
_BATCH = 3


@dataclass(frozen=True)
class Checked:
    """Largest differences from PyTorch, and what is allowed (both grow with numbers greater than 1)."""

    evaluation: float
    evaluation_allowed: float
    sample: float
    sample_allowed: float

    def dict(self) -> dict[str, float]:
        """Plain data."""
        return asdict(self)

    def words(self, peer: str = "PyTorch") -> str:
        """One line."""
        return (
            f"against {peer}: one evaluation within {self.evaluation:.1g} ({self.evaluation_allowed:.1g} allowed), "
            f"a whole sample within {self.sample:.1g} ({self.sample_allowed:.1g} allowed)"
        )


def verify(
    table: Mapping[str, Any],
    truth: Mapping[str, Run],
    networks: Mapping[str, Run],
    model: Model,
    sampling: Sampling,
) -> Checked:
    """Compare every network at three noise levels, then a whole sample of the table with PyTorch's own loop.

    Raises KakusanError with the figures where one is over its tolerance or not finite.
    """
    shape = (_BATCH, *table["shape"])
    given = anything(table, _BATCH)
    eps = np.random.default_rng(0).standard_normal(shape, np.float32)
    one = within("one evaluation", _evaluations(table, truth, networks, eps, given))
    rng = Rng(range(_BATCH))
    start = model.denoiser.space.noise([shape[1:]] * _BATCH, rng, "start").numpy()
    expected = _pytorch(model, sampling, start * np.float32(table["start"]), given, rng)
    if table.get("decoder"):
        feed, name = {"z": expected}, table["decoder"]
        alone = apart(networks[name](feed), truth[name](feed), EVALUATION)
        one = max(one, within("the decoder", alone), key=lambda found: found[0] / found[1])
        with torch.inference_mode():
            assert model.domain is not None
            expected = model.domain.decode(torch.from_numpy(expected)).numpy()  # type: ignore[attr-defined]
    noises = _Replay(model, sampling, [shape[1:]] * _BATCH, rng)
    found = host.sample(table, networks, start, given, noises)
    return Checked(*one, *within("a whole sample", apart(found, expected, SAMPLE)))


def within(name: str, found: tuple[float, float], peer: str = "PyTorch") -> tuple[float, float]:
    """(difference, what is allowed) where the one is not more than the other."""
    if not found[0] <= found[1]:
        raise KakusanError(
            f"the exported model is not the same: {name} differs from {peer} by {found[0]:.2g}, {found[1]:.2g} is "
            "allowed; its files were deleted"
        )
    return found


def anything(table: Mapping[str, Any], batch: int) -> Feed:
    """Some value of every condition: classes or pieces in turn, numbers at random from 0 to 1 (which sets flags)."""
    draw, given = np.random.default_rng(1), {}
    for about in table["conditions"].values():
        for name, told in about["inputs"].items():
            form = (batch, *told["shape"])
            if told["dtype"] == "int64":
                most = max(1, int(np.max(told["none"])), len(about.get("vocabulary", "").split()))
                given[name] = np.arange(np.prod(form), dtype=np.int64).reshape(form) % most
            else:
                given[name] = draw.uniform(0.1, 1, form).astype(np.float32)
    return given


def _evaluations(
    table: Mapping[str, Any], truth: Mapping[str, Run], networks: Mapping[str, Run], eps: np.ndarray, given: Feed
) -> tuple[float, float]:
    """The largest difference of a single estimate relative to what is allowed, and that."""
    steps = table["steps"]
    worst = (0.0, EVALUATION)
    for step in (steps[0], steps[len(steps) // 2], steps[-1]):
        x = eps / np.float32(step["c_in"])
        for name in networks.keys() - {table.get("decoder")}:
            for none in ([], list(table["conditions"])):
                feed = host.feeds(table, step, x, given, none)
                found = apart(networks[name](feed), truth[name](feed), EVALUATION)
                if not found[0] / found[1] <= worst[0] / worst[1]:  # NaN counts as worst
                    worst = found
    return worst


def apart(found: np.ndarray, expected: np.ndarray, share: float) -> tuple[float, float]:
    """(largest difference, what is allowed of it)."""
    if found.shape != expected.shape:
        return float("inf"), share
    return float(np.abs(found - expected).max()), share * max(1.0, float(np.abs(expected).max()))


def _pytorch(model: Model, sampling: Sampling, x: np.ndarray, given: Feed, rng: Rng) -> np.ndarray:
    """The sampling loop of ``kakusan.core``, branches evaluated by the model itself."""
    batch = len(x)
    branches = []
    for branch in sampling.branches:
        source = model if branch.network == "model" or model.weak is None else model.weak
        inputs = _inputs(source, given)
        off = {name: torch.zeros(batch, dtype=torch.bool) for name in branch.none}
        branches.append(source.branches([source.cond(inputs, off, batch)]))

    def joint(x: torch.Tensor, t: torch.Tensor, s: torch.Tensor, which: tuple[int, ...] | None = None) -> Any:
        return tuple(branches[i](x, t, s)[0] for i in (range(len(branches)) if which is None else which))

    denoiser = model.denoiser
    with torch.inference_mode():
        steps = sample(
            sampling.guide(joint), torch.from_numpy(x), sampling.times, sampling.solver, denoiser.process,
            denoiser.space, rng,
        )  # fmt: skip
        return run(steps).numpy()


def _inputs(model: Model, given: Feed) -> dict[str, dict[str, torch.Tensor]]:
    tensors = {name: torch.from_numpy(value) for name, value in given.items()}
    return {c.name: c.prepared(tensors) for c in Graph(model).conditions if not c.timed}


class _Replay:
    """The fresh noises of PyTorch's loop, in their order, for a host that asks for them."""

    def __init__(self, model: Model, sampling: Sampling, shapes: list[tuple[int, ...]], rng: Rng) -> None:
        climbs = [i for i, (t, s) in enumerate(pairwise(sampling.times)) if s > t]
        self.noises = iter([model.denoiser.space.noise(shapes, rng, "climb", i).numpy() for i in climbs])

    def standard_normal(self, size: tuple[int, ...], dtype: type[np.float32]) -> np.ndarray:
        return next(self.noises).astype(dtype)
