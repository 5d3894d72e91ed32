"""Host: the sampling loop of an exported model, from its table, in NumPy; twenty lines in any language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from kakusan.runtime.engines import Feed, Run

__all__ = ["Draws", "feeds", "sample"]


class Draws(Protocol):
    """Where fresh noise comes from: ``numpy.random.Generator``, or what replays another's."""

    def standard_normal(self, size: tuple[int, ...], dtype: type[np.float32]) -> np.ndarray: ...


def sample(
    table: Mapping[str, Any], networks: Mapping[str, Run], eps: np.ndarray, given: Feed, draw: Draws
) -> np.ndarray:
    """Samples (B, C, *S) from noise ``eps`` of that shape, decoded where the table has a decoder; ``given``: the
    conditions' inputs, (B, ...) each.

    ``draw`` makes the fresh noise of tables that ask for some.
    """
    x = np.float32(table["start"]) * eps
    past: list[np.ndarray] = []  # estimates of x0, the newest first
    for step in table["steps"]:
        x0 = np.zeros_like(x)
        for weight, branch in zip(step["weights"], table["branches"], strict=True):
            if weight:
                feed = feeds(table, step, x, given, branch["none"])
                x0 += np.float32(weight) * networks[branch["network"]](feed)
        past = [x0, *past][: table["memory"]]
        x = np.float32(step["a"]) * x
        for b, estimate in zip(step["b"], past, strict=False):
            x = x + np.float32(b) * estimate
        if step["noise"]:
            x = x + np.float32(step["noise"]) * draw.standard_normal(x.shape, np.float32)
    return networks[table["decoder"]]({"z": x}) if table.get("decoder") else x


def feeds(table: Mapping[str, Any], step: Mapping[str, Any], x: np.ndarray, given: Feed, none: list[str]) -> Feed:
    """A network's inputs at one step: x, its coefficients, and the conditions, those in ``none`` left out."""
    feed = {name: np.full(len(x), step[name], np.float32) for name in table["coefficients"]}
    for condition, about in table["conditions"].items():
        for name, told in about["inputs"].items():
            absent = condition in none or name not in given
            value = np.array([told["none"]] * len(x)) if absent else given[name]
            feed[name] = value.astype(told["dtype"])
    return {"x": x} | feed
