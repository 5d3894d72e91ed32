"""Pictures for the page: excess against minutes as SVG, and the first samples of every system side by side."""

from __future__ import annotations

import html
import math
from pathlib import Path
from statistics import mean

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from quality.data import pictures
from quality.plan import SYSTEMS, Run
from quality.table import Line

__all__ = ["curves", "sheet"]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 340, 56, 150, 34, 44
COLOURS = dict(zip(SYSTEMS, ("#c2410c", "#e59866", "#2563a8", "#7ba7d6", "#5b7a3c")))


def curves(found: list[Line], data: str) -> str:
    """One data set as SVG: both axes logarithmic, a dot at the mean, a bar from the lowest to the highest seed."""
    chosen = [line for line in found if line.data == data]
    if not chosen:
        raise SystemExit(f"nothing of {data!r} is scored yet")
    positive = [max(1.0, e) for line in chosen for e in line.excess]
    low, high = min(positive) / 1.3, max(positive) * 1.3
    times = sorted({line.minutes for line in chosen})
    first, last = times[0] / 1.5, times[-1] * 1.5

    def across(minutes: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(minutes / first) / math.log(last / first)

    def down(excess: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * math.log(max(1.0, excess) / low) / math.log(high / low)

    ticks = [f * 10**e for e in range(5) for f in (1, 2, 5) if low <= f * 10**e <= high]
    edge = WIDTH - RIGHT
    parts = [f'<text x="{LEFT}" y="20" font-weight="bold">{html.escape(data)}: excess over the floor</text>']
    for t in ticks:
        parts.append(f'<path d="M{LEFT} {down(t):.1f}H{edge}" stroke="#8886" stroke-width="0.6"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{down(t) + 4:.1f}" text-anchor="end">{t:g}</text>')
    for t in times:
        parts.append(f'<text x="{across(t):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{t:g}</text>')
    parts.append(f'<text x="{(LEFT + edge) / 2:g}" y="{HEIGHT - 8}" text-anchor="middle">minutes of training</text>')
    systems = [s for s in SYSTEMS if any(line.system == s for line in chosen)]
    for i, system in enumerate(systems):
        own = sorted((line for line in chosen if line.system == system), key=lambda line: line.minutes)
        shift = 5 * (i - (len(systems) - 1) / 2)  # so that bars at the same minutes stand side by side
        spots = [(across(line.minutes) + shift, down(mean(line.excess)), line) for line in own]
        drawn = [f'<path d="M{" L".join(f"{x:.1f} {y:.1f}" for x, y, _ in spots)}"/>'] if len(spots) > 1 else []
        for x, y, line in spots:
            drawn.append(f'<path d="M{x:.1f} {down(min(line.excess)):.1f}V{down(max(line.excess)):.1f}"/>')
            drawn.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{COLOURS[system]}"/>')
        y = TOP + 10 + 20 * i
        drawn.append(f'<circle cx="{edge + 16}" cy="{y}" r="4" fill="{COLOURS[system]}"/>')
        parts.append(f'<g stroke="{COLOURS[system]}" stroke-width="1.6" fill="none">{"".join(drawn)}</g>')
        parts.append(f'<text x="{edge + 26}" y="{y + 4}">{system}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="#777">{"".join(parts)}</svg>\n'
    )


def sheet(out: Path, found: list[Line], data: str, minutes: float, columns: int = 12) -> Image.Image:
    """A row for each system: its first samples of seed 0 (classes in turn where it has them), none picked."""
    systems = [line.system for line in found if (line.data, line.minutes) == (data, minutes)]
    files = [(s, out / Run(s, data, minutes, 0).name / "samples.npz") for s in systems]
    rows = [(s, pictures(f)[:columns]) for s, f in files if f.is_file()]
    if not rows:
        raise SystemExit(f"no samples of {data} after {minutes:g} minutes with seed 0")
    side = max(56, rows[0][1].shape[1])
    page = Image.new("RGB", (150 + columns * (side + 4), len(rows) * (side + 4) + 4), "white")
    pen = ImageDraw.Draw(page)
    for r, (system, images) in enumerate(rows):
        top = 4 + r * (side + 4)
        pen.text((6, top + side // 2 - 8), system, fill="black", font=ImageFont.load_default(14))
        for c, image in enumerate(images):
            tile = _tile(image).resize((side, side), Image.Resampling.NEAREST)
            page.paste(tile, (150 + c * (side + 4), top))
    return page


def _tile(image: np.ndarray) -> Image.Image:
    if image.shape[2] == 1:
        return Image.fromarray(image[..., 0]).convert("RGB")
    tile = Image.fromarray(image)
    if tile.mode != "RGBA":
        return tile
    ground = Image.new("RGBA", tile.size, "white")
    return Image.alpha_composite(ground, tile).convert("RGB")
