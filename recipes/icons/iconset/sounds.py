"""Sounds: which English word a word in katakana was borrowed from, told by its consonants."""

from __future__ import annotations

import re

__all__ = ["alike", "english", "katakana"]

_SPELLED = {"ch": "t", "sh": "s", "th": "s", "ph": "f", "ck": "k", "qu": "k", "x": "ks", "wh": "w"}
_ROWS = {  # katakana by consonant
    "k": "カキクケコ", "g": "ガギグゲゴ", "s": "サシスセソ", "z": "ザジズゼゾヂヅ", "t": "タチツテト", "d": "ダデド",
    "n": "ナニヌネノン", "h": "ハヒフヘホ", "b": "バビブベボヴ", "p": "パピプペポ", "m": "マミムメモ",
    "r": "ラリルレロ",
}  # fmt: skip
_SOUND = {c: sound for sound, row in _ROWS.items() for c in row}


def alike(word: str, loan: str) -> bool:
    """Whether an English word and one in katakana have the same consonants, two at least."""
    sound = katakana(loan)
    return len(sound) >= 2 and sound in english(word)


def english(word: str) -> set[str]:
    """An English word's consonants as Japanese ears have them, with and without an r that only lengthens a vowel:
    "cork" is "krk" or "kk"."""
    for old, new in _SPELLED.items():
        word = word.replace(old, new)
    word = re.sub(r"m(?=[pb])", "n", re.sub(r"c(?=[eiy])", "s", word))
    word = re.sub(r"y|w|h(?=[^aeiou]|$)", "", word)
    word = re.sub(r"(.)\1", r"\1", word.translate(str.maketrans("clvfjq", "krbhzk")))
    return {re.sub(r"[^a-z]|[aeiou]", "", w) for w in (word, re.sub(r"(?<=[aeiou])r(?![aeiouy])", "", word))}


def katakana(word: str) -> str:
    """The consonants of a word in katakana; none of what is written otherwise."""
    return "".join(_SOUND.get(c, "") for c in word) if re.fullmatch(r"[\u30a1-\u30f6ー]+", word) else ""
