"""Pictures as conditions of a training: which encoders the [data] section asks for, and what samples are drawn by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kakusan.app.given import Given
from kakusan.conditions.spatial import LowResolution, Mask
from kakusan.core.model import Model
from kakusan.core.rng import Rng
from kakusan.domains.domain import Record
from kakusan.domains.image import Image
from kakusan.part import KakusanError, Spec

if TYPE_CHECKING:
    from kakusan.app.project import Project

__all__ = ["LOW", "MASK", "crop", "drawn_by", "lowered", "settled", "size", "specs"]

LOW = "low"  # the condition of models that enlarge pictures
MASK = "mask"  # of models that fill holes
PIECE = 64  # pixels a side of the pieces that those learn from
LARGEST = 256  # pixels a side that they are trained for unless a size is asked for
FACTORS = (2, 4, 8)

Tree = dict[str, Any]


def settled(chosen: Tree) -> Tree:
    """The [data] section with what a kind of training decides: who enlarges pictures needs no classes and no words."""
    factor = chosen["upscale"]
    if factor is None:
        if chosen["crop"] is not None:
            raise KakusanError(f"data.crop={chosen['crop']}: pieces teach what enlarges pictures; add --upscale 4")
        return chosen
    if chosen["masks"]:
        raise KakusanError(f"--masks and --upscale {factor}: a model fills holes or enlarges; give one of the two")
    if isinstance(factor, bool) or factor not in FACTORS:
        raise KakusanError(f"--upscale {factor}: choose one of {', '.join(map(str, FACTORS))}")
    augment = False if chosen["augment"] is None else chosen["augment"]
    return chosen | {"labels": "none", "captions": "none", "fields": None, "augment": augment}


def size(records: Iterable[Record], chosen: Tree) -> list[int]:
    """The size of enlarged pictures: the median short side, down to a multiple of four small pixels."""
    sides = [min(r.meta.get("size") or r.data.shape[:2]) for r in records]
    step = 4 * int(chosen["upscale"])
    side = min(LARGEST, int(np.median(sides or [LARGEST]))) // step * step
    if side < step:
        raise KakusanError(
            f"--upscale {chosen['upscale']}: the pictures are smaller than {step} pixels; give larger ones"
        )
    return [side, side]


def crop(chosen: Tree, domain: Image) -> int | None:
    """The side of the pieces to train on, None for whole pictures; refused where it does not fit."""
    factor, asked = chosen["upscale"], chosen["crop"]
    if factor is None:
        return None
    if any(n % factor for n in domain.size):
        raise KakusanError(
            f"--size {domain.width} x {domain.height}: --upscale {factor} needs multiples of {factor} pixels"
        )
    if asked is None:
        return PIECE if min(domain.size) > PIECE else None
    if asked != 0 and (asked % factor or not factor <= asked <= min(domain.size)):
        raise KakusanError(f"data.crop={asked}: give a multiple of {factor} up to {min(domain.size)}; 0 is no crop")
    return int(asked)


def specs(chosen: Tree, domain: Image) -> dict[str, Spec]:
    """The encoders of pictures that a training asks for, by name."""
    out: dict[str, Spec] = {}
    if chosen["upscale"]:
        out[LOW] = {
            "kind": LowResolution.kind,
            "channels": domain.channels,
            "factor": int(chosen["upscale"]),
            "dim": 32,
        }
    if chosen["masks"]:
        out[MASK] = {"kind": Mask.kind, "channels": domain.channels}
    return out


def lowered(encoder: LowResolution, low: torch.Tensor, seed: int, level: float | None = None) -> Given:
    """A small picture (C, h, w) as the condition of the sample with this seed: under that much noise of its own."""
    level = encoder.level if level is None else level
    return Given((encoder.noised(low[None], torch.tensor([level]), Rng([seed]))[0], level))


def drawn_by(model: Model, project: Project, seeds: Sequence[int]) -> dict[str, list[Any]]:
    """Pictures as conditions of samples that show a training: made of those kept aside, in turn."""
    out: dict[str, list[Any]] = {}
    if LOW in model.encoders:
        encoder = model.encoder(LOW)
        assert isinstance(encoder, LowResolution)
        small = encoder.small(project.some(len(seeds), held=True))
        out[LOW] = [lowered(encoder, small[i % len(small)], seed) for i, seed in enumerate(seeds)]
    return out
