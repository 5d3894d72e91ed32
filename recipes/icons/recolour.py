"""Add icons in other colours to the training part of the prepared set: "a green violin", "a pink anchor".

    python recipes/icons/recolour.py ICONS OUT

ICONS is what prepare.py made; OUT is the same with one more picture for each training picture of a thing in one
colour, turned into another (iconset.recolour), its captions saying which. People, flags and faces stay as they are, and
so does what colours are judged by: whatever is named after one of the things in prompts.py is in no colour here that
artists did not draw it in.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from iconset.captions import TEMPLATES
from iconset.recolour import TARGETS, bare, coloured, dominant, recoloured
from PIL import Image
from prompts import THINGS, order

from kakusan.domains.picture import encode_png
from kakusan.part import KakusanError

LEFT = ("People & Body", "Flags", "Smileys & Emotion")
_ASKED = re.compile(rf"\b({'|'.join(noun for noun, _ in THINGS)})s?\b", re.I)
_CODES = {code for _, code in THINGS}


def eligible(line: dict[str, Any], judged: set[str]) -> bool:
    """Whether a picture may be turned; ``judged``: the groups of what colours are judged by."""
    if line["category"] in LEFT or line["group"] in judged:
        return False
    return bool(bare(line["concept"])) and not any(_ASKED.search(text) for text in (line["concept"], *line["text"]))


def turned(line: dict[str, Any], picture: np.ndarray) -> tuple[dict[str, Any], np.ndarray] | None:
    """The picture in another colour, the first by a hash that it can be turned into, with its line of metadata."""
    own = dominant(picture)
    for colour in sorted(TARGETS, key=lambda c: order(line["style"], line["code"], c)):
        found = None if colour == own else recoloured(picture, colour)
        if found is not None:
            name, a = f"{colour} {bare(line['concept'])}", coloured(line["concept"], colour)
            some = sorted(TEMPLATES, key=lambda t: order(line["style"], line["code"], t))[:3]
            texts = [name, a, *(t.format(a=a, n=name) for t in some)]
            file = line["file_name"].removesuffix(".png") + f"-{colour}.png"
            mine = {k: v for k, v in line.items() if k != "text_ja"}
            return mine | {"file_name": file, "concept": name, "colour": colour, "text": texts}, found
    return None


def added(folder: Path, lines: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """All pictures that are added."""
    judged = {line["group"] for line in lines if line["code"] in _CODES}
    for line in lines:
        if eligible(line, judged):
            with Image.open(folder / line["file_name"]) as im:
                found = turned(line, np.asarray(im.convert("RGBA")))
            if found:
                yield found


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("icons", type=Path, help="the folder that prepare.py made")
    parser.add_argument("out", type=Path, help="the folder to make; it must not exist")
    args = parser.parse_args(words)
    try:
        if args.out.exists():
            raise KakusanError(f"OUT {args.out} exists; name a new folder or remove it")
        listing = args.icons / "train" / "metadata.jsonl"
        if not listing.is_file():
            raise KakusanError(f"{args.icons}: no folder that prepare.py made; it lacks train/metadata.jsonl")
        lines = [json.loads(text) for text in listing.read_text("utf-8").splitlines()]
        partial = args.out.with_name(f"{args.out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(args.icons, partial)
        more = []
        for line, picture in added(args.icons / "train", lines):
            (partial / "train" / line["file_name"]).write_bytes(encode_png(picture))
            more.append(line)
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [*lines, *more])
        (partial / "train" / "metadata.jsonl").write_text(text, "utf-8")
        partial.rename(args.out)
    except KakusanError as error:
        sys.exit(f"recolour.py: {error}")
    print(f"{args.out}: {len(lines):,} training pictures and {len(more):,} in other colours")


if __name__ == "__main__":
    main()
