"""Recolour: an icon in another colour than its own, as the measure of colours (iconset.colours) confirms."""

from __future__ import annotations

import re

import numpy as np

from iconset.captions import phrase
from iconset.colours import COLOURS, WORDS, hsv, shares

__all__ = ["TARGETS", "bare", "coloured", "dominant", "recoloured"]

TARGETS = {  # hue in turns, saturation, brightness: what the middle of the shifted colours becomes
    "red": (0.995, 0.80, 0.86),
    "orange": (0.075, 0.85, 0.96),
    "yellow": (0.140, 0.80, 0.97),
    "green": (0.340, 0.65, 0.68),
    "blue": (0.585, 0.75, 0.86),
    "purple": (0.750, 0.58, 0.75),
    "pink": (0.905, 0.48, 0.96),
    "brown": (0.065, 0.60, 0.50),
}
NEAR = 0.11  # turns of hue that count as one colour
PALE = 0.12  # chroma below which there is no hue
LEAST = 0.25  # of a picture that a colour has to be to be its own


def dominant(picture: np.ndarray) -> str | None:
    """The colour word of a picture (H, W, 4) uint8, None where none covers a quarter of it."""
    share = shares(picture)
    most = max(COLOURS, key=lambda colour: share[colour])
    return most if share[most] >= LEAST else None


def recoloured(picture: np.ndarray, colour: str) -> np.ndarray | None:
    """The picture (H, W, 4) uint8 with its dominant colour turned into another; shading and the rest stay.

    Hues move by turns around the dominant one, saturation and brightness by factors of their means; what has no hue
    (white, grey) is tinted. None where no colour dominates, or the result is not measured as that colour.
    """
    before = dominant(picture)
    if before is None or before == "black":
        return None
    if before == colour:
        return picture
    degrees, saturation, value = hsv(picture[..., :3] / 255)
    hue = degrees / 360
    chroma = saturation * value
    opaque = picture[..., 3] > 0
    if before in ("white", "grey"):
        moved = opaque & (chroma < PALE) & (value > 0.4)
        away = np.zeros_like(hue)
    else:
        centre = _centre(hue, chroma * picture[..., 3] * _like(hue, before))
        away = (hue - centre + 0.5) % 1 - 0.5
        moved = opaque & (chroma >= PALE) & (np.abs(away) <= NEAR)
    if not moved.any():
        return None
    h, s, v = TARGETS[colour]
    hue = np.where(moved, (h + 0.3 * away) % 1, hue)
    scale = s / max(float(saturation[moved].mean()), 1e-3)
    tinted = s if before in ("white", "grey") else np.clip(saturation * scale, 0, 1)
    saturation = np.where(moved, tinted, saturation)
    value = np.where(moved, np.clip(value * v / max(float(value[moved].mean()), 1e-3), 0, 1), value)
    out = picture.copy()
    out[..., :3] = np.rint(255 * _rgb(hue, saturation, value))
    return out if dominant(out) == colour else None


def bare(name: str) -> str:
    """A name without its colour words."""
    words = [w for w in name.split() if w.lower().strip(",") not in WORDS]
    return " ".join(words)


def coloured(name: str, colour: str) -> str:
    """A caption of a thing in a colour: "red apple", "green" -> "a green apple"."""
    return phrase(re.sub(r"\s+", " ", f"{colour} {bare(name)}").strip())


def _like(hue: np.ndarray, colour: str) -> np.ndarray:
    """Pixels within a quarter turn of a colour, so that a picture's smaller colours do not move the centre."""
    return np.abs((hue - TARGETS[colour][0] + 0.5) % 1 - 0.5) < NEAR


def _centre(hue: np.ndarray, weight: np.ndarray) -> float:
    """The mean of hues on their circle."""
    angle = 2 * np.pi * hue
    return float(np.arctan2((weight * np.sin(angle)).sum(), (weight * np.cos(angle)).sum()) / (2 * np.pi) % 1)


def _rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The way back."""
    parts = []
    for n in (5, 3, 1):
        k = (n + hue * 6) % 6
        parts.append(value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1))
    return np.stack(parts, -1)
