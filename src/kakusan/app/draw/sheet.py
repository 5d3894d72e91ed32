"""Sheets of pictures and films of the reverse process, as files that people look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, features

from kakusan.app.draw.lettering import font_for
from kakusan.files import replacing
from kakusan.part import KakusanError
from kakusan.report import picture

__all__ = ["checkerboard", "film", "grid", "save"]

Picture = np.ndarray | Image.Image
CELL = 128  # pictures smaller than half of this are enlarged by whole pixels
GAP = 2
INK = (40, 43, 50)


def grid(
    pictures: Sequence[Picture],
    columns: int | None = None,
    scale: int | None = None,
    labels: Sequence[str] | None = None,
) -> Image.Image:
    """Pictures in rows, as one; (H, W), (H, W, C) uint8 or uint16 each.

    Transparency is kept (gaps are transparent too), and 16-bit grey without labels stays 16-bit. Small pictures are
    enlarged by whole pixels unless ``scale`` says otherwise; ``labels`` stand under them, shortened to fit.
    """
    if not len(pictures):
        raise KakusanError("no pictures to lay out: pass at least one")
    if labels is not None and len(labels) != len(pictures):
        raise KakusanError(f"{len(labels)} labels for {len(pictures)} pictures: one each is needed")
    images = _alike(pictures, deep=labels is None)
    width, height = max(i.width for i in images), max(i.height for i in images)
    times = scale or max(1, CELL // max(width, height))
    columns = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    rows = math.ceil(len(images) / columns)
    font = font_for(labels or (), 12)
    under = 18 if labels is not None else 0
    w, h = width * times + GAP, height * times + GAP + under
    sheet = _blank(images[0].mode, (columns * w + GAP, rows * h + GAP))
    draw = ImageDraw.Draw(sheet)
    for i, image in enumerate(images):
        x, y = GAP + i % columns * w, GAP + i // columns * h
        big = (
            image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST) if times > 1 else image
        )
        left, top = x + (width * times - big.width) // 2, y + (height * times - big.height) // 2
        sheet.paste(big, (left, top))
        if labels is not None:
            ink: Any = INK[1] if sheet.mode == "L" else INK + (255,) * (sheet.mode == "RGBA")
            draw.text((x, y + height * times + 2), _fit(str(labels[i]), w - GAP, font), fill=ink, font=font)
    return sheet


def checkerboard(image: Image.Image, square: int = 8) -> Image.Image:
    """The picture without transparency, over a checkerboard: for previews and films."""
    if "A" not in image.mode:
        return image
    y, x = np.mgrid[: image.height, : image.width] // square
    squares = np.where((x + y) % 2, 204, 255).astype(np.uint8)
    base = Image.fromarray(squares).convert("RGBA")
    return Image.alpha_composite(base, image.convert("RGBA")).convert("RGB")


def film(frames: Sequence[Picture], path: str | Path, seconds: float = 3.0, hold: float = 2.0) -> Path:
    """An animation of the frames, endless, resting ``hold`` seconds on the last: the reverse process as it ran.

    ``path`` ends in .webp (the default when it has no ending: true colours, transparency, shown by every browser), .gif
    (256 colours) or .png (an APNG: lossless and large). Small frames are enlarged by whole pixels.
    """
    if not len(frames):
        raise KakusanError("no frames to animate: pass at least one")
    path = Path(path)
    path = path if path.suffix else path.with_suffix(".webp" if features.check("webp") else ".png")
    kinds = {".webp": "WEBP", ".gif": "GIF", ".png": "PNG", ".apng": "PNG"}
    if path.suffix.lower() not in kinds:
        raise KakusanError(f"film {path.name!r}: its ending should be one of {', '.join(kinds)}")
    images = _alike(frames, deep=False)
    if len({i.size for i in images}) > 1:
        raise KakusanError(f"frames have sizes {sorted({i.size for i in images})}: all must be the same")
    times = max(1, 2 * CELL // max(images[0].size))
    size = (images[0].width * times, images[0].height * times)
    images = [i.resize(size, Image.Resampling.NEAREST) if times > 1 else i for i in images]
    each = max(40, round(1000 * seconds / len(images)))
    format = kinds[path.suffix.lower()]
    options: dict[str, Any] = {"duration": [each] * (len(images) - 1) + [round(1000 * hold)], "loop": 0}
    options |= {"WEBP": {"quality": 80, "method": 3}, "GIF": {"disposal": 2}, "PNG": {}}[format]
    return save(images[0], path, format, save_all=True, append_images=_distinct(images[1:], format), **options)


def save(image: Image.Image, path: str | Path, format: str = "PNG", **options: Any) -> Path:
    """Write a picture in one move: whoever reads it sees all of it or nothing."""
    with replacing(path) as temporary:
        image.save(temporary, format, **options)
    return Path(path)


def _distinct(frames: list[Image.Image], format: str) -> list[Image.Image]:
    """GIF frames in 256 colours of their own; other formats need nothing."""
    return [
        f.convert("P", palette=Image.Palette.ADAPTIVE) if format == "GIF" and f.mode == "RGB" else f for f in frames
    ]


def _alike(pictures: Sequence[Picture], deep: bool) -> list[Image.Image]:
    """All in one mode: that of the richest; 16-bit only where all are grey and ``deep`` allows it."""
    arrays = [p for p in pictures if isinstance(p, np.ndarray) and p.dtype == np.uint16 and p.squeeze().ndim == 2]
    if deep and len(arrays) == len(pictures):
        return [Image.fromarray(np.ascontiguousarray(p.reshape(p.shape[:2]))) for p in arrays]
    images = [picture(p) for p in pictures]
    modes = {i.mode for i in images}
    mode = "RGBA" if modes & {"RGBA", "LA", "PA"} else "L" if modes <= {"L", "1"} else "RGB"
    return [i if i.mode == mode else i.convert(mode) for i in images]


def _blank(mode: str, size: tuple[int, int]) -> Image.Image:
    """White paper, or transparent."""
    empty: Any = {"I;16": 65535, "L": 255, "RGB": (255, 255, 255), "RGBA": (255, 255, 255, 0)}[mode]
    return Image.new(mode, size, empty)


def _fit(label: str, width: int, font: Any) -> str:
    """The label on one line, shortened with an ellipsis when it is too wide."""
    label = " ".join(label.split())
    if font.getlength(label) <= width:
        return label
    while label and font.getlength(label + "…") > width:
        label = label[:-1]
    return label.rstrip() + "…"
