"""Bench: the model that is measured, its judge, the real icons with their features, and samples that are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from judging.icons import Icons, Prompt, opened
from judging.scoring import drawn
from judging.towers import Judge

from iconbench.kept import Kept
from kakusan.app.draw.loaded import Loaded
from kakusan.domains.latent import seen
from kakusan.evaluation.features import extractor, features_cached
from kakusan.files import replacing
from kakusan.training.cache import cache_root

__all__ = ["STYLES", "Bench", "spread"]

STYLES = ("noto", "3d", "flat", "modern")
AT_ONCE = 64  # samples between two saves; a multiple of the styles, which prompts without one take in turns


@dataclass
class Bench:
    """Everything that the parts share. ``settings``: guidance and steps; what is None is the model's own default."""

    model: Loaded
    judge: Judge
    about: dict[str, Any]  # what the judge's file says about it
    asked: dict[str, list[Prompt]]
    pictures: Path  # the folder that prepare.py made
    out: Path
    scratch: Path
    count: int
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    tell: Callable[[str], None] = print

    @property
    def hash(self) -> str:
        return str(self.model.info_.get("hash", ""))

    def kept(self, part: str, settings: bool = True, **asked: Any) -> Kept:
        """The rows of a part, for this model, judge and seed (and, unless False, these settings)."""
        asked |= {"model": self.hash, "judge": self.about, "seed": self.seed}
        return Kept(self.out / f"{part}.json", asked | (self.settings if settings else {}))

    @cached_property
    def icons(self) -> Icons:
        return opened(self.pictures, self.asked)

    def rows(self, split: str, style: str | None = None) -> np.ndarray:
        """Rows of the real icons of a split, and of a style."""
        lines = enumerate(self.icons.lines)
        return np.array([i for i, x in lines if x["split"] == split and style in (None, x["style"])])

    def captions(self, rows: Sequence[int]) -> list[Prompt]:
        """A caption of each picture, drawn by the picture's place in the set, in the picture's style."""
        found = []
        for row in rows:
            line = self.icons.lines[int(row)]
            draw = np.random.Generator(np.random.Philox(key=[self.seed, int(row)]))
            found.append(Prompt(str(draw.choice(line["text"])), line["code"], line["style"]))
        return found

    @cached_property
    def extract(self) -> Any:
        return extractor()

    @cached_property
    def train_features(self) -> np.ndarray:
        """Features of all training pictures, (rows of "train", D); computed once and kept in the cache."""
        return self.real_features(self.rows("train"))

    def real_features(self, rows: np.ndarray) -> np.ndarray:
        return features_cached(self.extract, self.icons.pictures[rows], cache_root() / "features")

    def draw(self, asked: Sequence[Prompt], **settings: Any) -> np.ndarray:
        """A sample of each prompt, (n, 64, 64, 4) uint8, sample i from seed + i; kept, so that a stop loses little."""
        settings = self.settings | settings
        words = json.dumps([self.hash, self.seed, settings, [(p.text, p.style) for p in asked]])
        folder = self.scratch / hashlib.sha256(words.encode()).hexdigest()[:24]
        folder.mkdir(parents=True, exist_ok=True)
        pieces = []
        for start in range(0, len(asked), AT_ONCE):
            file = folder / f"{start:06d}.npy"
            if not file.is_file():
                made = drawn(self.model, asked[start : start + AT_ONCE], 1, self.seed + start, **settings)
                with replacing(file) as temporary, temporary.open("wb") as stream:
                    np.save(stream, made)
            pieces.append(np.load(file))
        return np.concatenate(pieces)

    def floats(self, pictures: np.ndarray) -> Any:
        """Pictures as the model's domain has them, (n, C, H, W) in [-1, 1]."""
        return seen(self.model.domain).floats(pictures)  # type: ignore[attr-defined]


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """Up to ``count`` of the rows, spread evenly."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64))]
