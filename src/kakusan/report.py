"""The self-contained HTML page that training, evaluation and comparison fill.

No scripts, nothing loaded from elsewhere: plots are inline SVG, pictures embedded PNG, its look report.css.
"""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from kakusan.files import write_bytes
from kakusan.part import KakusanError

__all__ = ["Report", "Section", "Series", "number", "picture"]

Picture = np.ndarray | Image.Image | Path
WIDE = 870  # room inside a panel, in pixels
DOTS = 48  # points of a line that answer the mouse
POINTS = 400  # points of a line that are drawn
W, H, LEFT, RIGHT, TOP, BOTTOM = 720.0, 300.0, 58.0, 14.0, 12.0, 44.0


def number(value: Any) -> str:
    """A value as people read it: 12,345 · 0.0312 · 1.2e-05 · – for None; three digits below a thousand."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return str(value)
    if not math.isfinite(value):
        return str(float(value))
    if isinstance(value, (int, np.integer)) or abs(value) >= 1000:
        return f"{round(float(value)) if not isinstance(value, int) else value:,}"
    if value == 0:
        return "0"
    return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.3g}"


def picture(data: Picture) -> Image.Image:
    """Any picture, (H, W) or (H, W, C) or a file, as Pillow shows it: 16-bit by its high byte, 5 channels by 3."""
    if isinstance(data, Path):
        with Image.open(data) as file:
            file.load()
            return picture(file)
    if isinstance(data, Image.Image):
        if data.mode == "I;16":
            return picture(np.asarray(data, np.uint16))
        return data.convert("RGBA") if data.mode in ("P", "PA", "LA") else data
    a = np.asarray(data)
    if a.ndim == 3 and a.shape[2] == 1:
        a = a[:, :, 0]
    if a.ndim not in (2, 3) or 0 in a.shape:
        raise KakusanError(f"a picture has shape {a.shape}: pass (H, W) or (H, W, channels) with every size at least 1")
    if a.dtype == np.uint16:
        a = (a >> 8).astype(np.uint8)
    elif a.dtype == bool:
        a = a.astype(np.uint8) * 255
    elif a.dtype != np.uint8:
        raise KakusanError(f"a picture holds {a.dtype}: pass uint8 or uint16 (the domain's records() makes them)")
    if a.ndim == 3 and a.shape[2] == 2:
        a = np.concatenate([a[:, :, :1].repeat(3, 2), a[:, :, 1:]], 2)
    if a.ndim == 3 and a.shape[2] > 4:
        a = a[:, :, :3]
    return Image.fromarray(np.ascontiguousarray(a))


@dataclass(frozen=True)
class Series:
    """One line of a plot; points that are not finite (or not positive on a log axis) leave a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False
    dots: bool = False
    smooth: bool = False  # a running mean, with the values themselves faint behind it


def plain(value: Any) -> str:
    """Escaped text, for attributes and SVG; control characters are dropped."""
    clean = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", "", str(value))
    return html.escape(clean, quote=True)


def text(value: Any) -> str:
    """Escaped text in which `words between backticks` are set as code."""
    return re.sub(r"`([^`\n]+)`", r"<code>\1</code>", plain(value))


