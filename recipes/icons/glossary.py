"""Make a Japanese glossary for models of the icons, from CLDR's names and keywords in both languages.

    python recipes/icons/glossary.py SOURCES glossary.txt
    kakusan train icons encoders.prompt.kind=condition/text-table encoders.prompt.glossary=glossary.txt

A concept's Japanese name means its English one. A keyword means the English word whose concepts are most like its own
(F1 of the two sets); one that a single concept has means the English keyword that it is a loan of, by its consonants,
otherwise the concept's name. glossary.toml, beside this script, is written by hand and goes before both. An entry whose
parts say the same is left out.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from iconset.captions import named, named_ja
from iconset.material import Concept, concepts
from iconset.sounds import alike

from kakusan.conditions.glossary import Glossary, given
from kakusan.conditions.words import normalise, split
from kakusan.files import replacing
from kakusan.part import KakusanError

HAND = Path(__file__).with_name("glossary.toml")
LEAST = {2: 0.75, 3: 0.5}  # F1 that a word needs, by how many concepts have the keyword; four or more: MANY
MANY = 0.4
LONGEST = 14  # characters of a keyword; longer ones are sentences
EMPTY = frozenset(["a", "an", "the", "of", "with", "in", "on", "and", "for", "to"])
JAPANESE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")

ABOUT = """\
# Japanese words for models of the icons, made by recipes/icons/glossary.py.
# From Unicode CLDR annotations, copyright Unicode, Inc., Unicode License v3.
"""


class Table:
    """Concepts by what they are called: by Japanese words (as ``key`` spells them), and by English ones."""

    def __init__(self, listed: Iterable[Concept]) -> None:
        self.names: dict[str, str] = {}  # key -> English name
        self.keywords: dict[str, set[str]] = defaultdict(set)  # key -> codes
        self.english: dict[str, set[str]] = defaultdict(set)  # word -> codes
        self.words: dict[str, dict[str, bool]] = {}  # code -> its words, and whether they are in its name
        self.called: dict[str, str] = {}  # code -> English name
        self.spelled: dict[str, str] = {}  # key -> as CLDR spells it
        for concept in listed:
            self._add(concept)

    def _add(self, concept: Concept) -> None:
        code, name = concept.code, named(concept.english.name)
        head, colon, tail = concept.japanese.name.partition(": ")
        flag = colon and head == "旗"
        self.called[code] = name
        self.names.setdefault(
            self._key(tail if flag else named_ja(concept.japanese.name)), name.removeprefix("flag of ")
        )
        for word in () if flag else concept.japanese.curated:
            if JAPANESE.search(word) and len(word) <= LONGEST and "肌" not in word:
                self.keywords[self._key(word)].add(code)
        own = dict.fromkeys(_words(name), True)
        words = own | {w: w in own for k in concept.english.curated if (w := k.lower().replace("’", "'"))}
        self.words[code] = words if not flag else own
        for word in self.words[code]:
            self.english[word].add(code)

    def _key(self, word: str) -> str:
        plain = re.sub(r"[\s「」『』“”]", "", normalise(word))
        self.spelled.setdefault(key(plain), plain)
        return key(plain)

    def meaning(self, word: str) -> str | None:
        """What a key means in English, by CLDR alone."""
        codes, name = self.keywords.get(word, set()), self.names.get(word)
        if name is not None:  # that of a heart suit, where a heart is spoken of
            general = self._closest(codes) if len(codes) >= 4 else None
            return general if general in _words(name) else name
        if loan := self._loan(word, codes):
            return loan
        if len(codes) == 1:
            return self.called[next(iter(codes))]
        return self._closest(codes)

    def _closest(self, codes: set[str]) -> str | None:
        """The English word whose concepts are most like these; None where none is like enough."""
        score, _, best = max(
            (2 * len(codes & self.english[w]) / (len(codes) + len(self.english[w])), self._named(w, codes), w)
            for code in sorted(codes)
            for w in self.words[code]
        )
        return best if score >= LEAST.get(len(codes), MANY) else None

    def _named(self, word: str, codes: set[str]) -> tuple[int, str]:
        """In how many of the concepts' names a word is, and something that decides between equals."""
        return sum(self.words[code].get(word, False) for code in codes), word

    def _loan(self, word: str, codes: set[str]) -> str | None:
        """The English word of these concepts that katakana spell."""
        spelled = self.spelled[word]
        found = Counter(w for code in codes for w in self.words[code] if alike(w, spelled))
        return max(found, key=lambda w: (found[w], w)) if found else None


