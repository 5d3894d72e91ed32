"""Line plots as inline SVG, with values under the mouse and words for readers who do not see them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kakusan.markup import number, plain, text
from kakusan.part import KakusanError

__all__ = ["Series", "plotted"]

DOTS = 48  # points of a line that answer the mouse
POINTS = 400  # points of a line that are drawn
W, H, LEFT, RIGHT, TOP, BOTTOM = 720.0, 300.0, 58.0, 14.0, 12.0, 44.0


@dataclass(frozen=True)
class Series:
    """One line of a plot; points that are not finite (or not positive on a log axis) leave a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False
    dots: bool = False
    smooth: bool = False  # a running mean, with the values themselves faint behind it


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """About six round values inside [low, high]; on a log axis powers of ten, with 2 and 5 if few."""
    values: list[float] = []
    if log:
        a, b = math.floor(math.log10(low)), math.ceil(math.log10(high))
        step = max(1, math.ceil((b - a) / 8))
        factors = (1, 2, 5) if high / low < 1000 else (1,)
        values = [f * 10.0**e for e in range(a, b + 1, step) for f in factors]
        values = [v for v in values if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]
    if not log or len(values) < 3:
        raw = (high - low) / 5
        size = 10.0 ** math.floor(math.log10(raw))
        step_ = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw * 0.999)
        first = math.ceil(low / step_ - 1e-9)
        values = [round(i * step_, 12) for i in range(first, math.floor(high / step_ + 1e-9) + 1)]
    return values