class Section:
    """One part of a page; every method appends something and returns the section, so calls chain."""

    def __init__(self, title: str = "", intro: str = "") -> None:
        self.title = title
        self.parts: list[str] = [f'<p class="intro">{text(intro)}</p>'] if intro else []

    def add(self, markup: str) -> Self:
        """Append trusted markup (made by this module)."""
        self.parts.append(markup)
        return self

    def text(self, words: str) -> Self:
        """Paragraphs, separated by empty lines."""
        return self.add("".join(f"<p>{text(p)}</p>" for p in str(words).split("\n\n") if p.strip()))

    def figures(self, figures: Mapping[str, Any] | Iterable[Sequence[Any]]) -> Self:
        """Cards of key figures: {label: value}, or (label, value, note) each."""
        rows = figures.items() if isinstance(figures, Mapping) else figures
        cards = []
        for label, value, *note in rows:
            extra = f'<div class="sub">{text(note[0])}</div>' if note and note[0] else ""
            cards.append(f"<div><dt>{text(label)}</dt><dd>{text(number(value))}{extra}</dd></div>")
        return self.add(f'<dl class="cards">{"".join(cards)}</dl>')

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> Self:
        """A table; columns of numbers are aligned right."""
        body = [list(row) for row in rows]
        for row in body:
            if len(row) != len(columns):
                raise KakusanError(
                    f"table row {row!r} has {len(row)} cells for {len(columns)} columns {list(columns)!r}"
                )
        numeric = [bool(body) and all(_numeric(row[i]) for row in body) for i in range(len(columns))]
        cls = [' class="num"' if n else "" for n in numeric]
        head = "".join(f'<th scope="col"{c}>{text(name)}</th>' for name, c in zip(columns, cls))
        lines = ("".join(f"<td{c}>{text(number(v))}</td>" for v, c in zip(row, cls)) for row in body)
        inner = "".join(f"<tr>{line}</tr>" for line in lines)
        title = f"<caption>{text(caption)}</caption>" if caption else ""
        table = f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{inner}</tbody></table>"
        return self.add(f'<div class="scroll">{table}</div>')

    def plot(
        self,
        series: Sequence[Series] | Mapping[str, tuple[Sequence[float], Sequence[float]]],
        title: str,
        x: str = "",
        y: str = "",
        log_x: bool = False,
        log_y: bool = False,
        marks: Sequence[tuple[float, str]] = (),
        note: str = "",
    ) -> Self:
        """A line plot: several series, axis names, log axes, vertical marks (x, words); values on hover."""
        lines = [Series(n, *xy) for n, xy in series.items()] if isinstance(series, Mapping) else list(series)
        return self.add(_plot(lines, title, x, y, log_x, log_y, marks, note))

    def pictures(
        self,
        pictures: Sequence[Picture],
        labels: Sequence[str] | None = None,
        caption: str = "",
        alt: str = "",
        scale: int | None = None,
    ) -> Self:
        """Pictures side by side; small ones enlarged by whole pixels, a checkerboard behind transparency."""
        return self.add(_figure(_images(pictures, labels, alt or caption, scale, (112, 416)), caption, "pictures"))

    def strip(
        self,
        frames: Sequence[Picture],
        labels: Sequence[str] | None = None,
        caption: str = "",
        scale: int | None = None,
    ) -> Self:
        """A film strip, read from left to right: one process at several times."""
        return self.add(_figure(_images(frames, labels, caption, scale, (48, 200)), caption, "pictures film"))

    def note(self, words: str, kind: str = "note", title: str = "", fix: str = "") -> Self:
        """A remark that stands out; ``kind``: note, good, warning or problem. ``fix`` says what to do."""
        if kind not in _KINDS:
            raise KakusanError(f"kind of note is {kind!r}: use one of {', '.join(_KINDS)}")
        more = f'<div class="fix">→ {text(fix)}</div>' if fix else ""
        name = text(title or _KINDS[kind])
        role = ' role="alert"' if kind == "problem" else ' role="note"'
        return self.add(f'<aside class="{kind}"{role}><strong>{name}</strong> {text(words)}{more}</aside>')

    def details(self, summary: str, content: str | Mapping[str, Any]) -> Self:
        """Something long that opens on demand: text as it stands, or names and values."""
        if isinstance(content, Mapping):
            rows = "".join(
                f'<tr><th scope="row">{text(k)}</th><td>{text(number(v))}</td></tr>' for k, v in content.items()
            )
            inner = f'<div class="scroll"><table class="plain"><tbody>{rows}</tbody></table></div>'
        else:
            inner = f"<pre>{plain(content)}</pre>"
        return self.add(f"<details><summary>{text(summary)}</summary>{inner}</details>")


def _numeric(value: Any) -> bool:
    return isinstance(value, (int, float, type(None), np.number)) and not isinstance(value, bool)


_KINDS = {"note": "Note.", "good": "Good.", "warning": "Warning.", "problem": "Problem."}


class Report:
    """A page: ``top`` stands under the title, and ``section()`` adds what follows, in order."""

    def __init__(self, title: str, subtitle: str = "", footer: str = "Made by kakusan.") -> None:
        self.title, self.subtitle, self.footer = title, subtitle, footer
        self.top = Section()
        self.sections: list[Section] = []

    def section(self, title: str, intro: str = "") -> Section:
        """A new section, to be filled."""
        self.sections.append(Section(title, intro))
        return self.sections[-1]

    def html(self) -> str:
        """The whole page as one string."""
        links = "".join(f'<a href="#s{i}">{text(s.title)}</a>' for i, s in enumerate(self.sections, 1))
        nav = f'<nav aria-label="Contents">{links}</nav>' if len(self.sections) > 2 else ""
        body = "".join(
            f'<section id="s{i}" aria-labelledby="h{i}"><h2 id="h{i}">{text(s.title)}</h2>{"".join(s.parts)}</section>'
            for i, s in enumerate(self.sections, 1)
        )
        sub = f'<p class="subtitle">{text(self.subtitle)}</p>' if self.subtitle else ""
        css = Path(__file__).with_suffix(".css").read_text("utf-8")
        csp = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{csp}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            f"<title>{plain(self.title)}</title><style>{css}</style></head>"
            f"<body><header>{_motif()}<h1>{text(self.title)}</h1>{sub}{nav}</header><main>"
            f"<section>{''.join(self.top.parts)}</section>{body}</main>"
            f"<footer>{text(self.footer)}</footer></body></html>\n"
        )

    def save(self, path: str | Path) -> Path:
        """Write the page in one move: a reader sees the old page or the new one, never half of one."""
        return write_bytes(path, self.html().encode(), lasting=True)


