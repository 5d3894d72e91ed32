"""What a verb of the command line made, as text for people and JSON for programs."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Outcome", "flat", "print_outcome", "printed", "table"]


@dataclass
class Outcome:
    """What a verb made: for programs, for people, and the path that is the last line."""

    data: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    path: Path | None = None
    code: int = 0
    silent: bool = False  # another process prints it


def print_outcome(outcome: Outcome, as_json: bool) -> None:
    """Text and path on their lines, or one JSON object."""
    if as_json:
        print(json.dumps(plain(outcome.data), ensure_ascii=False, allow_nan=False))
        return
    if outcome.text:
        print(outcome.text)
    if outcome.path is not None:
        print(outcome.path)


def printed(work: Callable[[Any], None]) -> str:
    """What a verb prints with rich, as text for standard output (colours only on a terminal)."""
    from rich.console import Console

    live = sys.__stdout__ is not None and sys.__stdout__.isatty()
    console = Console(file=io.StringIO(), force_terminal=live, width=None if live else 100, highlight=False)
    work(console)
    return console.file.getvalue().rstrip()  # type: ignore[attr-defined]


def flat(tree: dict[str, Any], head: str = "") -> list[tuple[str, str]]:
    """A tree as rows: denoiser.net.width, 64; long lists and texts are shortened."""
    rows: list[tuple[str, str]] = []
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            rows += flat(value, f"{head}{name}.")
        elif isinstance(value, (list, tuple)):
            shown = ", ".join(str(v) for v in value[:10])
            rows.append((f"{head}{name}", shown + (f", ... ({len(value)})" if len(value) > 10 else "")))
        else:
            words = f"{value:.6g}" if isinstance(value, float) else _cut(str(value))
            rows.append((f"{head}{name}", "–" if value in (None, "", {}) else words))
    return rows


def _cut(words: str) -> str:
    """The beginning of a long text, as a vocabulary is."""
    return words if len(words) <= 200 else f"{words[:160]} ... ({len(words):,} characters)"


def table(rows: list[tuple[str, str]]) -> str:
    """Names and words in two columns."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {words}" for name, words in rows)


def plain(value: Any) -> Any:
    """What JSON can hold: numbers that are not finite become null, paths and the like become text."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return plain(value.item()) if hasattr(value, "item") and getattr(value, "size", 0) == 1 else str(value)
