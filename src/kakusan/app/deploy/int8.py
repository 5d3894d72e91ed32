"""Whether int8 may be kept: the Fréchet distance of its samples beside the interval of float32's, the same noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from kakusan.app.command.show import Progress
from kakusan.app.deploy.fewsteps import LEAST, SEED, Judge
from kakusan.app.draw.loaded import Loaded
from kakusan.app.judge import modeldata
from kakusan.app.judge.ground import asked_classes
from kakusan.core.rng import Rng
from kakusan.evaluation.frechet import frechet_interval
from kakusan.part import KakusanError
from kakusan.runtime import host
from kakusan.runtime.engines import Feed, Run
from kakusan.runtime.graph import Condition
from kakusan.runtime.int8 import Judge as Verdict

__all__ = ["judge"]

_BATCH = 64


def judge(loaded: Loaded, data: str, labels: str, count: int, shown: Progress) -> Verdict:
    """What compares ``count`` samples of an exported model before and after rounding with the real pictures at
    ``data``; it raises KakusanError with the figures where int8 is outside float32's interval."""
    if count < LEAST:
        raise KakusanError(f"-n {count}: too few samples to tell a distance by; give at least {LEAST}")
    project, _ = modeldata.opened(loaded, data, labels, shown)
    held = Judge(loaded, project, count, shown, lambda: False)
    given = _classes(loaded, held, count)

    def distance(table: Mapping[str, Any], runs: Mapping[str, Run], name: str) -> Any:
        shown.note(f"drawing {count} samples in {name} ...")
        pictures = _pictures(loaded, table, runs, given, count)
        return frechet_interval(held.features, held.extract(pictures))

    known: list[Any] = []  # float32's, drawn once

    def compare(table: Mapping[str, Any], exact: Mapping[str, Run], rounded: Mapping[str, Run]) -> dict[str, Any]:
        known[:] = known or [distance(table, exact, "float32")]
        before, after = known[0], distance(table, rounded, "int8")
        if not after.value <= before.high:
            raise KakusanError(
                f"--int8: its Fréchet distance of {after.value:.4g} is outside float32's {before.value:.4g} "
                f"({before.low:.4g} to {before.high:.4g}, {count} samples); nothing of it is kept"
            )
        figures = {"float32": before.value, "low": before.low, "high": before.high, "int8": after.value}
        return figures | {"count": count, "data": held.real.words}

    return compare


def _classes(loaded: Loaded, held: Judge, count: int) -> Feed:
    """The conditions' inputs of every sample: its class, where there are some; the rest is left out."""
    if not loaded.classes or held.real.labels is None:
        return {}
    asked = asked_classes(held.real.labels, loaded.classes, count, SEED)
    inputs = loaded.model.encoder("label").prepare(list(asked))
    keys = Condition("label", loaded.model).keys
    return {name: inputs[key].numpy() for name, key in keys.items()}


def _pictures(loaded: Loaded, table: Mapping[str, Any], runs: Mapping[str, Run], given: Feed, count: int) -> np.ndarray:
    """Samples (N, H, W, C) in the data's units, drawn by the exported networks and the table alone."""
    found = []
    for begin in range(0, count, _BATCH):
        rows = range(begin, min(count, begin + _BATCH))
        rng = Rng([SEED + i for i in rows])
        eps = loaded.model.denoiser.space.noise([tuple(table["shape"])] * len(rows), rng, "start").numpy()
        part = {name: value[rows.start : rows.stop] for name, value in given.items()}
        x = host.sample(table, runs, eps, part, np.random.default_rng(begin))
        drawn = torch.from_numpy(x)  # through the decoder already, where there is one
        drawn = drawn if table.get("decoder") else loaded.domain.decode(drawn)
        found += [record.data for record in loaded.domain.records(drawn)]
    return np.stack(found)
