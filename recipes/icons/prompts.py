"""Choose the prompts that a model of the icons is judged by, from a prepared set: recipes/icons/prompts.toml.

    python recipes/icons/prompts.py OUT recipes/icons/prompts.toml

Chosen by hashes of code points, never by looking at a model's pictures; country flags are left out, and of each group
of variants (man, woman, person; left, right) there is one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iconset.captions import COLOURS_JA, phrase
from iconset.split import SPLITS

from kakusan.files import replacing
from kakusan.part import KakusanError

COUNT = 100  # prompts of each kind
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
THINGS = (  # what may be asked for in any colour, by the code of the icon that shows it
    ("heart", "2764"), ("apple", "1f34e"), ("car", "1f697"), ("book", "1f4d7"), ("balloon", "1f388"),
    ("t-shirt", "1f455"),
    ("fish", "1f41f"), ("bird", "1f426"), ("cat", "1f408"), ("dog", "1f415"), ("house", "1f3e0"), ("star", "2b50"),
    ("umbrella", "2602"), ("mushroom", "1f344"), ("butterfly", "1f98b"), ("rocket", "1f680"), ("banana", "1f34c"),
    ("strawberry", "1f353"), ("hat", "1f452"), ("key", "1f511"), ("bell", "1f514"), ("bus", "1f68c"), ("frog", "1f438"),
    ("rose", "1f339"), ("tree", "1f333"), ("chair", "1fa91"), ("cup", "1f964"), ("crab", "1f980"), ("dress", "1f457"),
    ("leaf", "1f343"), ("guitar", "1f3b8"), ("elephant", "1f418"),
)  # fmt: skip
THINGS_JA = {
    "heart": "ハート", "apple": "りんご", "car": "車", "book": "本", "balloon": "風船", "t-shirt": "Tシャツ",
    "fish": "魚", "bird": "鳥", "cat": "猫", "dog": "犬", "house": "家", "star": "星", "umbrella": "傘",
    "mushroom": "きのこ", "butterfly": "ちょうちょ", "rocket": "ロケット", "banana": "バナナ", "strawberry": "いちご",
    "hat": "帽子", "key": "鍵", "bell": "ベル", "bus": "バス", "frog": "カエル", "rose": "バラ", "tree": "木",
    "chair": "椅子", "cup": "カップ", "crab": "カニ", "dress": "ドレス", "leaf": "葉", "guitar": "ギター",
    "elephant": "ゾウ",
}  # fmt: skip

ABOUT = """\
# Prompts that a model of the icons is judged by; made by prompts.py from the prepared set, so edit that, not this.
#
# seen          concepts and styles of the training part
# held_concepts concepts that are in no style in the training part
# held_styles   concepts seen in other styles, asked for in the one that was held out
# colour        things seen in training, asked for in a colour; "exists" says whether the training part has a caption
#               that puts the two together ("a green heart" has, "a blue apple" has not)
#
# "ja" asks for the same in Japanese: a concept by CLDR's name, a thing by the words in prompts.py and captions.py.
#
# seen, held_concepts, held_styles: 100 each, no country flags, one of each group of variants, in the order of
# SHA-256 of "prompt KIND CODE"; the style of a seen concept is the first by the hash of "style CODE STYLE".
# colour: the first 20 things of the list in prompts.py that the training part has in every style, each in 5 of 8
# colours, by the hash of "colour CODE COLOUR".
"""


def order(*words: str) -> bytes:
    return hashlib.sha256(" ".join(words).encode()).digest()


def lines(out: Path) -> list[dict[str, Any]]:
    """All metadata of a prepared set."""
    files = [out / split / "metadata.jsonl" for split in SPLITS]
    if not all(f.is_file() for f in files):
        raise KakusanError(
            f"OUT {out} is no folder that prepare.py made: it lacks {SPLITS[0]}/metadata.jsonl and others"
        )
    return [json.loads(line) for f in files for line in f.read_text("utf-8").splitlines()]


def concepts(kind: str, some: list[dict[str, Any]], style_of: bool) -> list[dict[str, Any]]:
    """COUNT prompts of the pictures' concepts."""
    by_code: dict[str, list[dict[str, Any]]] = {}
    for line in some:
        if line["category"] != "Flags":
            by_code.setdefault(line["code"], []).append(line)
    chosen: dict[str, dict[str, Any]] = {}
    for code in sorted(by_code, key=lambda c: order("prompt", kind, c)):
        line = min(by_code[code], key=lambda x: order("style", code, x["style"]))
        chosen.setdefault(line["group"], line)
    wanted = list(chosen.values())[:COUNT]
    return [
        {"prompt": phrase(x["concept"]), "ja": x["text_ja"][0], "code": x["code"]}
        | ({"style": x["style"]} if style_of else {})
        for x in wanted
    ]


def colours(train: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Things in colours, those that training shows together marked."""
    styles = {s: {x["code"] for x in train if x["style"] == s} for s in {x["style"] for x in train}}
    said = {caption.lower() for x in train for caption in x["text"]}
    things = [(noun, code) for noun, code in THINGS if all(code in codes for codes in styles.values())]
    found = []
    for noun, code in things[: COUNT // 5]:
        for colour in sorted(COLOURS, key=lambda c: order("colour", code, c))[:5]:
            prompt = phrase(f"{colour} {noun}")
            found.append({
                "prompt": prompt,
                "ja": COLOURS_JA[colour] + THINGS_JA[noun],
                "thing": noun,
                "code": code,
                "colour": colour,
                "exists": prompt in said,
            })  # fmt: skip
    return found


def written(kinds: dict[str, list[dict[str, Any]]]) -> str:
    """The file's text."""
    text = ABOUT
    for kind, prompts in kinds.items():
        text += f"\n{kind} = [\n"
        for prompt in prompts:
            fields = ", ".join(f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in prompt.items())
            text += f"  {{ {fields} }},\n"
        text += "]\n"
    return text


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder that prepare.py made")
    parser.add_argument("file", type=Path, help="the TOML file to write")
    args = parser.parse_args(words)
    try:
        found = lines(args.out)
        parts = {split: [x for x in found if x["split"] == split] for split in SPLITS}
        kinds = {
            "seen": concepts("seen", parts["train"], True),
            "held_concepts": concepts("held_concepts", parts["test-concepts"], False),
            "held_styles": concepts("held_styles", parts["test-styles"], True),
            "colour": colours(parts["train"]),
        }
        with replacing(args.file) as temporary:
            temporary.write_text(written(kinds), "utf-8")
    except KakusanError as error:
        sys.exit(f"prompts.py: {error}")
    print(", ".join(f"{len(prompts)} {kind}" for kind, prompts in kinds.items()))


if __name__ == "__main__":
    main()
