"""Label: a class, by name or index, as a learned vector."""

from __future__ import annotations

import difflib
import operator
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from kakusan.core.batch import Cond
from kakusan.core.model import Encoder
from kakusan.part import KakusanError

__all__ = ["Label"]

MOST = 100_000  # classes


class Label(Encoder):
    """One of ``classes`` (a number, or names in order) as a vector (B, dim); the table's last row is "no class".

    ``called`` is what people call the condition ("style"): messages say it, and it may stand for the encoder's name.
    """

    kind = "condition/label"

    def __init__(self, classes: int | list[str], dim: int = 64, called: str = "label") -> None:
        super().__init__()
        if isinstance(classes, int) and classes > MOST:
            raise KakusanError(f"classes={classes}: at most {MOST} are possible")
        names = [str(i) for i in range(classes)] if isinstance(classes, int) else [str(name) for name in classes]
        if not names:
            raise KakusanError(f"classes={classes!r}: at least one class is needed")
        if len(set(names)) != len(names):
            twice = Counter(names).most_common(1)[0][0]
            raise KakusanError(f"classes: {twice!r} appears twice; names must differ")
        self.names, self.called = names, called
        self.table = nn.Embedding(len(names) + 1, dim)

    def prepare(self, values: list[Any]) -> dict[str, Tensor]:
        """Names (in any case), indices, or None = no class, to ``{"index": (B,) int64}``; None is len(names)."""
        return {"index": torch.tensor([self.index(value) for value in values], dtype=torch.int64)}

    def index(self, value: Any) -> int:
        """The row of one class; raises KakusanError with the classes there are."""
        if value is None:
            return len(self.names)
        if not isinstance(value, str):
            return self._checked(value)
        if value in self.names:
            return self.names.index(value)
        same = [i for i, name in enumerate(self.names) if name.casefold() == value.strip().casefold()]
        if len(same) == 1:
            return same[0]
        if len(same) > 1:
            options = ", ".join(self.names[i] for i in same)
            raise KakusanError(f"{self.called} {value!r} could be any of: {options}; write it with its capitals")
        if value.strip().isdecimal():
            return self._checked(int(value))
        folded = {name.casefold(): name for name in self.names}
        near = difflib.get_close_matches(value.strip().casefold(), folded, n=1)
        hint = f"did you mean {folded[near[0]]!r}? " if near else ""
        raise KakusanError(f"unknown {self.called} {value!r}: {hint}the classes are {self._listed()}")

    def _checked(self, value: Any) -> int:
        try:
            index = operator.index(value)
        except TypeError:
            index = -1
        if isinstance(value, bool) or not 0 <= index < len(self.names):
            raise KakusanError(
                f"{self.called} {value!r}: give a name or an index from 0 to {len(self.names) - 1}; "
                f"classes: {self._listed()}"
            )
        return index

    def _listed(self) -> str:
        shown = ", ".join(self.names[:40])
        return shown if len(self.names) <= 40 else f"{shown}, ... ({len(self.names)} in all)"

    def same(self, inputs: dict[str, Tensor], others: dict[str, Tensor]) -> Tensor:
        """Equal classes."""
        return inputs["index"][:, None] == others["index"]

    def forward(self, inputs: dict[str, Tensor], keep: Tensor) -> Cond:
        """``{"index": (B,)}`` and keep (B,) bool to ``Cond(vector=(B, dim))``."""
        return Cond(vector=self.table(torch.where(keep, inputs["index"], len(self.names))))
