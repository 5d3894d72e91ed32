"""Instructing: what the plan of a model that follows instructions has otherwise than that of one that draws."""

from __future__ import annotations

from kakusan.part import Spec
from kakusan.training.captions import PROMPT
from kakusan.training.pairs import SOURCE

__all__ = ["settings", "training"]

LOST = 0.05  # of the rows lose the source, as many the instruction, as many both (Brooks et al. 2023, section 3.2.1)
WEIGHTS = {SOURCE: 1.5, PROMPT: 4.0}  # of guidance; Brooks et al. use 1 to 1.5, and 5 to 10 at much longer training


def settings(defaults: Spec) -> Spec:
    """The sampling defaults."""
    return defaults | {"guidance": dict(WEIGHTS), "autoguidance": 1.0}


def training(spec: Spec) -> Spec:
    """The settings of training: no weaker self is kept, since two weights of guidance lead away from one already."""
    return spec | {"objective": spec["objective"] | {"dropout": LOST, "together": LOST}, "weak": 0.0}
