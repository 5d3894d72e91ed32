"""Draw the gallery: every prompt of gallery.toml once, with seed 0 and the model's own settings, none picked.

    python recipes/icons/gallery.py MODEL docs

writes docs/gallery.md, its sheets docs/pictures/gallery-*.png (1.5 MB at most together) and the README's grid
docs/pictures/icons.png (300 kB at most): of each section the first prompts, as many as its ``grid`` says.
"""

from __future__ import annotations

import argparse
import io
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kakusan.app.draw.loaded import Loaded, load
from kakusan.app.draw.sampler import settle
from kakusan.app.draw.sheet import checkerboard
from kakusan.conditions.prompt import escape
from kakusan.files import replacing
from kakusan.part import KakusanError

PROMPTS = Path(__file__).with_name("gallery.toml")
SHEETS, GRID = 1_500_000, 300_000  # bytes: all sheets together, the README's grid
COLUMNS, CELL, GAP = 5, 128, 12  # pictures in a row, pixels of one (by whole steps), between two
SIZE, LINE, MOST = 12, 15, 3  # pixels of a caption's letters, of its lines, lines at most
INK, PAPER = (40, 43, 50), (255, 255, 255)


@dataclass(frozen=True)
class Asked:
    """A prompt, its style ("" = none) and its section."""

    words: str
    style: str
    section: str

    @property
    def caption(self) -> str:
        return f"{self.words} ({self.style})" if self.style else self.words


def read(file: Path = PROMPTS) -> tuple[list[dict[str, Any]], list[Asked]]:
    """The sections, and all their prompts in order."""
    sections = tomllib.loads(file.read_text("utf-8"))["sections"]
    return sections, [Asked(p[0], p[1] if len(p) > 1 else "", s["slug"]) for s in sections for p in s["prompts"]]


def drawn(model: Loaded, asked: Sequence[Asked]) -> list[Image.Image]:
    """A picture of each, all with seed 0: what ``kakusan sample MODEL WORDS --style STYLE`` gives."""
    name = next((n for n in ("style", "label") if n in model.model.encoders), None)
    if "prompt" not in model.model.encoders or name is None:
        raise KakusanError(f"{model.path}: the gallery needs a model of words and styles; this has "
                           f"{', '.join(model.model.encoders) or 'no conditions'}")  # fmt: skip
    cond = {"prompt": [escape(a.words) for a in asked], name: [a.style or None for a in asked]}
    request = model.request(None, None, None, 0, cond, seeds=[0] * len(asked))
    for words in model.remarks(request):
        print(words, file=sys.stderr)
    return [Image.fromarray(np.squeeze(s.shown)) for s in model.draw(request)]


