"""Enlarging: what the plan of a model that enlarges small pictures has otherwise than that of one that draws them."""

from __future__ import annotations

from kakusan.part import Spec

__all__ = ["LEVEL", "networks", "settings", "training"]

MOST = 4  # pixels that are folded into channels, a side
STEM = 64  # a stem narrower than what is folded into it leaves speckle, up to so many channels
LEVEL = -1.2  # mean of ln(sigma/alpha): the shapes are given, so the levels of details, EDM's
K_MAX = 20.0  # noisier than this nothing is to be told that the small picture has not told
STEPS = 12


def networks(candidates: list[Spec], factor: int) -> list[Spec]:
    """The candidates at the scale of the small picture, without attention and with norms of single pixels, so that
    what is learnt from pieces holds for pictures of any size; blocks of one activation were not measured here."""
    fold = min(MOST, factor)
    own = {"unshuffle": fold, "mults": [1, 1, 1], "attention": [], "norm": "pixel", "activations": 2}
    made = [c | own for c in candidates]
    return [c for c in made if c["width"] >= min(STEM, c["channels"] * fold**2)]


def settings(defaults: Spec) -> Spec:
    """The sampling defaults."""
    return defaults | {"grid": defaults["grid"] | {"k_max": K_MAX}, "steps": STEPS, "autoguidance": 1.0}


def training(spec: Spec) -> Spec:
    """The settings of training: the small picture is always there, and no weaker self is kept to lead away from."""
    return spec | {"objective": spec["objective"] | {"dropout": 0.0}, "weak": 0.0}
