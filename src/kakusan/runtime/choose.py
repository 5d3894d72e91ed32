"""Choose: which engine runs a network fastest here, measured once and remembered.

Figures belong to a model's hash, a shape, a batch and a machine with its versions. An engine counts only where its
result is that of eager PyTorch, and only where what it saves is more than what loading it costs: a single picture does
not wait for a compiler.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kakusan.core.batch import Cond
from kakusan.files import write_json
from kakusan.runtime.nets import Call

__all__ = ["ALLOWED", "Timing", "measure", "pick", "recall", "remember"]

ALLOWED = 1e-4  # largest difference from eager, relative to its largest number
_ROUNDS = 3  # at least

Inputs = Callable[[int], tuple[Tensor, Tensor, Cond]]  # a batch size -> x, lam, cond


@dataclass(frozen=True)
class Timing:
    """One engine at one batch: seconds of an evaluation of the whole batch (the best of several), seconds to load,
    difference from eager relative to what is allowed."""

    engine: str
    batch: int
    seconds: float
    load: float
    off: float

    @property
    def correct(self) -> bool:
        """Whether the result is eager's."""
        return self.off <= 1  # False for NaN


def measure(calls: dict[str, tuple[Call, float]], inputs: Inputs, batch: int, seconds: float = 3.0) -> list[Timing]:
    """Time the engines (call and seconds to load, by name; "eager" among them) in turns, so that a busy machine is
    busy for all of them."""
    x, lam, cond = inputs(batch)
    best = dict.fromkeys(calls, float("inf"))
    with torch.inference_mode():
        results = {name: call(x, lam, cond) for name, (call, _) in calls.items()}
        end, rounds = time.perf_counter() + seconds, 0
        while rounds < _ROUNDS or time.perf_counter() < end:
            for name, (call, _) in calls.items():
                begun = time.perf_counter()
                call(x, lam, cond)
                best[name] = min(best[name], time.perf_counter() - begun)
            rounds += 1
    truth = results["eager"]
    allowed = ALLOWED * max(float(truth.abs().max()), 1e-6)
    return [
        Timing(name, batch, best[name], load, float((results[name] - truth).abs().max()) / allowed)
        for name, (_, load) in calls.items()
    ]


def remember(file: Path, key: str, timings: Sequence[Timing]) -> None:
    """Keep figures under a key (shape, machine, versions); those of other keys and batches stay."""
    found = _read(file)
    new = {(t.engine, t.batch) for t in timings}
    kept = [t for t in recall(file, key) if (t.engine, t.batch) not in new]
    write_json(file, found | {key: [asdict(t) for t in (*kept, *timings)]})


def recall(file: Path, key: str) -> list[Timing]:
    """What was measured; nothing where the file is missing or damaged."""
    try:
        return [Timing(**entry) for entry in _read(file).get(key, [])]
    except (TypeError, ValueError):
        return []


def _read(file: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def pick(timings: Iterable[Timing], batch: int, evaluations: int, among: Sequence[str]) -> str:
    """The engine for ``evaluations`` of a batch: the one of ``among`` that ends first, loading included, judged by the
    batch measured that is nearest (in ratio). "eager" where nothing is known."""
    able = [t for t in timings if t.correct and t.engine in among]
    if not able:
        return "eager"
    nearest = min({t.batch for t in able}, key=lambda n: abs(math.log(n / batch)))
    there = [t for t in able if t.batch == nearest]
    return min(there, key=lambda t: t.load + evaluations * t.seconds * batch / nearest).engine
