"""Options that several verbs share, and those whose words have a form of their own: NAME=VALUE, weights, LOW,HIGH."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from kakusan.app.draw.shipped import named
from kakusan.part import KakusanError

__all__ = ["Device", "Json", "Labels", "Lora", "Model", "conditions", "numbers", "positive", "weights"]

Json = Annotated[
    bool, Parameter("--json", show_default=False, help="Print one JSON object as the last line of output.")
]
Device = Annotated[str, Parameter(help="cpu, cuda, cuda:1, mps; auto takes the fastest there is.")]
Lora = Annotated[list[str] | None, Parameter(help="Adapters trained from it, RUN_OR_FILE[:WEIGHT]; may be repeated.")]
Labels = Annotated[str | None, Parameter(help="Where classes are read: auto, folders, none, or a field of metadata.")]
Model = Annotated[str, Parameter(help=f"A run, a model file, or the name of a model that ships{named()}.")]


def conditions(flag: str, items: Sequence[str] | None, text: str | None = None) -> dict[str, str] | None:
    """NAME=VALUE of a repeated option; ``text`` is the prompt among them."""
    found = {} if text is None else {"prompt": text}
    for item in items or []:
        name, sign, value = item.partition("=")
        if not sign or not name:
            raise KakusanError(f"{flag} {item!r}: write NAME=VALUE, as in {flag} label=cat")
        if name in found:
            raise KakusanError(f"{flag} {item!r}: {name} is given twice; mix values as in {flag} '{name}=a | b'")
        found[name] = value
    return found or None


def weights(items: Sequence[str] | None) -> float | dict[str, float] | None:
    """--guidance 3, or --guidance label=2 --guidance prompt=4."""
    if not items:
        return None
    named = [item.rpartition("=") for item in items]
    if len(items) > 1 and any(not name for name, _, _ in named):
        raise KakusanError(f"--guidance {' and '.join(items)}: give one number for all, or NAME=WEIGHT for each")
    if len({name for name, _, _ in named}) < len(named):
        raise KakusanError(f"--guidance {' and '.join(items)}: a condition has one weight")
    try:
        if not named[0][0]:
            return float(items[0])
        return {name: float(value) for name, _, value in named}
    except ValueError:
        raise KakusanError(f"--guidance {' '.join(items)}: need a number, or NAME=NUMBER; 1 is none") from None


def numbers(text: str | None) -> Any:
    """LOW,HIGH as two numbers; what is none is left for the library to refuse."""
    return None if text is None else text.split(",")


def positive(name: str, value: float | None) -> None:
    if value is not None and not value > 0:
        raise KakusanError(f"{name} {value}: must be greater than 0")
