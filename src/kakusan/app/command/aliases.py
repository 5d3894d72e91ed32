"""Aliases: a model's own conditions as options of the command line, ``--style 3d`` for ``--cond style=3d``, and options
whose value may be left out."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from cyclopts import App

__all__ = ["spelled_out"]

BARE = {"--upscale": "auto"}  # what an option without a value stands for
NEAR = 0.75  # as close to an option's name as this, and it is that option misspelled


def spelled_out(app: App, words: Sequence[str]) -> list[str]:
    """A command's words with every option that the verb does not have as a condition of that name.

    What is close to one of the verb's options stays as it is, for the parser to name the nearest; so does an option
    without a value that needs one.
    """
    options = _options(app, words)
    if "--cond" not in options:
        return list(words)
    out: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*out, word, *rest]
        name, sign, value = word.partition("=")
        valued = bool(sign) or bool(rest and not rest[0].startswith("--"))
        if name in options or not valued or not _condition(name, options):
            bare = word in BARE and (not rest or rest[0].startswith("-"))
            out += [word, BARE[word]] if bare else [word]
        else:
            out += ["--cond", f"{name[2:]}={value if sign else rest.pop(0)}"]
    return out


def _condition(name: str, options: set[str]) -> bool:
    """Whether a word can be a condition's name: none of the verb's options is nearly the same."""
    if not name.startswith("--") or not name[2:].replace("-", "_").isidentifier():
        return False
    return not difflib.get_close_matches(name[2:], [o.lstrip("-") for o in options], 1, NEAR)


def _options(app: App, words: Sequence[str]) -> set[str]:
    """The options of the verb that the words begin with."""
    if not words or words[0].startswith("-") or words[0] not in app:
        return set()
    verb = app[words[0]]
    if verb.default_command is None:
        return set()
    return {"--help", *(name for each in verb.assemble_argument_collection() for name in each.names)}
