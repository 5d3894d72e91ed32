"""Given: a picture as a condition's value, what its encoder takes and what a recipe keeps of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Given", "values"]


@dataclass(frozen=True, eq=False)
class Given:
    """``value`` is what ``Encoder.prepare`` takes; ``source`` says in a recipe which file it was, None = nothing."""

    value: Any = field(repr=False)
    source: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return str((self.source or {}).get("picture", "a picture"))


def values(given: Sequence[Any]) -> list[Any]:
    """Values as their encoder takes them."""
    return [v.value if isinstance(v, Given) else v for v in given]
