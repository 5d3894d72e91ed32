"""Write the words of all captions of the prepared icons, held-out ones too, one a line.

    python recipes/icons/words.py ICONS words.txt
    kakusan train ICONS encoders.prompt.kind=condition/text-table encoders.prompt.more=words.txt

A model that trains on part of the concepts then still has a vector of the sentence encoder's for the words of the rest.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from kakusan.conditions.words import split
from kakusan.files import replacing


def words(icons: Path) -> list[str]:
    """The words, in the order of the alphabet."""
    found: set[str] = set()
    for table in sorted(icons.glob("*/metadata.jsonl")):
        for line in table.read_text("utf-8").splitlines():
            for caption in json.loads(line)["text"]:
                found.update(word.strip("_ ") for word in split(caption))
    return sorted(found - {""})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("icons", type=Path, help="the folder that prepare.py made")
    parser.add_argument("out", type=Path, help="the file to write")
    args = parser.parse_args()
    found = words(args.icons)
    with replacing(args.out) as temporary:
        temporary.write_text("".join(f"{word}\n" for word in found), "utf-8")
    print(f"{args.out}: {len(found):,} words")


if __name__ == "__main__":
    main()
