"""Quality against evaluations of a teacher and of what was made of it: the same seeds and pictures, and a verdict."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from kakusan.app.command.show import Progress
from kakusan.app.draw import sampler
from kakusan.app.draw.loaded import Loaded
from kakusan.app.judge import modeldata
from kakusan.app.judge.ground import asked_classes
from kakusan.app.judge.reference import Reference, extractor_of, reference_of
from kakusan.app.train.project import Project
from kakusan.core.model import Model
from kakusan.evaluation.features import Extractor, features_cached
from kakusan.evaluation.frechet import frechet_interval
from kakusan.training.cache import cache_root

__all__ = ["LEAST", "Judge", "Point", "branches", "times", "verdict"]

LEAST = 50  # samples of a point, below which a distance means nothing
REAL = 2000  # real pictures compared with, at most
SEED = 2_000_000  # of the first sample: none that anything was tuned or previewed with
_ROUNDING = 1e-6
SHOWN = 16  # samples of a point on the page
Tree = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """One way to sample: Fréchet distance with its 95% interval, seconds and evaluations for one sample."""

    series: str
    steps: int
    evaluations: int
    frechet: float
    low: float
    high: float
    seconds: float
    pictures: list[np.ndarray] = field(default_factory=list, repr=False)  # the first seeds, to look at
    size: float = 1.0  # parameters of its network, the teacher's being 1

    @property
    def cost(self) -> float:
        """Evaluations of a network as large as the teacher's that cost as much."""
        return self.evaluations * self.size

    def as_dict(self) -> Tree:
        """Plain data, for JSON."""
        return {k: v for k, v in asdict(self).items() if k != "pictures"}


class Judge:
    """Real pictures with their features, and samples of ``count`` seeds held against them."""

    def __init__(self, loaded: Loaded, project: Project, count: int, shown: Progress, stop: Callable[[], bool]) -> None:
        self.count, self.shown, self.stop = count, shown, stop
        self.real: Reference = reference_of(project, shown, modeldata.same(project, loaded), REAL)
        self.extract: Extractor = extractor_of("efficientnet-lite0", project.domain.packed)
        shown.note(f"comparing with {len(self.real.pictures):,} real pictures: {self.real.words}")
        self.features = features_cached(self.extract, self.real.pictures, cache_root() / "features")

    def point(self, loaded: Loaded, series: str, first: int = SEED, **settings: Any) -> Point | None:
        """One measurement of the samples of the seeds from ``first`` on; ``settings`` as a Request takes them. None
        when asked to stop."""
        labels = None
        if loaded.classes and self.real.labels is not None:
            labels = asked_classes(self.real.labels, loaded.classes, self.count, SEED)
        request = loaded.request(self.count, None, labels, first, None, **settings)
        settled = sampler.settle(loaded.model, request)
        self.shown.start(self.count * settled["steps"], f"{series}, {times(settled['steps'], 'step')}", "step")
        begun = time.perf_counter()
        samples = loaded.draw(request, progress=self.shown.update, stop=self.stop)
        seconds = (time.perf_counter() - begun) / self.count
        self.shown.stop()
        if len(samples) < self.count:
            return None
        figure = frechet_interval(self.features, self.extract(np.stack([s.data for s in samples])))
        self.shown.note(f"{series}, {times(settled['steps'], 'step')}: Fréchet distance {figure.value:.4g}")
        return Point(
            series, int(settled["steps"]), sampler.evaluations(settled), figure.value, figure.low, figure.high,
            seconds, [s.shown for s in samples[:SHOWN]],
        )  # fmt: skip


def branches(model: Model) -> int:
    """Evaluations of a network in one step with the model's own settings."""
    return sampler.evaluations(sampler.defaults(model) | {"steps": 1, "solver": {"kind": "solver/ddim"}})


def verdict(made: Point, others: list[Point]) -> Tree:
    """``made`` beside the best of ``others`` that costs no more: better, worse or within noise, in words too."""
    rivals = [p for p in others if p.cost <= made.cost * (1 + _ROUNDING)]
    if not rivals:
        return {"better": None, "words": f"{made.series}: nothing else was measured at {_cost(made)}"}
    best = min(rivals, key=lambda p: p.frechet)
    pair = f"{_said(made)} against {_said(best)}"
    if made.high < best.low:
        return {"better": True, "rival": best.series, "words": f"{made.series} is better at the same cost: {pair}"}
    if made.low > best.high:
        return {"better": False, "rival": best.series, "words": f"{made.series} is worse at the same cost: {pair}"}
    return {"better": None, "rival": best.series, "words": f"no difference beyond the noise at the same cost: {pair}"}


def times(count: int, unit: str) -> str:
    """A number with its unit: 1 step, 2 steps."""
    return f"{count} {unit}{'s' * (count != 1)}"


def _said(point: Point) -> str:
    return f"{point.frechet:.4g} ({point.low:.4g} to {point.high:.4g}; {point.series}, {_cost(point)})"


def _cost(point: Point) -> str:
    count = times(point.evaluations, "evaluation")
    return count if point.size == 1 else f"{count} of {point.size:.0%} of the network"
