"""Make the data set that ``icons`` is trained on: 64 x 64 RGBA icons in four styles with captions.

    python recipes/icons/fetch.py SOURCES
    python recipes/icons/prepare.py SOURCES OUT

OUT/train, OUT/test-concepts and OUT/test-styles hold a folder a style and a ``metadata.jsonl``; ``kakusan train OUT``
takes the first. ``--pixels 256`` makes the same set large, for ``icons-upscale``. The same sources give the same files.
docs/how-to/icons.md says what is in it.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from iconset.captions import english, japanese, named
from iconset.material import STYLES, Concept, concepts, drawings
from iconset.pictures import FINE, SIDE, drawn
from iconset.split import SPLITS, alike, grouped, same_picture, side

from kakusan.domains.picture import encode_png
from kakusan.part import KakusanError

Pictures = dict[tuple[str, str], np.ndarray]


@dataclass(frozen=True)
class Entry:
    """One picture of the set."""

    split: str
    style: str
    concept: Concept
    group: str
    picture: np.ndarray

    @property
    def file(self) -> str:
        return f"{self.style}/{self.concept.slug}.png"

    def line(self, style_words: bool) -> dict[str, Any]:
        """Its line of metadata.jsonl: the file, what identifies it, captions by language."""
        return {
            "file_name": self.file,
            "label": self.style,
            "style": self.style,
            "concept": named(self.concept.english.name),
            "code": self.concept.code,
            "group": self.group,
            "category": self.concept.category,
            "split": self.split,
            "text": english(self.concept, self.style, self.picture, style_words),
            "text_ja": japanese(self.concept, self.style, self.picture),
        }


def pictures(sources: Path, listed: list[Concept], workers: int, pixels: int = SIDE) -> Pictures:
    """(style, code) to the picture, of all drawings without a skin tone."""
    found = [(style, code, data) for style, code, tone, data in drawings(sources, listed, pixels > SIDE) if not tone]
    files = (data for _, _, data in found)
    with ProcessPoolExecutor(workers) if workers > 1 else nullcontext() as pool:
        draw = functools.partial(drawn, pixels=pixels)
        made = pool.map(draw, files, chunksize=16) if pool else map(draw, files)
        return {(style, code): picture for (style, code, _), picture in zip(found, made, strict=True)}


def entries(listed: list[Concept], drawn_all: Pictures) -> Iterator[Entry]:
    """Every picture with its split, style by style in Unicode's order; exact copies are left out."""
    copies = same_picture(listed, drawn_all)
    kept = {key: picture for key, picture in drawn_all.items() if key not in copies}
    groups = grouped(listed, alike(kept))
    styles = {c.code: [s for s in STYLES if (s, c.code) in kept] for c in listed}
    members: dict[str, list[list[str]]] = {}
    for code, group in groups.items():
        if styles[code]:
            members.setdefault(group, []).append(styles[code])
    sides = {group: side(group, have) for group, have in members.items()}
    for style in STYLES:
        for concept in listed:
            if (style, concept.code) in kept:
                split, held = sides[groups[concept.code]]
                split = "train" if split == "test-styles" and style != held else split
                yield Entry(split, style, concept, groups[concept.code], kept[style, concept.code])


def enlarged(found: list[Entry], large: Pictures) -> list[Entry]:
    """The entries with their large pictures; the few that no package has large are left out."""
    keys = [(e.style, e.concept.code) for e in found]
    return [replace(e, picture=large[key]) for e, key in zip(found, keys, strict=True) if key in large]


def write(found: list[Entry], out: Path, style_words: bool) -> None:
    """All files, in a folder that gets its name when it is complete."""
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for split in SPLITS:
        mine = [e for e in found if e.split == split]
        for entry in mine:
            file = partial / split / entry.file
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode_png(entry.picture))
        lines = [json.dumps(e.line(style_words), ensure_ascii=False) + "\n" for e in mine]
        if lines:
            (partial / split / "metadata.jsonl").write_text("".join(lines), "utf-8")
    partial.rename(out)


def table(found: list[Entry]) -> str:
    """Pictures by split and style, and concepts by split."""
    counts = Counter((e.split, e.style) for e in found)
    rows = [f"{'':16}" + "".join(f"{s:>8}" for s in (*STYLES, "all", "concepts"))]
    for split in SPLITS:
        numbers = [counts[split, style] for style in STYLES]
        codes = {e.concept.code for e in found if e.split == split}
        rows.append(f"{split:16}" + "".join(f"{n:8,}" for n in (*numbers, sum(numbers), len(codes))))
    return "\n".join(rows)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, help="the folder that holds the packages' archives (see fetch.py)")
    parser.add_argument("out", type=Path, help="the folder to make; it must not exist")
    parser.add_argument("--style-words", action="store_true", help="one more caption a picture that names its style")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes that draw (default: all cores)"
    )
    parser.add_argument(
        "--pixels",
        type=int,
        choices=range(SIDE, FINE + 1),
        metavar="N",
        default=SIDE,
        help="a picture's side, up to 256",
    )
    args = parser.parse_args(words)
    start = time.monotonic()
    try:
        if args.out.exists():
            raise KakusanError(f"OUT {args.out} exists; name a new folder or remove it")
        listed = concepts(args.sources)
        found = list(entries(listed, pictures(args.sources, listed, args.workers)))
        if args.pixels > SIDE:  # the split, the captions and what is a copy are decided at 64
            found = enlarged(found, pictures(args.sources, listed, args.workers, args.pixels))
        write(found, args.out, args.style_words)
    except KakusanError as error:
        sys.exit(f"prepare.py: {error}")
    print(table(found))
    print(f"{args.out}: {len(found):,} pictures in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