def key(word: str) -> str:
    """A Japanese word as a glossary finds it: normalised, katakana as hiragana."""
    return "".join(chr(ord(c) - 0x60) if "\u30a1" <= c <= "\u30f6" else c for c in normalise(word))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+(?:[-'][a-z0-9]+)*", normalise(text))


@dataclass(frozen=True)
class Hand:
    """What is written by hand: entries, words to drop among them; keys of CLDR to leave out; keys of colours."""

    entries: dict[str, str]
    leave: frozenset[str]
    colours: tuple[str, ...]


def by_hand(file: Path) -> Hand:
    """The words of glossary.toml."""
    tree = tomllib.loads(file.read_text("utf-8"))
    entries = dict.fromkeys(tree["drop"].split(), "")
    for section in (v for v in tree.values() if isinstance(v, dict)):
        entries |= {word: normalise(meaning) for meaning, words in section.items() for word in words.split()}
    colours = (key(word) for words in tree["colours"].values() for word in words.split())
    return Hand(entries, frozenset(map(key, tree["leave"].split())), tuple(colours))


def entries(table: Table, hand: Hand) -> dict[str, str]:
    """Every key with its meaning; those of CLDR left out whose parts say the same, and keywords that begin with a
    colour (赤い本, of a closed book) where all of their parts are known."""
    given = {key(word): meaning for word, meaning in hand.entries.items()}
    found = {word: m for word in [*table.names, *table.keywords] if _fit(word, hand) and (m := table.meaning(word))}
    found = {word: normalise(meaning) for word, meaning in found.items()} | given
    kept: dict[str, str] = {}
    for length in sorted({len(word) for word in found}):
        shorter = Glossary(written(kept))
        for word in (w for w in found if len(w) == length):
            coloured = word not in table.names and word.startswith(hand.colours)
            parts = shorter.translated(word)
            if word in given or not (_bag(parts) == _bag(found[word]) or (coloured and not JAPANESE.search(parts))):
                kept[word] = found[word]
    return kept


def _fit(word: str, hand: Hand) -> bool:
    """Whether a key of CLDR may be an entry."""
    kana = len(word) == 1 and "\u3041" <= word <= "\u30ff"
    return not kana and word not in hand.leave and bool(JAPANESE.search(word)) and not re.search("[,、=]", word)


def said(glossary: Glossary, text: str) -> list[str]:
    """What a glossary makes of a text, as words in no order, without those that say little."""
    return _bag(glossary.translated(text))


def _bag(text: str) -> list[str]:
    return sorted(word for word in split(text) if word.lstrip("_") not in EMPTY)


def written(found: Mapping[str, str], spelled: Mapping[str, str] | None = None) -> str:
    """A glossary's text: a line a meaning."""
    by_meaning: dict[str, list[str]] = defaultdict(list)
    for word, meaning in found.items():
        by_meaning[meaning].append((spelled or {}).get(word, word))
    return "\n".join(f"{','.join(words)}={meaning}" for meaning, words in by_meaning.items())


def coverage(glossary: Glossary, listed: Sequence[Concept]) -> str:
    """How many of CLDR's names and keywords it reads, and how many names as the English ones."""
    names = {c.code: named_ja(c.japanese.name) for c in listed}
    right = [c.code for c in listed if said(glossary, names[c.code]) == _bag(named(c.english.name))]
    words = {w for c in listed for w in c.japanese.curated if JAPANESE.search(w)}
    read = [sum(not JAPANESE.search(glossary.translated(w)) for w in some) for some in (names.values(), words)]
    return (
        f"names: {read[0]:,} of {len(names):,} read, {len(right):,} as the English name; "
        f"keywords: {read[1]:,} of {len(words):,} read"
    )


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, help="the folder that holds the packages' archives (see fetch.py)")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--show", type=int, default=30, help="random entries to print (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of those")
    args = parser.parse_args(words)
    try:
        listed = concepts(args.sources)
        table = Table(listed)
        hand = by_hand(HAND)
        found = entries(table, hand)
        spelled = table.spelled | {key(word): normalise(word) for word in hand.entries}
        with replacing(args.out) as temporary:
            temporary.write_text(ABOUT + written(found, spelled) + "\n", "utf-8")
        text = given(str(args.out))
        glossary = Glossary(text)
    except KakusanError as error:
        sys.exit(f"glossary.py: {error}")
    for word in random.Random(args.seed).sample(sorted(found), min(args.show, len(found))):
        print(f"{spelled.get(word, word)} = {found[word]}")
    print(f"{args.out}: {len(glossary):,} entries, {len(text.encode()):,} bytes; {coverage(glossary, listed)}")


if __name__ == "__main__":
    main()