def _tick(value: float, ticks: Sequence[float]) -> str:
    """A tick's words beside its neighbours': 0.5, 2.5k, 1e-5."""
    top = max(abs(v) for v in ticks)
    if value and (abs(value) < 1e-3 or top >= 1e9):
        digits, exponent = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if top >= 5000 and abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _range(values: np.ndarray, log: bool) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if log:
        return (low / 1.5, high * 1.5) if high / low < 1.05 else (low, high)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-12):
        pad = abs(high) * 0.1 or 1.0
        return low - pad, high + pad
    return low, high


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most POINTS points that keep the outline: the lowest and highest of each stretch; gaps stay gaps."""
    if len(x) <= POINTS:
        return x, y
    keep: list[int] = [0, len(x) - 1]
    for part in np.array_split(np.arange(len(x)), POINTS // 2):
        seen = part[np.isfinite(y[part])]
        keep += [int(seen[y[seen].argmin()]), int(seen[y[seen].argmax()])] if len(seen) else [int(part[0])]
    order = np.unique(keep)
    return x[order], y[order]


def _prepare(s: Series, log_x: bool, log_y: bool) -> tuple[np.ndarray, np.ndarray, int]:
    """The points to draw (gaps are not finite), and how many values fall into gaps."""
    x, y = np.asarray(s.x, float).ravel(), np.asarray(s.y, float).ravel()
    if len(x) != len(y):
        raise KakusanError(f"series {s.name!r} has {len(x)} x values and {len(y)} y values: one each is needed")
    bad = ~np.isfinite(x) | ~np.isfinite(y) | (log_x & (x <= 0)) | (log_y & (y <= 0))
    return *_thin(x[np.isfinite(x)], np.where(bad, np.nan, y)[np.isfinite(x)]), int(bad.sum())


def _axes(xr: tuple[float, float], yr: tuple[float, float], log_x: bool, log_y: bool) -> tuple[Any, Any]:
    def axis(span: tuple[float, float], log: bool, a: float, b: float) -> Any:
        f = np.log10 if log else (lambda v: np.asarray(v, float))
        low, high = float(f(span[0])), float(f(span[1]))
        return lambda v: a + (b - a) * (f(v) - low) / (high - low)

    return axis(xr, log_x, LEFT, W - RIGHT), axis(yr, log_y, H - BOTTOM, TOP)


def _frame(fx: Any, fy: Any, xr: Any, yr: Any, x: str, y: str, log_x: bool, log_y: bool) -> list[str]:
    """Grid lines, tick labels and axis names."""
    out = []
    ticks_x, ticks_y = _ticks(*xr, log_x), _ticks(*yr, log_y)
    for v in ticks_y:
        p = float(fy(v))
        out.append(f'<line class="grid" x1="{LEFT:g}" x2="{W - RIGHT:g}" y1="{p:.1f}" y2="{p:.1f}"/>')
        out.append(f'<text x="{LEFT - 8:g}" y="{p + 4:.1f}" text-anchor="end">{_tick(v, ticks_y)}</text>')
    for v in ticks_x:
        p = float(fx(v))
        out.append(f'<line class="tick" x1="{p:.1f}" x2="{p:.1f}" y1="{H - BOTTOM:g}" y2="{H - BOTTOM + 5:g}"/>')
        out.append(f'<text x="{p:.1f}" y="{H - BOTTOM + 19:g}" text-anchor="middle">{_tick(v, ticks_x)}</text>')
    out.append(f'<line class="axis" x1="{LEFT:g}" x2="{W - RIGHT:g}" y1="{H - BOTTOM:g}" y2="{H - BOTTOM:g}"/>')
    across, down = (LEFT + W - RIGHT) / 2, (TOP + H - BOTTOM) / 2
    name = 'class="name" text-anchor="middle"'
    out.append(f'<text {name} x="{across:g}" y="{H - 4:g}">{plain(x)}</text>')
    out.append(f'<text {name} transform="translate(14 {down:g}) rotate(-90)">{plain(y)}</text>')
    return out


def _curve(s: Series, i: int, x: np.ndarray, y: np.ndarray, fx: Any, fy: Any) -> str:
    """One series: its line, broken at gaps, and the spots that name their values under the mouse."""
    ok = np.isfinite(y)
    with np.errstate(invalid="ignore"):
        px, py = np.asarray(fx(np.where(ok, x, x[ok][0]))), np.asarray(fy(np.where(ok, y, y[ok][0])))
    seen = np.flatnonzero(ok)
    spots = seen[np.unique(np.linspace(0, len(seen) - 1, min(DOTS, len(seen))).round().astype(int))]
    show = " dot" if s.dots or len(seen) == 1 else ""
    hover = "".join(
        f'<circle class="hit{show}" cx="{px[j]:.1f}" cy="{py[j]:.1f}" r="4">'
        f"<title>{plain(s.name)}: {number(float(y[j]))} at {number(float(x[j]))}</title></circle>"
        for j in spots
    )
    dash = ' stroke-dasharray="6 4"' if s.dashed or i >= 6 else ""
    mean = f'<path class="raw" d="{_path(px, py, ok)}"/>' if s.smooth else ""
    line = _path(px, _running(py, ok) if s.smooth else py, ok)
    return f'<g class="c{i % 6}">{mean}<path d="{line}"{dash}/>{hover}</g>'


def _path(px: np.ndarray, py: np.ndarray, ok: np.ndarray) -> str:
    path, pen = [], "M"
    for a, b, good in zip(px, py, ok):
        path.append(f"{pen}{a:.1f} {b:.1f}" if good else "")
        pen = "L" if good else "M"
    return "".join(path)


def _running(values: np.ndarray, ok: np.ndarray) -> np.ndarray:
    """The mean over a window of a twentieth of the line around each point, in the plot's own scale."""
    half = max(1, len(values) // 40)
    total = np.cumsum(np.concatenate([[0.0], np.where(ok, values, 0.0)]))
    count = np.cumsum(np.concatenate([[0], ok]))
    reach = np.minimum(
        half, np.minimum(np.arange(len(values)), np.arange(len(values))[::-1])
    )  # symmetric at the ends too
    low, high = np.arange(len(values)) - reach, np.arange(len(values)) + reach + 1
    return (total[high] - total[low]) / np.maximum(count[high] - count[low], 1)


def plotted(
    lines: Sequence[Series],
    title: str,
    x: str,
    y: str,
    log_x: bool,
    log_y: bool,
    marks: Sequence[tuple[float, str]],
    note: str,
) -> str:
    """A figure of several series on one pair of axes, named ``x`` and ``y``, with vertical marks (x, words)."""
    data = [(i, s, *_prepare(s, log_x, log_y)) for i, s in enumerate(lines)]
    drawn = [d for d in data if np.isfinite(d[3]).any()]
    head = f'<figcaption class="title">{text(title)}</figcaption>'
    if not drawn:
        return f'<figure class="panel">{head}<p class="sub">Nothing to draw yet.</p></figure>'
    xs = np.concatenate([d[2][np.isfinite(d[3])] for d in drawn])
    ys = np.concatenate([d[3][np.isfinite(d[3])] for d in drawn])
    xr, yr = _range(xs, log_x), _range(ys, log_y)
    fx, fy = _axes(xr, yr, log_x, log_y)
    parts = _frame(fx, fy, xr, yr, x, y, log_x, log_y)
    for at, words in marks:
        if xr[0] <= at <= xr[1]:
            p, right = float(fx(at)), float(fx(at)) > W * 0.75
            parts.append(f'<line class="mark" x1="{p:.1f}" x2="{p:.1f}" y1="{TOP:g}" y2="{H - BOTTOM:g}"/>')
            anchor, by = ("end", p - 5) if right else ("start", p + 5)
            place = f'x="{by:.1f}" y="{TOP + 10:g}" text-anchor="{anchor}"'
            parts.append(f'<text class="marked" {place}>{plain(words)}</text>')
    parts += [_curve(s, i, a, b, fx, fy) for i, s, a, b, _ in drawn]
    said = [
        f"{s.name}: {number(float(b[np.isfinite(b)][0]))} to {number(float(b[np.isfinite(b)][-1]))}"
        for _, s, _, b, _ in drawn
    ]
    alt = plain(f"Line plot: {title}. {y or 'values'} against {x or 'index'}. " + "; ".join(said))
    keys = [
        f'<span class="key c{i % 6}{" dash" if s.dashed or i >= 6 else ""}">{text(s.name)}</span>' for i, s, *_ in drawn
    ]
    legend = f'<div class="legend">{"".join(keys)}</div>' if len(keys) > 1 else ""
    lost = sum(d[4] for d in data)
    notes = " ".join(
        [note] * bool(note) + ([f"Left out: {lost:,} values that are not finite or off a log axis."] if lost else [])
    )
    under = f'<p class="sub">{text(notes)}</p>' if notes else ""
    svg = f'<svg viewBox="0 0 {W:g} {H:g}" role="img" aria-label="{alt}">{"".join(parts)}</svg>'
    return f'<figure class="panel">{head}{legend}{svg}{under}</figure>'
