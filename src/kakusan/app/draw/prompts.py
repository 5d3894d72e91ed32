"""Prompt syntax, the same for every condition: blends, switches, wildcards, files of prompts.

``cat:0.7 | dog:0.3`` is a blend, ``cat >>2 dog`` gives way at the noise level 2 (``>>`` alone at 1), ``{red,green}
apple`` stands for two prompts. What lies in parentheses is left alone, and a backslash makes any of ``| { } , : > \\``
an ordinary character.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kakusan.app.draw.given import Given
from kakusan.part import KakusanError

__all__ = ["Line", "Mix", "Term", "choices", "literal", "parse", "read_prompts", "recalled", "recorded"]

MOST_TERMS = 8  # of one blend or switch
MOST_CHOICES = 10_000  # that wildcards stand for
MOST_LINES = 10_000  # of a file of prompts
_WEIGHT = re.compile(r"(.*[^\\]):\s*(\d+\.?\d*|\.\d+)\s*", re.S)
_LEVEL = re.compile(r"(\d+\.?\d*|\.\d+)(?=\s|$)")
_ESCAPED = re.compile(r"\\([|{},:>\\])")


@dataclass(frozen=True)
class Term:
    """One value of a mix: it counts ``weight`` where ``low < sigma/alpha <= high``."""

    value: Any
    weight: float = 1.0
    low: float = 0.0
    high: float = math.inf


@dataclass(frozen=True)
class Mix:
    """Several values of one condition at once, or after each other."""

    terms: tuple[Term, ...]

    def __str__(self) -> str:
        """As a user would write it."""
        levels = sorted({t.high for t in self.terms}, reverse=True)
        said = []
        for high in levels:
            here = [t for t in self.terms if t.high == high]
            even = len({t.weight for t in here}) == 1
            blend = " | ".join(str(t.value) if even else f"{t.value}:{t.weight:g}" for t in here)
            said.append(blend if high == math.inf else f">>{high:g} {blend}")
        return " ".join(said)


def parse(text: Any, names: Sequence[str] = ()) -> Any:
    """A value as it is written to what it means: itself, or a ``Mix``. One of ``names`` always means itself."""
    if not isinstance(text, str) or text in names:
        return text
    terms: list[Term] = []
    high = math.inf
    stages = _split(text, ">>")
    for i, stage in enumerate(stages):
        low = _level(stages[i + 1], text)[0] if i + 1 < len(stages) else 0.0
        if not low < high:
            raise KakusanError(f"{text!r}: the levels after >> must fall, and {low:g} comes after {high:g}")
        words = _level(stage, text)[1] if i else stage
        terms += [Term(value, weight, low, high) for value, weight in _blend(words, text)]
        high = low
    if len(terms) > MOST_TERMS:
        raise KakusanError(f"{text!r}: has {len(terms)} parts; at most {MOST_TERMS} can be mixed")
    return terms[0].value if len(terms) == 1 else Mix(tuple(terms))


def _level(stage: str, text: str) -> tuple[float, str]:
    """The noise level that a stage begins at, and the rest of it."""
    found = _LEVEL.match(stage)
    level = float(found[1]) if found else 1.0
    if not level > 0:
        raise KakusanError(f"{text!r}: the noise level after >> must be above 0; 1 is usual")
    return level, stage[found.end() :] if found else stage


def _blend(words: str, text: str) -> list[tuple[str, float]]:
    """The values of one stage with their weights."""
    parts = _split(words, "|")
    out = []
    for part in parts:
        found = _WEIGHT.fullmatch(part) if len(parts) > 1 else None
        value, weight = (found[1], float(found[2])) if found else (part, 1.0)
        if not 0 < weight <= 1000:
            raise KakusanError(f"{text!r}: the weight {weight:g} must be above 0 and at most 1000; --no leads away")
        if not value.strip() and (len(parts) > 1 or words != text):
            raise KakusanError(f"{text!r}: nothing stands on one side of | or >>; write \\| or \\> for the character")
        out.append((plain(value.strip() if len(parts) > 1 or words != text else value), weight))
    return out


def plain(text: str) -> str:
    """Without the backslashes of this syntax."""
    return _ESCAPED.sub(r"\1", text)


def literal(text: str) -> str:
    """Words as a value that means just them: ``parse(literal(text))`` is ``text``."""
    return re.sub(r"([|{},:>\\])", r"\\\1", text)


def _split(text: str, mark: str) -> list[str]:
    """Split where ``mark`` stands outside parentheses and without a backslash before it."""
    nested = text.count("(") == text.count(")")
    parts, begin, depth, i = [], 0, 0, 0
    while i < len(text):
        if text[i] == "\\":
            i += 2
            continue
        if nested and text[i] in "()":
            depth = max(0, depth + (1 if text[i] == "(" else -1))
        if depth == 0 and text.startswith(mark, i):
            parts.append(text[begin:i])
            i = begin = i + len(mark)
            continue
        i += 1
    return [*parts, text[begin:]]


def choices(text: Any, names: Sequence[str] = ()) -> list[Any]:
    """What a value with wildcards stands for, every ``{a,b}`` replaced by each of its options, the last one fastest."""
    if not isinstance(text, str) or text in names or not re.search(r"(?<!\\)[{}]", text):
        return [text]
    pieces: list[list[str]] = []
    for i, part in enumerate(re.split(r"(?<!\\)\{([^{}]*(?:\\[{}][^{}]*)*)(?<!\\)\}", text)):
        if i % 2 == 0 and re.search(r"(?<!\\)[{}]", part):
            raise KakusanError(f"{text!r}: a brace is left over; write {{red,green}}, or \\{{ for the character")
        pieces.append(re.split(r"(?<!\\),", part) if i % 2 else [part])
    count = math.prod(len(p) for p in pieces)
    if count > MOST_CHOICES:
        raise KakusanError(f"{text!r}: stands for {count:,} prompts; at most {MOST_CHOICES:,} are possible")
    return ["".join(each) for each in itertools.product(*pieces)]


@dataclass(frozen=True)
class Line:
    """One prompt of a file and where it stands, from 1."""

    number: int
    text: str


def read_prompts(path: str | Path, first: int = 1) -> list[Line]:
    """The prompts of a text file, one a line from line ``first`` on; empty lines are passed over."""
    source = Path(path)
    if not source.is_file():
        raise KakusanError(f"--prompts {source}: no such file; it is a text file with one prompt a line")
    if source.stat().st_size > 1 << 22:
        raise KakusanError(f"--prompts {source}: {source.stat().st_size >> 20} MiB; at most 4 MiB are read")
    try:
        lines = source.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise KakusanError(f"--prompts {source}: is not UTF-8 text; it needs one prompt a line") from None
    found = [Line(i, text.strip()) for i, text in enumerate(lines, 1) if text.strip() and i >= first]
    if not found:
        raise KakusanError(f"--prompts {source}: has no prompt" + (f" from line {first} on" if first > 1 else ""))
    if len(found) > MOST_LINES:
        raise KakusanError(f"--prompts {source}: has {len(found):,} prompts; at most {MOST_LINES:,} at once")
    return found


def recorded(value: Any) -> Any:
    """A value as a recipe keeps it."""
    if isinstance(value, Given):
        return None if value.source is None else dict(value.source)
    if not isinstance(value, Mix):
        return value
    return {"mix": [[t.value, t.weight, t.low, None if t.high == math.inf else t.high] for t in value.terms]}


def recalled(value: Any) -> Any:
    """A value from a recipe; what stands there means itself."""
    if not isinstance(value, dict) or "mix" not in value:
        return value
    terms = ((v, float(w), float(low), high) for v, w, low, high in value["mix"])
    return Mix(tuple(Term(v, w, low, math.inf if high is None else float(high)) for v, w, low, high in terms))
