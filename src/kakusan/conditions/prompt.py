"""Prompts: words with weights, ``a (red:1.3) apple``, taken apart."""

from __future__ import annotations

import re
from typing import Any

from kakusan.part import KakusanError

__all__ = ["LEAST", "LONGEST", "MOST", "escape", "parse", "plain", "prompt_parts"]

LEAST, MOST = 0.0, 4.0  # of a weight
LONGEST = 10_000  # characters of a prompt
_NUMBER = r"\s*(?:[-+]?[\d.][\d.eE+-]*|[-+]?inf(?:inity)?|nan|)\s*"
_WEIGHED = re.compile(rf"\\.|\(((?:\\.|[^()\\])*):({_NUMBER})\)", re.DOTALL | re.IGNORECASE)  # or an escape
_WIDE = re.compile(r"(?<!\\)（([^（）()\\]*)[：:]\s*([\d０-９.．]+)\s*）")  # as typed between Japanese words
_CLOSING = re.compile(rf"\\.|:({_NUMBER})\)", re.DOTALL | re.IGNORECASE)


def parse(prompt: str) -> list[tuple[str, float]]:
    r"""A prompt as stretches of words with a weight each: ``a (red:1.3) apple`` is a, 1; red, 1.3; apple, 1.

    Parentheses without a weight are words like any others. ``\`` takes the character after it as it is: ``\(``,
    ``\)``, ``\\``. A weight may be typed full-width, ``（りんご：１．３）``. Raises KakusanError for parentheses that
    do not match, weights inside weights, and weights that are no number from 0 to 4.
    """
    if len(prompt) > LONGEST:
        raise KakusanError(f"prompt of {len(prompt):,} characters: at most {LONGEST:,} are read; shorten it")
    prompt = _WIDE.sub(lambda m: f"({m[1]}:{m[2].replace('．', '.')})", prompt)
    _balanced(prompt)
    found: list[tuple[str, float]] = []
    words, at = "", 0
    for match in _WEIGHED.finditer(prompt):
        words += prompt[at : match.start()]
        at = match.end()
        if match[1] is None:
            words += match[0]
            continue
        found += [(_literal(words, prompt), 1.0), (_bare(match[1]), _weight(match[2], match[1]))]
        words = ""
    found.append((_literal(words + prompt[at:], prompt), 1.0))
    return [(text.strip(), weight) for text, weight in found if text.strip()]


def prompt_parts(value: Any) -> list[tuple[str, float]]:
    """What a user gave as a prompt, in stretches with a weight each; None is nothing."""
    if value is None:
        return []
    if not isinstance(value, str):
        raise KakusanError(f"prompt {value!r}: give words, as 'a red apple'")
    return parse(value)


def plain(prompt: str) -> str:
    """The words of a prompt without its weights and escapes."""
    return " ".join(text for text, _ in parse(prompt))


def escape(words: str) -> str:
    """Words as a prompt that means just them: ``parse(escape(words))`` is ``[(words, 1)]``."""
    return re.sub(r"([\\()|{}>（）])", r"\\\1", words)


def _balanced(prompt: str) -> None:
    """Refuses a parenthesis without its other half."""
    opened: list[int] = []
    at = 0
    while at < len(prompt):
        if prompt[at] == "(":
            opened.append(at)
        elif prompt[at] == ")":
            if not opened:
                raise KakusanError(_alone(prompt, at))
            opened.pop()
        at += 2 if prompt[at] == "\\" else 1
    if opened:
        raise KakusanError(_alone(prompt, opened[-1]))


def _alone(prompt: str, at: int) -> str:
    near = prompt[max(0, at - 10) : at + 10]
    return (
        f"prompt: the {prompt[at]!r} in {near!r} has no other half; write a parenthesis of the text as \\{prompt[at]}"
    )


def _literal(text: str, prompt: str) -> str:
    """Words outside weights, in which no weight may be left over."""
    for match in _CLOSING.finditer(text):
        if match[1] is not None:
            raise KakusanError(
                f"prompt {prompt[:60]!r}: a weight around a weight or around parentheses; give each stretch one weight"
            )
    return _bare(text)


def _bare(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def _weight(text: str, words: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = float("nan")
    if not LEAST <= weight <= MOST:
        raise KakusanError(
            f"prompt: the weight of ({words.strip()[:40]}:{text.strip()}) must be a number from {LEAST:g} to {MOST:g}; "
            "1 is none"
        )
    return weight
