"""Sample: what was drawn, its seed and its whole recipe; it saves itself, and shows itself in a notebook."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kakusan.app.draw import prompts
from kakusan.domains.domain import Domain, Record

__all__ = ["Sample", "titles"]


@dataclass
class Sample:
    """One sample: the record in its own units, the seed that makes it again and the whole recipe."""

    record: Record
    seed: int
    recipe: dict[str, Any]
    domain: Domain = field(repr=False)
    frames: list[np.ndarray] = field(default_factory=list, repr=False)  # the reverse process, when a film was asked for
    raw: torch.Tensor | None = field(default=None, repr=False)  # (C, *S) as the model left it, unclamped
    name: str = ""  # of its file, without ending; by its seed where there is none

    @property
    def data(self) -> np.ndarray:
        """The sample in its own units; a picture is (H, W, C)."""
        return self.record.data

    @property
    def shown(self) -> np.ndarray:
        """The sample as a picture to look at, (H, W, C) uint8 or uint16."""
        return self.domain.shown(self.record)

    @property
    def label(self) -> Any:
        """The class it was asked to be, if any."""
        return self.recipe.get("cond", {}).get("label")

    @property
    def caption(self) -> str:
        """What it was asked to be, in words, its class first; empty where nothing was asked."""
        cond = sorted(self.recipe.get("cond", {}).items(), key=lambda item: item[0] != "label")
        return ", ".join(
            str(prompts.recalled(v)) for name, v in cond if name != "augment" and v is not None and not _pictured(v)
        )

    def save(self, path: str | Path, recipe: bool = True) -> Path:
        """Write it losslessly, with its recipe inside unless ``recipe`` is False."""
        return self.domain.save(self.record, Path(path), self.recipe if recipe else None)

    def _repr_png_(self) -> bytes | None:
        from PIL import Image as Pil

        a = self.shown
        if a.ndim != 3 or a.shape[2] not in (1, 3, 4):
            return None
        if a.dtype == np.uint16:
            a = (a >> 8).astype(np.uint8)
        scale = max(1, 128 // max(a.shape[:2]))
        picture = Pil.fromarray(a[..., 0] if a.shape[2] == 1 else a)
        out = io.BytesIO()
        picture.resize((picture.width * scale, picture.height * scale), Pil.Resampling.NEAREST).save(out, "PNG")
        return out.getvalue()


def _pictured(value: Any) -> bool:
    return isinstance(value, dict) and "picture" in value


def titles(samples: Sequence[Sample]) -> list[str] | None:
    """What stands under samples: what each was asked to be; None where none was asked for anything."""
    words = [sample.caption for sample in samples]
    return words if any(words) else None
