"""Look at the prepared icons: pictures drawn at random with their captions, over white, dark or a checkerboard.

python recipes/icons/sheet.py OUT sheet.png -n 60 --style 3d --over dark
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

from iconset.material import STYLES
from iconset.split import SPLITS
from PIL import Image

from kakusan.app.draw.sheet import checkerboard, grid, save
from kakusan.part import KakusanError

GROUNDS = {"white": (255, 255, 255), "dark": (30, 33, 40)}


def over(picture: Image.Image, ground: str) -> Image.Image:
    """The picture without its transparency."""
    if ground == "checkerboard":
        return checkerboard(picture)
    base = Image.new("RGBA", picture.size, (*GROUNDS[ground], 255))
    return Image.alpha_composite(base, picture.convert("RGBA")).convert("RGB")


def sheet(folder: Path, count: int, style: str | None, ground: str, seed: int) -> Image.Image:
    """A grid of ``count`` pictures of one split, each with one of its captions."""
    listing = folder / "metadata.jsonl"
    if not listing.is_file():
        raise KakusanError(f"{folder} holds no metadata.jsonl; OUT is a folder that prepare.py made")
    lines = [json.loads(line) for line in listing.read_text("utf-8").splitlines()]
    draw = random.Random(seed)
    lines = [line for line in lines if style in (None, line["style"])]
    chosen = draw.sample(lines, min(count, len(lines)))
    shown, labels = [], []
    for line in chosen:
        with Image.open(folder / line["file_name"]) as picture:
            shown.append(over(picture, ground))
        labels.append(f"{draw.choice(line['text'])} [{line['style']}]")
    return grid(shown, labels=labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder that prepare.py made")
    parser.add_argument("sheet", type=Path, help="the PNG to write")
    parser.add_argument("-n", type=int, default=60, help="how many pictures (default: 60)")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--style", choices=STYLES, help="one style only")
    parser.add_argument("--over", choices=(*GROUNDS, "checkerboard"), default="white")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        save(sheet(args.out / args.split, args.n, args.style, args.over, args.seed), args.sheet)
    except KakusanError as error:
        sys.exit(f"sheet.py: {error}")


if __name__ == "__main__":
    main()
