"""The self-contained HTML page that training, evaluation and comparison fill.

No scripts, nothing loaded from elsewhere: plots are inline SVG, pictures embedded PNG, its look report.css.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from kakusan.files import write_bytes
from kakusan.markup import number, plain, text
from kakusan.part import KakusanError
from kakusan.plot import Series, plotted

__all__ = ["Report", "Section", "Series", "number", "picture"]

Picture = np.ndarray | Image.Image | Path
WIDE = 870  # room inside a panel, in pixels


def picture(data: Picture) -> Image.Image:
    """Any picture, (H, W) or (H, W, C) or a file, as Pillow shows it: 16-bit by its high byte, 5 channels by 3."""
    if isinstance(data, Path):
        with Image.open(data) as file:
            file.load()
            return picture(file)
    if isinstance(data, Image.Image):
        if data.mode == "I;16":
            return picture(np.asarray(data, np.uint16))
        if data.mode in ("P", "PA", "LA"):
            return data.convert("RGBA")
        return data if data.mode in ("1", "L", "RGB", "RGBA") else data.convert("RGB")
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
        return self.add(plotted(lines, title, x, y, log_x, log_y, marks, note))

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
