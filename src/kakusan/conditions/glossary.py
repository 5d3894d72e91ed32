"""Glossary: words of other languages, and what a model's own vocabulary says for them."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path

from kakusan.conditions.words import normalise, sort_of
from kakusan.part import KakusanError

__all__ = ["MOST", "Glossary", "given", "parsed"]

MOST = 300_000  # bytes of a glossary as a model's file spells it (six for a character outside ASCII)
_HIRAGANA = {c: c - 0x60 for c in (*range(0x30A1, 0x30F7), 0x30FD, 0x30FE)}  # of katakana


class Glossary:
    """Words to put in the place of others, a line each: ``りんご, 林檎 = apple``; nothing after ``=``: left out.

    Texts and entries are spelled alike first (``normalise``, katakana as hiragana: リンゴ is found too). From the left,
    the longest entry that fits is taken; in scripts with spaces it fits whole words only. What may be part of a word
    that no entry knows stays: what is left out (particles: の, い) where it touches unknown characters, two kana where
    unknown kana follow (かぶった is no かぶ), katakana beside unknown katakana (スカート is no カート).
    """

    def __init__(self, text: str) -> None:
        size = len(json.dumps(text)) - 2
        if size > MOST:
            raise KakusanError(f"glossary of {size:,} bytes: at most {MOST:,} go into a model; leave entries out")
        self.text = text
        self._entries: dict[str, str] = {}
        self._mixed: set[str] = set()  # entries spelled in both kana
        for line in filter(str.strip, text.splitlines()):
            words, equals, meaning = line.partition("=")
            spelled = [normalise(word) for word in re.split("[,、，]", words)]
            self._mixed |= {word for word in spelled if _mixed(word)}
            keys = [_folded(word) for word in spelled]
            if not equals or not all(any(sort_of(c) != "gap" for c in key) for key in keys):
                raise KakusanError(f"glossary: the line {line.strip()[:60]!r} is not like 'りんご, 林檎 = apple'")
            for key in keys:
                if self._entries.setdefault(key, meaning.strip()) != meaning.strip():
                    raise KakusanError(
                        f"glossary: {key!r} is {self._entries[key]!r} and {meaning.strip()!r}; give it one meaning"
                    )
        self._longest: dict[str, int] = {}  # by first character
        for key in self._entries:
            self._longest[key[0]] = max(len(key), self._longest.get(key[0], 0))

    def __len__(self) -> int:
        """How many entries there are."""
        return len(self._entries)

    def translated(self, text: str) -> str:
        """The text with its entries replaced, blanks around; a text that has none comes back as it is."""
        plain = normalise(text)
        parts = self._parts(plain, _folded(plain))
        if all(meaning is None for _, meaning in parts):
            return text
        said = ""
        for i, (part, meaning) in enumerate(parts):
            if meaning is None or _runs_on(parts, i):
                said += part
            else:
                said += f" {meaning} "
        return said

    def _parts(self, plain: str, folded: str) -> list[tuple[str, str | None]]:
        """A text in stretches: of an entry, with its meaning; of what has none, with None."""
        parts: list[tuple[str, str | None]] = []
        at = begun = 0
        while at < len(plain):
            end = self._end(plain, folded, at)
            if not end:
                at += 1
                continue
            if begun < at:
                parts.append((plain[begun:at], None))
            parts.append((plain[at:end], self._entries[folded[at:end]]))
            at = begun = end
        return [*parts, (plain[begun:], None)] if begun < at else parts

    def _end(self, plain: str, folded: str, at: int) -> int:
        """Where the longest entry ends that begins here; 0 if none does."""
        if _inside(folded, at):
            return 0
        for end in range(min(len(folded), at + self._longest.get(folded[at], 0)), at, -1):
            known = folded[at:end] in self._entries and not _inside(folded, end)
            if known and (plain[at:end] in self._mixed or not _mixed(plain[at:end])):
                return end
        return 0


@lru_cache(maxsize=8)
def parsed(text: str) -> Glossary:
    """A text's glossary, made once: loading a model builds its encoders several times."""
    return Glossary(text)


def given(value: str) -> str:
    """A glossary's text as it is, or that of the file which is named in its place; lines of a file that begin with #
    are left out."""
    if "=" in value or not value:
        return value
    path = Path(value).expanduser()
    if not path.is_file():
        raise KakusanError(f"glossary={value}: no such file; it has lines like 'りんご, 林檎 = apple'")
    lines = path.read_text("utf-8").splitlines()
    return "\n".join(line for line in lines if line.strip() and not line.startswith("#"))


def _folded(text: str) -> str:
    """Katakana as hiragana, character by character."""
    return text.translate(_HIRAGANA)


def _inside(text: str, at: int) -> bool:
    """Whether a place is inside a word of a script with spaces."""
    return 0 < at < len(text) and sort_of(text[at - 1]) == sort_of(text[at]) == "word"


def _runs_on(parts: list[tuple[str, str | None]], i: int) -> bool:
    """Whether a stretch may be part of a word that no entry knows."""
    part, meaning = parts[i]
    before = parts[i - 1][0][-1] if i and parts[i - 1][1] is None else " "
    after = parts[i + 1][0][0] if i + 1 < len(parts) and parts[i + 1][1] is None else " "
    if not meaning:
        return "spaceless" in (sort_of(before), sort_of(after))
    foreign = all(map(_katakana, before + part[0])) or all(map(_katakana, part[-1] + after))
    return foreign or (len(part) <= 2 and all(map(_kana, part + after)))


def _kana(c: str) -> bool:
    return "\u3041" <= c <= "\u30ff"


def _mixed(word: str) -> bool:
    """Whether kana change inside a word of kana: 青いカエル has no いか."""
    letters = word.replace("ー", "")
    return all(map(_kana, letters)) and len({_katakana(c) for c in letters}) == 2


def _katakana(c: str) -> bool:
    return "\u30a1" <= c <= "\u30ff"
