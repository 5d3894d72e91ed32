"""Styled: a picture to draw in the style of: what its training is told, and the file that a sample is drawn by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kakusan.app.command.show import Progress
from kakusan.app.draw.given import Given
from kakusan.conditions.picture import Picture
from kakusan.core.rng import Rng
from kakusan.domains.image import Image
from kakusan.domains.latent import seen
from kakusan.part import KakusanError, Spec
from kakusan.training.data import Dataset
from kakusan.training.references import STYLE, References
from kakusan.training.source import Source

if TYPE_CHECKING:
    from kakusan.app.draw.loaded import Loaded
    from kakusan.app.train.project import Project

__all__ = ["FOLDERS", "added", "drawn_by", "groups", "paired", "settled", "spec", "styled"]

FOLDERS = "label"  # of --style-image: the classes that folders (or a field of that name) are

Tree = dict[str, Any]


def settled(chosen: Tree) -> Tree:
    """The [data] section with the labels that tell styles apart."""
    field = chosen["style_image"]
    if field is None:
        return chosen
    for name, flag in (("pairs", "--pairs"), ("upscale", "--upscale")):
        if chosen[name] is not None:
            raise KakusanError(f"--style-image {field} and {flag} {chosen[name]} do not go together; leave one out")
    labels = "auto" if field == FOLDERS else field
    if chosen["labels"] not in ("auto", labels):
        raise KakusanError(
            f"--style-image {field} and --labels {chosen['labels']}: the style stands in the place of classes; leave "
            "--labels out"
        )
    return chosen | {"labels": labels}


def groups(source: Source, chosen: Tree) -> np.ndarray | None:
    """The style of each picture, (n,) int32, None without ``--style-image``; it is then no class of its own, since a
    class would say all that the reference is to say."""
    if chosen["style_image"] is None:
        return None
    found = source.labels
    if found is None:
        raise KakusanError(
            f"--style-image {chosen['style_image']}: the pictures have no such classes; put each style in a folder, or "
            "name a field of metadata.jsonl"
        )
    source.labels, source.classes = None, []
    return found


def paired(data: Dataset, styles: np.ndarray, chosen: Tree, domain: Image, progress: Progress) -> Dataset:
    """The data with references of the same style; ``styles`` (n,) of the data's rows."""
    found = References(data.pixels, np.arange(len(data)), styles, domain)
    if found.alone == len(data):
        raise KakusanError(
            f"--style-image {chosen['style_image']}: no two pictures are of one style, so none has a reference"
        )
    if found.alone:
        progress.note(f"{found.alone:,} pictures are the only one of their style and teach without a reference")
    return replace(data, references=found)


def spec(domain: Image) -> Spec:
    """The encoder: of pixels, whatever is diffused."""
    return {"kind": Picture.kind, "channels": domain.channels, "dim": 64}


def drawn_by(project: Project, seeds: Sequence[int]) -> list[Given | None]:
    """References for samples that show a training: of the pictures that their captions are of."""
    part = project.shown
    if part.references is None:
        return [None] * len(seeds)
    captioned = part.texts is not None and len(part.texts.captioned()) > 0
    rows = project.captioned(len(seeds)) if captioned else np.arange(len(seeds)) % len(part)
    inputs = part.references.inputs(rows, Rng(seeds))
    return [Given(p) if there else None for p, there in zip(inputs["picture"], inputs["given"], strict=True)]


def styled(loaded: Loaded, path: str | Path) -> Given:
    """A picture in a file as the condition, made fit as the pictures of the training were."""
    encoder = loaded.model.encoder(STYLE) if STYLE in loaded.model.encoders else None
    domain = seen(loaded.domain)
    if not isinstance(encoder, Picture) or not isinstance(domain, Image):
        raise KakusanError(
            f"--style-image {path}: this model was not trained with --style-image; sample it without, or train one: "
            "kakusan train PICTURES --style-image label"
        )
    file = Path(path)
    if not file.is_file():
        raise KakusanError(f"--style-image {file}: no such file; give a picture")
    data = file.read_bytes()
    picture = domain.floats(np.array(domain.pack(data, file.name))[None])[0]
    return Given(picture, {"picture": str(file), "sha256": hashlib.sha256(data).hexdigest()})


def added(
    loaded: Loaded, cond: Mapping[str, Any] | None, given: str | Path | Sequence[str | Path] | None
) -> dict[str, Any]:
    """Conditions with the picture to draw in the style of, or one a sample."""
    told = dict(cond or {})
    if given is None:
        return told
    one = isinstance(given, (str, Path))
    return told | {STYLE: styled(loaded, given) if one else [styled(loaded, each) for each in given]}
