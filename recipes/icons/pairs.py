"""Make pairs for editing by instruction from the prepared icons: source picture, target picture, instructions.

    python recipes/icons/pairs.py SOURCES ICONS OUT

ICONS is what prepare.py made. OUT/pictures holds the pictures; OUT/train.jsonl, test-concepts.jsonl and
test-styles.jsonl one pair a line, and a pair is in the furthest part that either of its pictures is in.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from iconset.edits import Edit, Key, between_concepts, between_styles, between_tones, kept
from iconset.material import TONES, Concept, concepts, drawings
from iconset.pictures import drawn
from iconset.split import SPLITS
from prompts import lines

from kakusan.domains.picture import encode_png
from kakusan.part import KakusanError


def toned(sources: Path, listed: list[Concept], known: set[tuple[str, str]], out: Path) -> Iterator[Key]:
    """Draw the pictures with skin tones of those that the set has without; gives what was written."""
    slugs = {c.code: c.slug for c in listed}
    for style, code, tone, data in drawings(sources, listed):
        if tone and (style, code) in known:
            file = out / named_file(slugs, (style, code, tone))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode_png(drawn(data)))
            yield style, code, tone


def named_file(slugs: dict[str, str], key: Key) -> str:
    """ "pictures/3d/artist-medium-dark.png" """
    style, code, tone = key
    word = next((f"-{w}" for w, t in TONES.items() if t == tone), "")
    return f"pictures/{style}/{slugs[code]}{word}.png"


def write(
    edits: Sequence[Edit], part: dict[tuple[str, str], str], slugs: dict[str, str], out: Path, tones: float
) -> Counter[str]:
    """The three lists, with a share ``tones`` of the training pairs of skin tones; gives counts by part and kind."""
    counts: Counter[str] = Counter()
    listing: dict[str, list[str]] = {split: [] for split in SPLITS}
    furthest = {"train": 0, "test-styles": 1, "test-concepts": 2}
    for edit in edits:
        split = max((part[edit.source[:2]], part[edit.target[:2]]), key=furthest.__getitem__)
        if split == "train" and edit.kind == "skin tone" and not kept(edit, tones):
            continue
        source, target = (named_file(slugs, key) for key in (edit.source, edit.target))
        line = {"source": source, "target": target, "kind": edit.kind, "text": list(edit.orders)}
        listing[split].append(json.dumps(line, ensure_ascii=False) + "\n")
        counts[f"{split}: {edit.kind}"] += 1
    for split, found in listing.items():
        (out / f"{split}.jsonl").write_text("".join(found), "utf-8")
    return counts


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, help="the folder that holds the packages' archives")
    parser.add_argument("icons", type=Path, help="the folder that prepare.py made")
    parser.add_argument("out", type=Path, help="the folder to make; it must not exist")
    parser.add_argument("--no-tones", action="store_true", help="leave skin tones out, which take minutes to draw")
    parser.add_argument(
        "--tones", type=float, default=0.5, help="share of the training pairs of skin tones, by far the most alike"
    )
    args = parser.parse_args(words)
    try:
        if not 0 <= args.tones <= 1:
            raise KakusanError(f"--tones {args.tones:g}: a share from 0 (none) to 1 (all)")
        if args.out.exists():
            raise KakusanError(f"OUT {args.out} exists; name a new folder or remove it")
        found, listed = lines(args.icons), concepts(args.sources)
        slugs, part = {c.code: c.slug for c in listed}, {(x["style"], x["code"]): x["split"] for x in found}
        styles: dict[str, list[str]] = {}
        partial = args.out.with_name(f"{args.out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        for line in found:
            styles.setdefault(line["code"], []).append(line["style"])
            file = partial / named_file(slugs, (line["style"], line["code"], ""))
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(args.icons / line["split"] / line["file_name"], file)
        skins = [] if args.no_tones else list(toned(args.sources, listed, set(part), partial))
        edits = chain(between_styles(styles), between_concepts(listed, styles), between_tones(skins))
        counts = write(list(dict.fromkeys(edits)), part, slugs, partial, args.tones)
        partial.rename(args.out)
    except KakusanError as error:
        sys.exit(f"pairs.py: {error}")
    print("\n".join(f"{count:7,}  {what}" for what, count in sorted(counts.items())))


if __name__ == "__main__":
    main()