# pictures


def _uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=image.width * image.height < 1 << 18)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _images(
    pictures: Sequence[Picture],
    labels: Sequence[str] | None,
    what: str,
    scale: int | None,
    room: tuple[int, int],
) -> str:
    """Figures of all pictures; without ``scale``, enlarged as the panel allows (``room``: least and most)."""
    if labels is not None and len(labels) != len(pictures):
        raise KakusanError(f"{len(labels)} labels for {len(pictures)} pictures: one each is needed")
    target = min(max(WIDE / max(len(pictures), 1) - 14, room[0]), room[1])
    out = []
    for i, data in enumerate(pictures):
        image = picture(data)
        times = scale or max(1, int(target / max(image.size) + 0.25))
        label = labels[i] if labels is not None else ""
        alt = " – ".join(s for s in (what, label or (f"picture {i + 1} of {len(pictures)}")) if s)
        classes = " ".join((["px"] if times > 1 else []) + (["alpha"] if "A" in image.mode else []))
        size = f'width="{image.width * times}" height="{image.height * times}"'
        tag = f'<img class="{classes}" {size} alt="{plain(alt)}" src="{_uri(image)}">'
        under = f"<figcaption>{text(label)}</figcaption>" if label else ""
        out.append(f"<figure>{tag}{under}</figure>")
    return "".join(out) or '<p class="sub">No pictures yet.</p>'


def _figure(inner: str, caption: str, classes: str) -> str:
    under = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    focus = ' tabindex="0"' if "film" in classes else ""
    return f'<figure class="panel"><div class="{classes}"{focus}>{inner}</div>{under}</figure>'


def _motif() -> str:
    """The heading's ornament: a disc that appears out of noise in five small frames."""
    rng = np.random.default_rng(7)
    grid = np.mgrid[-4.5:5.5, -4.5:5.5]
    disc = 255 / (1 + np.exp(3.0 * (np.hypot(*grid) - 3.4)))
    noise = rng.uniform(0, 255, (5, 10, 10))
    frames = [noise[i] * (1 - a) + disc * a for i, a in enumerate((0.0, 0.3, 0.6, 0.85, 1.0))]
    row = np.concatenate([np.pad(f, ((0, 0), (0, 2))) for f in frames], 1).astype(np.uint8)
    ink = np.stack([np.full_like(row, v) for v in (0x5B, 0x7C, 0xC4)] + [row], 2)
    source = _uri(Image.fromarray(ink))
    return f'<img class="motif px" width="{ink.shape[1] * 4}" height="40" alt="" src="{source}">'


# plots


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """About six round values inside [low, high]; on a log axis powers of ten, with 2 and 5 if few."""
    values: list[float] = []
    if log:
        a, b = math.floor(math.log10(low)), math.ceil(math.log10(high))
        step = max(1, math.ceil((b - a) / 8))
        factors = (1, 2, 5) if b - a <= 2 else (1,)
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
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if top >= 5 * size and abs(value) >= size / 10:
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


def _prepare(s: Series, log_x: bool, log_y: bool) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(s.x, float).ravel(), np.asarray(s.y, float).ravel()
    if len(x) != len(y):
        raise KakusanError(f"series {s.name!r} has {len(x)} x values and {len(y)} y values: one each is needed")
    bad = ~np.isfinite(x) | ~np.isfinite(y) | (log_x & (x <= 0)) | (log_y & (y <= 0))
    return _thin(x[np.isfinite(x)], np.where(bad, np.nan, y)[np.isfinite(x)])


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


def _plot(lines: list[Series], title: str, x: str, y: str, log_x: bool, log_y: bool, marks: Any, note: str) -> str:
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
    parts += [_curve(s, i, a, b, fx, fy) for i, s, a, b in drawn]
    said = [
        f"{s.name}: {number(float(b[np.isfinite(b)][0]))} to {number(float(b[np.isfinite(b)][-1]))}"
        for _, s, a, b in drawn
    ]
    alt = plain(f"Line plot: {title}. {y or 'values'} against {x or 'index'}. " + "; ".join(said))
    keys = [
        f'<span class="key c{i % 6}{" dash" if s.dashed or i >= 6 else ""}">{text(s.name)}</span>' for i, s, *_ in drawn
    ]
    legend = f'<div class="legend">{"".join(keys)}</div>' if len(keys) > 1 else ""
    lost = sum(int((~np.isfinite(d[3])).sum()) for d in data)
    notes = " ".join(
        [note] * bool(note) + ([f"Left out: {lost} values that are not finite or off a log axis."] if lost else [])
    )
    under = f'<p class="sub">{text(notes)}</p>' if notes else ""
    svg = f'<svg viewBox="0 0 {W:g} {H:g}" role="img" aria-label="{alt}">{"".join(parts)}</svg>'
    return f'<figure class="panel">{head}{legend}{svg}{under}</figure>'
