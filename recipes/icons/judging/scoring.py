"""Scoring: where the true caption comes among all of its kind, for real icons and for a model's samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from judging.icons import Icons, Prompt, asked_picture
from judging.towers import Judge
from kakusan.app.draw.loaded import Loaded
from kakusan.conditions.prompt import escape
from kakusan.evaluation.labels import wilson

__all__ = ["drawn", "fitted", "own", "ranks", "told"]

SIDE = 64
STYLES = ("style", "label")  # names that the condition of style may have


def ranks(judge: Judge, pictures: np.ndarray, right: Sequence[int], asked: Sequence[Prompt]) -> np.ndarray:
    """The place of the true prompt among all, 0 = first; one of the same words is not counted against it."""
    texts = [p.text for p in asked]
    scores = judge.scores(torch.from_numpy(pictures), texts).numpy()
    mine = scores[np.arange(len(right)), list(right)][:, None]
    other = np.array([[text != texts[i] for text in texts] for i in right])
    return ((scores >= mine) & other).sum(1)


def told(places: np.ndarray) -> dict[str, Any]:
    """First and among the first five, with intervals."""
    found: dict[str, Any] = {"n": len(places)}
    for name, least in (("top1", 1), ("top5", 5)):
        hits = int((places < least).sum())
        found[name] = round(hits / max(1, len(places)), 4)
        found[f"{name}_interval"] = [round(x, 4) for x in wilson(hits, len(places))]
    return found


def own(judge: Judge, icons: Icons, asked: dict[str, list[Prompt]]) -> dict[str, Any]:
    """The judge's accuracy on real icons that it did not learn from, by kind of prompt; for colours on shifted ones."""
    found = {}
    for kind, some in asked.items():
        real = [(i, picture) for i, p in enumerate(some) if (picture := asked_picture(icons, p)) is not None]
        if real:
            places = ranks(judge, np.stack([p for _, p in real]), [i for i, _ in real], some)
            found[kind] = told(places)
    return found


def drawn(
    model: Loaded, asked: Sequence[Prompt], count: int, seed: int, language: str = "en", **settings: Any
) -> np.ndarray:
    """``count`` samples of each prompt in turn, (count * n, 64, 64, 4) uint8, asked for in a language and in the
    prompt's style (where it has none, in each of the model's styles in turn)."""
    name = next((n for n in STYLES if n in model.model.encoders), None)
    styles = list(getattr(model.model.encoder(name), "names", [])) if name else []
    repeated = [p for _ in range(count) for p in asked]
    cond: dict[str, Any] = {"prompt": [escape(p.asked(language)) for p in repeated]}
    if name and styles:
        cond[name] = [p.style if p.style in styles else styles[i % len(styles)] for i, p in enumerate(repeated)]
    samples = model.sample(len(repeated), cond=cond, seed=seed, **settings)
    return np.stack([fitted(sample.shown) for sample in samples])


def fitted(picture: np.ndarray) -> np.ndarray:
    """A sample as the judge sees pictures."""
    if picture.dtype != np.uint8:
        picture = (picture / 257).round().astype(np.uint8)
    im = Image.fromarray(picture.squeeze()).convert("RGBA")
    if im.size != (SIDE, SIDE):
        im = im.resize((SIDE, SIDE), Image.Resampling.BOX if im.width > SIDE else Image.Resampling.BICUBIC)
    return np.asarray(im)
