"""Clean: is alpha clear or opaque almost everywhere, and are flat colours flat? Samples beside real icons."""

from __future__ import annotations

import numpy as np

from iconbench.bench import STYLES, Bench
from iconbench.kept import Row
from iconbench.styles import halves

__all__ = ["alpha_settled", "measure", "speckle", "table"]

NEAR = 2  # of 255: alpha this close to clear or opaque counts as such
OPAQUE = 255 - NEAR
LEVEL = 1.0  # of 255: a window whose colours' standard deviation is below it is flat
FEWEST = 50  # opaque windows of a picture that says something


def alpha_settled(pictures: np.ndarray) -> np.ndarray:
    """The share of each picture's pixels, (n, H, W, 4) uint8, whose alpha is within 2/255 of 0 or 1."""
    alpha = pictures[..., 3]
    return ((alpha <= NEAR) | (alpha >= OPAQUE)).mean((1, 2))


def speckle(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each picture, over windows of 3 x 3 opaque pixels: the median standard deviation of colour (in 255ths, mean
    over R, G and B), and the share of windows where it is below 1. NaN where there are fewer than 50 of them."""
    found = np.full((2, len(pictures)), np.nan)
    for i, picture in enumerate(pictures):
        windows = np.lib.stride_tricks.sliding_window_view(picture, (3, 3), (0, 1))  # (H - 2, W - 2, 4, 3, 3)
        opaque = windows[..., 3, :, :].min((2, 3)) >= OPAQUE
        if opaque.sum() >= FEWEST:
            each = windows[opaque][:, :3].astype(np.float32).std((2, 3)).mean(1)
            found[:, i] = np.median(each), (each < LEVEL).mean()
    return found[0], found[1]


def measure(bench: Bench) -> dict[str, Row]:
    """Two rows for each style: samples by its training captions, and those captions' own pictures."""
    kept = bench.kept("alpha", count=bench.count)
    for style in STYLES:
        rows, _ = halves(bench.rows("train", style), bench.count)  # the samples are those of the part "styles"
        kept.row(f"{style}, samples", lambda r=rows: _row(bench.draw(bench.captions(r))))
        kept.row(f"{style}, real", lambda r=rows: _row(bench.icons.pictures[r]))
        bench.tell(f"alpha: {style}: {kept.rows[f'{style}, samples']['settled']:.1%} of alpha is clear or opaque")
    return {name: kept.rows[name] for s in STYLES for name in (f"{s}, samples", f"{s}, real")}


def _row(pictures: np.ndarray) -> Row:
    settled, (median, flat) = alpha_settled(pictures), speckle(pictures)
    known = ~np.isnan(median)
    return {
        "n": len(pictures),
        "settled": float(settled.mean()),
        "variation": float(np.median(median[known])) if known.any() else None,
        "flat": float(flat[known].mean()) if known.any() else None,
    }


def table(rows: dict[str, Row]) -> str:
    lines = [
        "| style | | pictures | alpha clear or opaque | variation inside, of 255 | windows that are flat |",
        "|---|---|---|---|---|---|",
    ]
    for name, r in rows.items():
        style, kind = name.split(", ")
        inside = "-" if r["variation"] is None else f"{r['variation']:.2f}"
        flat = "-" if r["flat"] is None else f"{100 * r['flat']:.0f}%"
        lines.append(f"| {style} | {kind} | {r['n']} | {100 * r['settled']:.1f}% | {inside} | {flat} |")
    return "\n".join(lines)
