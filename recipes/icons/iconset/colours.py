"""Colours: which of eleven colour words a picture shows, and whether a caption's colour words are among them."""

from __future__ import annotations

import re

import numpy as np

__all__ = ["COLOURS", "mentioned", "shares", "shown"]

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")
WORDS = {colour: colour for colour in COLOURS}
WORDS |= {"gray": "grey", "silver": "grey", "golden": "yellow", "violet": "purple"}
_DRAWN = {"black": {"grey", "purple"}, "white": {"grey"}, "brown": {"red", "orange"}}
_HAIR = re.compile(r"\b(red|white|black|blond|brown|grey|gray)[- ]hair(ed)?\b")  # called so, not coloured so


def mentioned(text: str) -> set[str]:
    """The colours that a text names; those of hair are not counted."""
    words = re.findall(r"[a-z]+", _HAIR.sub("", text.lower()))
    return {WORDS[w] for w in words if w in WORDS}


def shown(share: dict[str, float], least: float = 0.03) -> set[str]:
    """The colours that a picture may be said to have: those of at least this share, and what artists draw so.

    A black cat is drawn grey or dark purple, a white cane light grey, a brown mushroom dark red.
    """
    found = {colour for colour in COLOURS if share[colour] >= least}
    return found | {said for said, drawn in _DRAWN.items() if found & drawn}


def shares(picture: np.ndarray) -> dict[str, float]:
    """Each colour's share of a picture (H, W, 4) uint8, weighted by opacity; they add up to 1 (0 if it is empty)."""
    weight = picture[..., 3].ravel() / 255
    index = _named(picture[..., :3].reshape(-1, 3) / 255)
    total = max(float(weight.sum()), 1e-9)
    counts = np.bincount(index, weight, len(COLOURS)) / total
    return dict(zip(COLOURS, counts.tolist(), strict=True))


def hsv(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue in degrees, saturation and value of colours (..., 3) in [0, 1]."""
    top, low = rgb.max(-1), rgb.min(-1)
    r, g, b = np.moveaxis(rgb, -1, 0)
    safe = np.maximum(top - low, 1e-9)
    hue = np.where(top == r, ((g - b) / safe) % 6, np.where(top == g, (b - r) / safe + 2, (r - g) / safe + 4)) * 60
    return hue, (top - low) / np.maximum(top, 1e-9), top


def _named(rgb: np.ndarray) -> np.ndarray:
    """(n, 3) colours in [0, 1] as indices of COLOURS, by hue, saturation and brightness."""
    hue, saturation, top = hsv(rgb)
    chroma = top - rgb.min(1)
    name = np.select(
        [hue < 14, hue < 36, hue < 68, hue < 170, hue < 245, hue < 295, hue < 338],
        [COLOURS.index(c) for c in ("red", "orange", "yellow", "green", "blue", "purple", "pink")],
        COLOURS.index("red"),
    )
    warm = (hue < 48) | (hue > 345)
    name[warm & (hue >= 8) & (hue <= 48) & (top < 0.72)] = COLOURS.index("brown")
    name[warm & ((hue < 8) | (hue > 345)) & (top < 0.72) & (saturation < 0.65)] = COLOURS.index("brown")
    name[((hue >= 338) | (hue < 14)) & (top > 0.85) & (saturation < 0.55)] = COLOURS.index("pink")
    name[(chroma < 0.12) | ((saturation < 0.14) & (top > 0.5))] = COLOURS.index("grey")
    name[(chroma < 0.12) & (top > 0.86)] = COLOURS.index("white")
    name[(top < 0.27) | ((top < 0.37) & (chroma < 0.13))] = COLOURS.index("black")
    return name
