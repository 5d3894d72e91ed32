"""Tags: any subset of named tags as a vector; saying nothing about tags differs from saying that there are none."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from kakusan.core.batch import Cond
from kakusan.core.model import Encoder
from kakusan.part import KakusanError

__all__ = ["Tags"]

MOST = 10_000  # tags a model may know


class Tags(Encoder):
    """A subset S of ``names`` as a vector (B, dim) = ``b + sum_{i in S} e_i``; None is a learned vector of its own,
    the empty set is b.
    """

    kind = "condition/tags"

    def __init__(self, names: list[str], dim: int = 64) -> None:
        super().__init__()
        if not 1 <= len(names) <= MOST:
            raise KakusanError(f"names has {len(names)} tags: need 1 to {MOST}")
        twice, count = Counter(names).most_common(1)[0]
        if count > 1:
            raise KakusanError(f"names: the tag {twice!r} appears twice; names must differ")
        self.names = list(names)
        self.linear = nn.Linear(len(names), dim)
        nn.init.normal_(self.linear.weight, std=0.3)
        self.null_vector = nn.Parameter(torch.randn(dim).mul_(0.02))

    def prepare(self, values: list[Any]) -> dict[str, Tensor]:
        """Tags a sample, "red, round" or a list of names ("" or [] = none of them), or None = unsaid, to ``{"tags":
        (B, names) bool, "given": (B,) bool}``."""
        tags = torch.zeros(len(values), len(self.names), dtype=torch.bool)
        for row, value in enumerate(values):
            for name in [] if value is None else self._split(value):
                tags[row, self.index(name)] = True
        return {"tags": tags, "given": torch.tensor([v is not None for v in values], dtype=torch.bool)}

    def _split(self, value: Any) -> list[str]:
        """A value's tags, as they are written."""
        if isinstance(value, str):
            return [value] if value in self.names else [part for part in value.split(",") if part.strip()]
        if not isinstance(value, Iterable):
            raise KakusanError(f"tags {value!r}: write tags with commas between them, or give a list of them")
        return list(value)

    def index(self, name: str) -> int:
        """The row of one tag, in any case; raises KakusanError with the nearest there is."""
        if not isinstance(name, str):
            raise KakusanError(f"tag {name!r}: a tag is a word; this model knows {self._listed()}")
        if name in self.names:
            return self.names.index(name)
        wanted = name.strip().casefold()
        folded = {each.casefold(): i for i, each in reversed(list(enumerate(self.names)))}
        if wanted in folded:
            return folded[wanted]
        near = difflib.get_close_matches(wanted, folded, n=1)
        hint = f"did you mean {self.names[folded[near[0]]]!r}? " if near else ""
        raise KakusanError(f"unknown tag {name.strip()!r}: {hint}this model knows {self._listed()}")

    def _listed(self) -> str:
        shown = ", ".join(self.names[:40])
        return shown if len(self.names) <= 40 else f"{shown}, ... ({len(self.names)} in all)"

    def same(self, inputs: dict[str, Tensor], others: dict[str, Tensor]) -> Tensor:
        """Equal sets, or both unsaid."""
        mine, theirs = (torch.cat([i["given"][:, None], i["tags"] & i["given"][:, None]], 1) for i in (inputs, others))
        return torch.cdist(mine.float(), theirs.float(), p=1.0) < 0.5

    def forward(self, inputs: dict[str, Tensor], keep: Tensor) -> Cond:
        """``tags`` (B, names) bool, ``given`` (B,) bool and keep (B,) bool to ``Cond(vector=(B, dim))``."""
        said = (keep & inputs["given"])[:, None]
        vector = self.linear(inputs["tags"].to(self.linear.weight.dtype))
        return Cond(vector=torch.where(said, vector, self.null_vector))
