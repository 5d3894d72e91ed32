"""Paired: the data of a model that follows instructions, from lists of pairs to what is trained on and kept aside."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np

from kakusan.app.command.show import Progress
from kakusan.domains.image import Image
from kakusan.part import KakusanError
from kakusan.training.cache import Cache
from kakusan.training.data import Dataset
from kakusan.training.latents import Latents
from kakusan.training.pairs import Pairs, open_pairs
from kakusan.training.source import Source, open_source

__all__ = ["opened", "parts", "pinned"]

Tree = dict[str, Any]


def opened(chosen: Tree) -> tuple[Source, Pairs | None]:
    """The pictures that the [data] section names, and the pairs of them where those are what is trained on."""
    if chosen["pairs"] is None:
        return open_source(str(chosen["path"]), labels=str(chosen["labels"]), fields=chosen["fields"]), None
    held = chosen["held_out"]
    return open_pairs(str(chosen["path"]), [str(chosen["pairs"]), *(_lists(held) if isinstance(held, str) else [])])


def pinned(cache: Cache, pairs: Pairs) -> Cache:
    """The cache with a fingerprint that changes with the lists too."""
    return replace(cache, fingerprint=hashlib.sha256(f"{cache.fingerprint} {pairs.digest}".encode()).hexdigest())


def parts(
    pairs: Pairs, chosen: Tree, cache: Cache, domain: Image, latents: Latents | None, progress: Progress
) -> tuple[Dataset, Dataset | None]:
    """All pairs, or those of the first list and those of the others, which are to be kept aside."""
    placed = pairs.placed(cache)
    if len(placed) < len(pairs):
        progress.warn(f"{len(pairs) - len(placed):,} pairs are left out, since a picture of theirs is")
    data = Dataset.of_pairs(placed, cache, domain, latents)
    if not isinstance(chosen["held_out"], str):
        return data, None
    train, held = (data.subset(np.flatnonzero(at)) for at in (placed.of == 0, placed.of > 0))
    if not len(train) or not len(held):
        raise KakusanError(f"--pairs {chosen['pairs']} and data.held_out={chosen['held_out']}: one has no pair left")
    return train, held


def _lists(held: str) -> list[str]:
    return [name.strip() for name in held.split(",") if name.strip()]
