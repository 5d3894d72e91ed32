"""Pictures as conditions of a training: which encoders the [data] section asks for, and what samples are drawn by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kakusan.app.draw.given import Given
from kakusan.app.train import styled
from kakusan.conditions.spatial import LowResolution, Map, Mask, Source
from kakusan.conditions.strokes import edges
from kakusan.core.model import Model
from kakusan.core.rng import Rng
from kakusan.domains.canvas import open_canvas
from kakusan.domains.domain import Record
from kakusan.domains.image import Image
from kakusan.part import KakusanError, Spec
from kakusan.training.maps import MAP, Maps
from kakusan.training.pairs import SOURCE, Sources
from kakusan.training.references import STYLE

if TYPE_CHECKING:
    from kakusan.app.draw.loaded import Loaded
    from kakusan.app.train.project import Project

__all__ = ["EDGES", "LOW", "MASK", "crop", "drawn_by", "lowered", "mapped", "maps_of", "settled", "size", "specs"]

LOW = "low"  # the condition of models that enlarge pictures
MASK = "mask"  # of models that fill holes
PIECE = 64  # pixels a side of the pieces that those learn from
LARGEST = 256  # pixels a side that they are trained for unless a size is asked for
FACTORS = (2, 4, 8)
EDGES = "edges"  # of --control: maps made of the pictures themselves

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

Tree = dict[str, Any]


def settled(chosen: Tree) -> Tree:
    """The [data] section with what a kind of training decides: who enlarges pictures needs no classes and no words."""
    factor = chosen["upscale"]
    chosen = styled.settled(chosen)
    if chosen["pairs"] is not None:
        return _paired(chosen)
    if isinstance(chosen["held_out"], str):
        raise KakusanError(f"data.held_out={chosen['held_out']}: a share of the pictures; a list goes with --pairs")
    if chosen["control"] is not None and (factor is not None or chosen["augment"]):
        other = f"--upscale {factor}" if factor is not None else "data.augment=true"
        raise KakusanError(f"--control {chosen['control']} and {other} do not go together; leave one out")
    if factor is None:
        if chosen["control"] is not None:
            chosen = chosen | {"augment": False}
        if chosen["crop"] is not None:
            raise KakusanError(f"data.crop={chosen['crop']}: pieces teach what enlarges pictures; add --upscale 4")
        return chosen
    if chosen["masks"]:
        raise KakusanError(f"--masks and --upscale {factor}: a model fills holes or enlarges; give one of the two")
    if isinstance(factor, bool) or factor not in FACTORS:
        raise KakusanError(f"--upscale {factor}: choose one of {', '.join(map(str, FACTORS))}")
    augment = False if chosen["augment"] is None else chosen["augment"]
    return chosen | {"labels": "none", "captions": "none", "fields": None, "augment": augment}


def _paired(chosen: Tree) -> Tree:
    """The same where pictures are changed by instructions: their texts are all that goes with them."""
    said = f"--pairs {chosen['pairs']}"
    apart = {"upscale": "--upscale", "masks": "--masks", "control": "--control", "fields": "data.fields"}
    for name, flag in (apart | {"crop": "data.crop", "augment": "data.augment"}).items():
        if chosen[name]:
            raise KakusanError(f"{said} and {flag} do not go together; leave one out")
    if chosen["labels"] not in ("auto", "none") or chosen["captions"] == "none":
        raise KakusanError(f"{said}: the pairs' texts are all that is read; leave --labels and --captions out")
    return chosen | {"labels": "none", "augment": False}


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


def specs(chosen: Tree, domain: Image, maps: Maps | Sources | None, channels: int) -> dict[str, Spec]:
    """The encoders of pictures that a training asks for, by name; ``channels`` are those of what is diffused."""
    out: dict[str, Spec] = {}
    if chosen["pairs"] is not None:
        out[SOURCE] = {"kind": Source.kind, "channels": channels}
    if chosen["upscale"]:
        out[LOW] = {
            "kind": LowResolution.kind,
            "channels": domain.channels,
            "factor": int(chosen["upscale"]),
            "dim": 32,
        }
    if chosen["masks"]:
        out[MASK] = {"kind": Mask.kind, "channels": channels}
    if chosen["control"] is not None:
        out[MAP] = {"kind": Map.kind, "mode": "L" if maps is None else maps.domain.mode, "edges": maps is None}
    if chosen["style_image"] is not None:
        out[STYLE] = styled.spec(domain)
    return out


def mapped(loaded: Loaded, path: Path, size: tuple[int, ...] | None = None) -> Given:
    """A map in a file as a condition, fitted to the samples' size."""
    encoder = loaded.model.encoder(MAP) if MAP in loaded.model.encoders else None
    if not isinstance(encoder, Map) or not isinstance(loaded.domain, Image):
        raise KakusanError(f"--control {path}: this model was not trained with --control; sample it without")
    canvas = open_canvas(path)
    sides = [int(n) for n in size or loaded.domain.size]
    eye = Image(sides, encoder.mode, 8 * canvas.pixels.dtype.itemsize, loaded.domain.how)
    source = {"picture": str(path), "sha256": canvas.sha256}
    return Given(eye.tensor(Record(canvas.pixels, {"name": path.name})), source)


def maps_of(loaded: Loaded, path: Path, size: tuple[int, ...] | None = None) -> Given | list[Given]:
    """The map in a file, or all maps of a folder in the order of their names."""
    if not path.is_dir():
        return mapped(loaded, path, size)
    files = sorted(p for p in path.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES)
    if not files:
        raise KakusanError(f"--control {path}: holds no pictures ({', '.join(SUFFIXES)})")
    return [mapped(loaded, p, size) for p in files]


def lowered(encoder: LowResolution, low: torch.Tensor, seed: int, level: float | None = None) -> Given:
    """A small picture (C, h, w) as the condition of the sample with this seed: under that much noise of its own."""
    level = encoder.level if level is None else level
    return Given((encoder.noised(low[None], torch.tensor([level]), Rng([seed]))[0], level))


def drawn_by(model: Model, project: Project, seeds: Sequence[int]) -> dict[str, list[Any]]:
    """Pictures as conditions of samples that show a training: made of those kept aside, in turn."""
    out: dict[str, list[Any]] = {}
    encoder = model.encoder(MAP) if MAP in model.encoders else None
    if isinstance(encoder, Map):
        part = project.train if project.held is None else project.held
        rows = np.arange(min(len(seeds), len(part)))
        found = edges(project.domain.floats(part.rows(rows))) if part.maps is None else part.maps.inputs(rows)["map"]
        out[MAP] = [Given(found[i % len(found)]) for i in range(len(seeds))]
    if SOURCE in model.encoders and isinstance(project.shown.maps, Sources):
        pictures = project.shown.maps.inputs(project.captioned(len(seeds)))["picture"]
        out[SOURCE] = [Given(picture) for picture in pictures]
    if STYLE in model.encoders:
        out[STYLE] = styled.drawn_by(project, seeds)
    if LOW in model.encoders:
        encoder = model.encoder(LOW)
        assert isinstance(encoder, LowResolution)
        small = encoder.small(project.some(len(seeds), held=True))
        out[LOW] = [lowered(encoder, small[i % len(small)], seed) for i, seed in enumerate(seeds)]
    return out
