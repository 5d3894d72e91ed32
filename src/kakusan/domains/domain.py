"""Domain and Record: what every kind of data has to say about itself."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import Tensor

from kakusan.core.rng import Rng
from kakusan.core.space import Space
from kakusan.part import Part

__all__ = ["Domain", "Record"]


@dataclass
class Record:
    """One datum in its own units: a picture as (H, W, C) uint8 or uint16, with what is known about it."""

    data: np.ndarray
    meta: dict[str, Any] = field(default_factory=dict)  # name, label, text, seed, recipe, ...


class Domain(Part, abc.ABC):
    """The adapter between files in their own units and the tensors that diffusion models see."""

    space: Space
    level: float | None = None  # mean of ln(sigma/alpha) to train at, where that does not follow from a picture's size

    @classmethod
    @abc.abstractmethod
    def fit(cls, records: Iterable[Record], **choices: Any) -> Self:
        """The domain that suits these records: sizes, channels, depth, sigma_data, read off the data."""

    @abc.abstractmethod
    def load(self, data: bytes, name: str) -> Record:
        """Decode one file's bytes (a zip member has no path); raises KakusanError with a reason on bad input."""

    @abc.abstractmethod
    def tensor(self, record: Record) -> Tensor:
        """The record as the model sees it, about [-1, 1]: (C, *S) float32."""

    @abc.abstractmethod
    def collate(self, xs: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Samples to a batch and the mask of its real positions (None when all are)."""

    @abc.abstractmethod
    def records(self, x: Tensor, mask: Tensor | None = None) -> list[Record]:
        """Model tensors back to records in the data's own units."""

    def encode(self, x: Tensor, mask: Tensor | None = None, rng: Rng | None = None) -> Tensor:
        """Data to the space that is diffused; identity unless latent."""
        return x

    def decode(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Back from the space that is diffused, differentiably; identity unless latent."""
        return z

    def shown(self, record: Record) -> np.ndarray:
        """The record as a picture to look at, (H, W, C) uint8 or uint16; what it holds unless a domain knows better."""
        return record.data

    def resized(self, size: tuple[int, ...]) -> Self:
        """The same kind of data at another size, where this domain has one to choose."""
        return self.replace(size=[int(n) for n in size]) if "size" in self.signature().parameters else self

    @abc.abstractmethod
    def save(self, record: Record, path: Path, recipe: Mapping[str, Any] | None = None) -> Path:
        """Write a record losslessly, with the recipe that made it inside; returns the path written."""

    @abc.abstractmethod
    def blank(self, count: int, **request: Any) -> list[tuple[int, ...]]:
        """The shapes of ``count`` samples to fill, each (C, *S)."""
