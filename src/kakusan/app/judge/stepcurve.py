"""Quality against steps: the distance and the time of a sample for every solver and number of steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kakusan.app.command.show import Progress
from kakusan.app.draw import sampler
from kakusan.app.draw.loaded import Loaded
from kakusan.evaluation.frechet import frechet_interval

__all__ = ["SOLVERS", "STEPS", "Point", "cheapest", "curve"]

STEPS = (1, 2, 4, 6, 8, 10, 20, 50)
SOLVERS = ("ddim", "ddpm", "heun", "dpm2m", "unipc", "ipndm")
COUNT = 300  # samples of each point, unless said otherwise

Draw = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Point:
    """One setting: Fréchet distance with its 95% interval, seconds and evaluations of a network for one sample."""

    solver: str
    steps: int
    evaluations: int
    frechet: float
    low: float
    high: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def curve(
    loaded: Loaded,
    real: np.ndarray,
    features: Draw,
    count: int,
    seed: int,
    asked: dict[str, Any],
    shown: Progress,
    stop: Callable[[], bool],
) -> list[Point] | None:
    """A point for each of ``SOLVERS`` and ``STEPS``, all from the same seeds; None when asked to stop on the way.

    ``real``: features of real pictures; ``asked``: settings other than solver and steps, such as the guidance.
    """
    settings = [(solver, steps) for solver in SOLVERS for steps in STEPS]
    total = sum(steps for _, steps in settings)
    shown.start(total, "quality against steps", "step")
    found, done = [], 0
    for solver, steps in settings:
        begun = time.perf_counter()
        samples = loaded.sample(count, seed=seed, steps=steps, solver=solver, stop=stop, **asked)
        seconds = time.perf_counter() - begun
        if len(samples) < count:
            return None
        figure = frechet_interval(real, features(np.stack([s.data for s in samples])))
        evaluations = sampler.evaluations(samples[0].recipe)
        found.append(Point(solver, steps, evaluations, figure.value, figure.low, figure.high, seconds / count))
        done += steps
        shown.update(done, note=f"{solver}, {steps} steps: {figure.value:.4g}")
    shown.stop()
    return found


def cheapest(points: list[Point]) -> tuple[Point, Point]:
    """(the best, the one with the fewest evaluations whose distance lies within the best's interval).

    Evaluations and not seconds decide, so that a disturbance of the clock chooses nothing; where they are equal, the
    better one is taken.
    """
    best = min(points, key=lambda p: p.frechet)
    within = [p for p in points if p.frechet <= best.high]
    return best, min(within, key=lambda p: (p.evaluations, p.frechet))
