"""A small RGBA set: the icons of the npm package emoji-datasource-google as 64-pixel PNGs in train/ and test/.

    npm pack emoji-datasource-google && tar xzf emoji-datasource-google-*.tgz
    python benchmarks/quality/icons.py package icons

The pictures are Noto Emoji (Apache-2.0). Left out: skin tones (all but the yellow of each) and components. What shows
the same thing (man, woman and person doing it; a clock at any hour; left and right) goes to one side of the split.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
from pathlib import Path

TEST = 500
_SAME = re.compile(
    r"\b(MAN|MEN|WOMAN|WOMEN|PERSON|PEOPLE|BOY|GIRL|MALE|FEMALE|MR|MRS|LEFT|RIGHT|UP|DOWN|FACING"
    r"|RIGHTWARDS|LEFTWARDS|UPWARDS|DOWNWARDS|WITH|AND|SIGN|SYMBOL|BLACK|WHITE|HEAVY"
    r"|ONE|TWO|THREE|FOUR|FIVE|SIX|SEVEN|EIGHT|NINE|TEN|ELEVEN|TWELVE|THIRTY|OCLOCK|\d+)\b|[^A-Z ]"
)


def concept(name: str) -> str:
    """A name without what changes the picture little."""
    short = " ".join(sorted(set(_SAME.sub(" ", name.upper()).split())))
    return short or name.upper()


def divided(entries: list[dict[str, str]], test: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Entries into train and about ``test`` for testing, concept by concept in the order of their hashes."""
    groups: dict[str, list[dict[str, str]]] = {}
    for entry in entries:
        groups.setdefault(concept(entry["name"]), []).append(entry)
    held: list[dict[str, str]] = []
    kept: list[dict[str, str]] = []
    for key in sorted(groups, key=lambda k: hashlib.sha256(k.encode()).hexdigest()):
        (held if len(held) + len(groups[key]) <= test else kept).extend(groups[key])
    return kept, held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path, help="the unpacked npm package")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    listed = json.loads((args.package / "emoji.json").read_text("utf-8"))
    entries = [
        {"name": e.get("name") or e["short_name"], "image": e["image"]}
        for e in listed
        if e["has_img_google"] and e["category"] != "Component"
    ]
    for split, part in zip(("train", "test"), divided(entries, TEST)):
        folder = args.out / split
        folder.mkdir(parents=True)
        for entry in part:
            shutil.copy(args.package / "img" / "google" / "64" / entry["image"], folder / entry["image"])
        print(f"{split}: {len(part):,} icons")


if __name__ == "__main__":
    main()