def lines_of(caption: str, width: int, font: Any) -> list[str]:
    """A caption in lines that fit; what does not fit into the last is cut, which an ellipsis says."""
    lines = [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    lines = [line for line in lines if line]
    if len(lines) > MOST:
        lines = [*lines[: MOST - 1], lines[MOST - 1] + "…"]
    return lines


def sheet(pictures: Sequence[Image.Image], captions: Sequence[str], columns: int = COLUMNS) -> Image.Image:
    """Pictures over a checkerboard in rows, enlarged by whole pixels, their captions under them."""
    if len(pictures) != len(captions) or not pictures:
        raise KakusanError(f"{len(captions)} captions for {len(pictures)} pictures: one each is needed")
    font = ImageFont.load_default(size=SIZE)
    columns = min(columns, len(pictures))
    texts = [lines_of(caption, CELL, font) for caption in captions]
    under = [LINE * max(map(len, texts[i : i + columns])) for i in range(0, len(texts), columns)]
    high = sum(CELL + GAP // 3 + u + GAP for u in under)
    page = Image.new("RGB", (columns * (CELL + GAP) + GAP, high + GAP), PAPER)
    pen = ImageDraw.Draw(page)
    top = GAP
    for row, u in enumerate(under):
        for column in range(columns):
            if (i := row * columns + column) < len(pictures):
                left = GAP + column * (CELL + GAP)
                page.paste(_cell(pictures[i]), (left, top))
                for n, text in enumerate(texts[i]):
                    pen.text((left, top + CELL + GAP // 3 + n * LINE), text, fill=INK, font=font)
        top += CELL + GAP // 3 + u + GAP
    return page


def _cell(picture: Image.Image) -> Image.Image:
    """A picture as large as a cell allows, over a checkerboard."""
    times = max(1, CELL // max(picture.size))
    big = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    return checkerboard(big).convert("RGB")


def encoded(pages: Sequence[Image.Image], limit: int) -> list[bytes]:
    """PNGs, of 256 colours each where they would be larger than ``limit`` bytes together."""
    for colours in (None, 256):
        found = []
        for page in pages:
            out = io.BytesIO()
            (page.quantize(colours, dither=Image.Dither.NONE) if colours else page).save(out, "PNG", optimize=True)
            found.append(out.getvalue())
        if sum(map(len, found)) <= limit:
            return found
    raise KakusanError(f"the pictures take {sum(map(len, found)):,} bytes: {limit:,} are allowed; ask for fewer")


def page(model: Loaded, sections: Sequence[dict[str, Any]], asked: Sequence[Asked], settings: dict[str, Any]) -> str:
    """The page's text: how the pictures came about, and each section with its sheet and its prompts."""
    words = [
        "# Gallery",
        "",
        f"{len(asked)} prompts, one picture each: seed 0, the model's own settings ({settings['steps']} steps, "
        f"guidance {settings['guidance']:g}), none drawn twice and none left out. The prompts were written "
        "before there were pictures of them. A style in brackets was asked for with `--style`. Any of them again:",
        "",
        "```",
        f'kakusan sample icons "{asked[0].words}" --style {asked[0].style} --seed 0',
        "```",
        "",
        f"Made by `recipes/icons/gallery.py` with the model {str(model.info_.get('hash', ''))[:12]}.",
    ]
    for section in sections:
        some = [a.caption for a in asked if a.section == section["slug"]]
        file = f"pictures/gallery-{section['slug']}.png"
        words += ["", f"## {section['title']}", "", section["about"], "", f"![{'; '.join(some)}]({file})"]
    return "\n".join(words) + "\n"


def write(model: Loaded, out: Path, prompts: Path = PROMPTS) -> list[Path]:
    """Draw, and write the page, the sheets and the grid; nothing is written unless all of it fits."""
    sections, asked = read(prompts)
    request = model.request(1, asked[0].words, None, 0, None)
    settings = settle(model.model, request)
    pictures = dict(zip(asked, drawn(model, asked), strict=True))
    by = {s["slug"]: [a for a in asked if a.section == s["slug"]] for s in sections}
    sheets = [sheet([pictures[a] for a in some], [a.caption for a in some]) for some in by.values()]
    first = [a for s in sections for a in by[s["slug"]][: s["grid"]]]
    grid = sheet([pictures[a] for a in first], [a.caption for a in first])
    files = {out / "pictures" / f"gallery-{slug}.png": data for slug, data in zip(by, encoded(sheets, SHEETS))}
    files[out / "pictures" / "icons.png"] = encoded([grid], GRID)[0]
    files[out / "gallery.md"] = page(model, sections, asked, settings).encode()
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    for file, data in files.items():
        with replacing(file) as temporary:
            temporary.write_bytes(data)
    return list(files)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a run or a model file")
    parser.add_argument("out", type=Path, help="the folder of the documents: gallery.md and pictures/ go there")
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help="default: gallery.toml beside this script")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(words)
    try:
        for file in write(load(args.model, args.device), args.out, args.prompts):
            print(f"{file}  {file.stat().st_size:,} bytes")
    except KakusanError as error:
        sys.exit(f"gallery.py: {error}")


if __name__ == "__main__":
    main()
