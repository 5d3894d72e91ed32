"""Schedule: the learning rate over a run, and how long the run is, which the clock decides at a few recorded steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

__all__ = ["CLOCKS", "SHAPES", "Clock", "Schedule", "due", "passed", "processor", "readings"]


def processor() -> float:
    """Seconds of processor time of this process, shared by its threads: what a run would have used of an idle machine.

    Equal budgets of it stay equal while other work disturbs the machine; waiting, for a GPU or a disk, is not counted.
    """
    return time.process_time() / torch.get_num_threads()


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.monotonic, "processor": processor}


def readings() -> dict[str, float]:
    """What each clock shows now."""
    return {name: clock() for name, clock in CLOCKS.items()}


SHAPES: dict[str, Callable[[float], float]] = {  # share of the cool-down gone -> factor of the learning rate
    "linear": lambda u: 1 - u,
    "sqrt": lambda u: 1 - math.sqrt(u),
    "cosine": lambda u: 0.5 + 0.5 * math.cos(math.pi * u),
}
FIRST = (3, 8, 20)  # the steps of the first decisions, while the speed is hardly known
SHARE = 0.05  # later ones come every 5% of the run, and closer before its end
CLOSEST = 4  # no decision is worth making fewer steps than this before the end


@dataclass
class Schedule:
    """Warm-up, stable, decay: ``min(1, (step + 1)/(warmup + 1)) shape(u)``, u the share of the cool-down gone.

    A decision ("pace" event) sets the run's length and the start of the cool-down. Once the cool-down has begun, a
    decision changes only how fast the rest of it goes: the rate never jumps. Without ``total`` the rate stays.
    """

    warmup: int
    cooldown: float
    shape: str
    total: int | None = None  # steps of the whole run, as far as it is decided
    cool: int | None = None  # first step of the cool-down
    since: int = 0  # the step from which ``u`` grows evenly ...
    gone: float = 0.0  # ... from this value to 1 at the end
    next: int | None = None  # step of the next decision

    @staticmethod
    def fixed(steps: int, warmup: int, cooldown: float, shape: str) -> Schedule:
        """A run of so many steps: nothing is left to decide."""
        cool = round(steps * (1 - cooldown))
        return Schedule(warmup, cooldown, shape, steps, cool, cool)

    @staticmethod
    def timed(warmup: int, cooldown: float, shape: str) -> Schedule:
        """A run whose length the clock decides."""
        return Schedule(warmup, cooldown, shape, next=FIRST[0])

    def share(self, step: int) -> float:
        """How much of the cool-down is gone at this step: 0 before it, 1 just after the last step."""
        if self.total is None or step < self.since:
            return self.gone
        return self.gone + (1 - self.gone) * min(1.0, (step - self.since + 1) / (self.total - self.since + 1))

    def factor(self, step: int) -> float:
        """What the learning rates are multiplied by at this step (the first is 0)."""
        return min(1.0, (step + 1) / (self.warmup + 1)) * SHAPES[self.shape](self.share(step))

    def decide(self, step: int, seconds_left: float, pace: float) -> dict[str, Any]:
        """The event that fits the rest of the run into the time left, ``pace`` seconds a step; it acts when applied."""
        rest = max(1, int(seconds_left / max(pace, 1e-9)))  # at least the step at hand
        total = step + rest
        if self.cool is not None and step >= self.cool:
            cool = self.cool
        else:
            cool = max(step, round(total * (1 - self.cooldown)))
        ahead = [s for s in FIRST if s > step]
        gap = max(2, min(math.ceil(SHARE * total), rest // 2))
        following = min(ahead[0], step + gap) if ahead else step + gap
        more = rest > CLOSEST and following < total
        return {"kind": "pace", "step": step, "total": total, "cool": cool, "next": following if more else None}

    def apply(self, event: dict[str, Any]) -> None:
        """Let a decision act."""
        step, started = event["step"], self.cool is not None and event["step"] > self.cool
        self.gone = self.share(step - 1) if started else 0.0
        self.since = step if started else event["cool"]
        self.total, self.cool, self.next = event["total"], event["cool"], event["next"]

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return asdict(self)


class Clock:
    """Seconds used of the run's budget, across interruptions, and the training speed apart from what happens aside."""

    def __init__(self, spent: float = 0.0, now: Callable[[], float] = time.monotonic, step: int = 0) -> None:
        self._now = now
        self._start = now() - spent
        self._aside = 0.0
        self._pace = math.inf
        self._mark = (step, spent, 0.0)  # step, elapsed, aside at the last look at the pace
        self.costs: dict[str, tuple[int, float]] = {}  # name -> times, seconds

    def resumed(self, spent: float, step: int) -> Clock:
        """A clock that goes on from ``spent`` seconds at this step."""
        return Clock(spent, self._now, step)

    def elapsed(self) -> float:
        """Seconds used."""
        return self._now() - self._start

    @contextmanager
    def aside(self, name: str) -> Iterator[None]:
        """Count the time inside as not training: previews, evaluations, checkpoints."""
        start = self._now()
        try:
            yield
        finally:
            seconds = self._now() - start
            self._aside += seconds
            count, total = self.costs.get(name, (0, 0.0))
            self.costs[name] = (count + 1, total + seconds)

    def look(self, step: int) -> float:
        """Seconds a training step since the last look (the value before where there was no step; infinite at first)."""
        elapsed, (since, before, aside) = self.elapsed(), self._mark
        if step > since:
            self._pace = (elapsed - before - (self._aside - aside)) / (step - since)
            self._mark = (step, elapsed, self._aside)
        return self._pace

    def ahead(self, name: str, times: float) -> float:
        """Seconds that ``times`` more asides of this name would take, by their mean so far."""
        count, seconds = self.costs.get(name, (0, 0.0))
        return times * seconds / count if count else 0.0


def due(step: int, total: int | None, points: int, done: int, power: float = 1.0) -> bool:
    """Whether one of ``points`` moments, at ``(i/points)^power`` of the run, has come and was not acted on yet.

    power 1 spreads them evenly, 2 puts more of them early. Steps alone decide, so that a resumed run does the same.
    """
    if total is None or done >= points or step == 0:
        return False
    return step >= total * ((done + 1) / points) ** power


def passed(step: int, total: int, points: int, power: float = 1.0) -> int:
    """How many of those moments a run of ``total`` steps has acted on when it comes to this step."""
    return sum(step - 1 >= total * ((done + 1) / points) ** power for done in range(points))
