"""Samples against the pictures that their model was trained on: which are copies, and the pairs to look at."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch import Tensor

from kakusan.app.train.project import Project
from kakusan.evaluation.memorisation import Copying, copies

__all__ = ["examined"]


def examined(
    project: Project, raw: Tensor, most: int, held: int, stop: Callable[[], bool] = lambda: False
) -> Copying | None:
    """Samples (N, C, H, W) against up to ``most`` of the project's training pictures, judged by up to ``held`` of
    those kept aside; None where none are. Pairs name rows of ``project.train``.

    Once asked to stop, against fewer: the result is then of no use.
    """
    if project.held is None:
        return None
    chosen = np.linspace(0, len(project.train) - 1, min(len(project.train), most)).astype(np.int64)
    starts = itertools.takewhile(lambda i: i == 0 or not stop(), range(0, len(chosen), 1024))
    pieces = (project.domain.floats(project.train.rows(chosen[i : i + 1024])) for i in starts)
    found = copies(raw, pieces, project.some(held, held=True), mirror=bool(project.settings["flip"]))
    # pairs name rows of what was compared; from here on, of all that was trained on
    return replace(found, pairs=[replace(pair, train=int(chosen[pair.train])) for pair in found.pairs])
