"""Fields: numbers and tags that stand in metadata beside the pictures, a column each, as conditions of a training."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kakusan.part import KakusanError, Spec

__all__ = ["Column", "Gather", "asked"]

WIDTH = 64  # of a field's part of the network's vector port
MOST_CELLS = 1 << 29  # rows x tags
_LOG = 100.0  # times as large as the least is the greatest number of a field that is taken on a log scale
_TAKEN = ("label", "augment", "prompt")  # names of other conditions


def asked(fields: str | Sequence[str] | None) -> dict[str, str]:
    """What was asked for, "thickness:mm, tags" or a list of such, as names with their units."""
    listed = fields.split(",") if isinstance(fields, str) else list(fields or [])
    found = {name.strip(): unit.strip() for name, _, unit in (str(item).partition(":") for item in listed)}
    for name in found:
        if not name.isidentifier() or name in _TAKEN:
            raise KakusanError(f"data.fields names {name!r}: a field is one word, and not {', '.join(_TAKEN)}")
    return found


@dataclass(frozen=True)
class Column:
    """One field of all rows: ``numbers`` (n,) float64, NaN = none, or ``tags`` (n, names) bool with ``given`` (n,)."""

    name: str
    unit: str = ""
    numbers: np.ndarray | None = None
    tags: np.ndarray | None = None
    given: np.ndarray | None = None
    names: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0
    log: bool = False

    def subset(self, rows: np.ndarray) -> Column:
        numbers, tags, given = (None if a is None else a[rows] for a in (self.numbers, self.tags, self.given))
        return replace(self, numbers=numbers, tags=tags, given=given)

    def spec(self) -> Spec:
        """The encoder that reads this field."""
        if self.tags is not None:
            return {"kind": "condition/tags", "names": list(self.names), "dim": WIDTH}
        scale = {"mean": self.mean, "std": self.std, "log": self.log}
        return {"kind": "condition/scalar", "name": self.name, "unit": self.unit, **scale, "dim": WIDTH}

    def inputs(self, rows: np.ndarray) -> dict[str, Tensor]:
        """What that encoder's ``prepare`` makes of some rows."""
        if self.tags is not None and self.given is not None:
            return {"tags": torch.from_numpy(self.tags[rows]), "given": torch.from_numpy(self.given[rows])}
        assert self.numbers is not None
        given = ~np.isnan(self.numbers[rows])
        value = np.where(given, self.numbers[rows], math.exp(self.mean) if self.log else self.mean)
        z = ((np.log(value) if self.log else value) - self.mean) / self.std
        return {"value": torch.from_numpy(np.where(given, z, 0).astype(np.float32)), "given": torch.from_numpy(given)}


@dataclass
class Gather:
    """Columns as they are read, line by line, from metadata."""

    fields: dict[str, str]  # names with their units
    numbers: dict[str, array[float]] = field(default_factory=dict)
    tags: dict[str, list[tuple[int, ...] | None]] = field(default_factory=dict)
    names: dict[str, dict[str, int]] = field(default_factory=dict)
    lists: set[str] = field(default_factory=set)
    found: set[str] = field(default_factory=set)

    def add(self, entry: dict[str, Any], where: str) -> None:
        """One line's fields."""
        for name in self.fields:
            value = entry.get(name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            words = isinstance(value, list) and all(isinstance(v, str) for v in value)
            if value is not None and not number and not words:
                raise KakusanError(f"{where}: {name} is {value!r}; a field is a number or a list of words")
            if value is not None and name in self.found and (name in self.lists) != words:
                raise KakusanError(f"{where}: {name} is {value!r}, in other lines it is of the other kind")
            if value is not None:
                self.found.add(name)
                self.lists |= {name} if words else set()
            known = self.names.setdefault(name, {})
            index = tuple(known.setdefault(v, len(known)) for v in value) if words else None
            self.tags.setdefault(name, []).append(index)
            self.numbers.setdefault(name, array("d")).append(float(value) if number else math.nan)

    def columns(self, order: np.ndarray, where: str) -> dict[str, Column]:
        """The columns of the lines in ``order``."""
        for name in self.fields:
            if name not in self.found:
                raise KakusanError(f"data.fields names {name!r}, but no line of {where} has it")
        return {n: self._tags(n, order) if n in self.lists else self._numbers(n, order, where) for n in self.fields}

    def _tags(self, name: str, order: np.ndarray) -> Column:
        known = self.names[name]
        listed = sorted(known)
        if len(listed) * len(order) > MOST_CELLS:
            raise KakusanError(f"data.fields={name}: {len(listed):,} tags of {len(order):,} pictures are too many")
        place = {known[tag]: i for i, tag in enumerate(listed)}
        tags = np.zeros((len(order), len(listed)), bool)
        given = np.zeros(len(order), bool)
        for row, line in enumerate(order):
            index = self.tags[name][line]
            given[row] = index is not None
            tags[row, [place[i] for i in index or ()]] = True
        return Column(name, tags=tags, given=given, names=tuple(listed))

    def _numbers(self, name: str, order: np.ndarray, where: str) -> Column:
        numbers = np.array(self.numbers[name])[order]
        real = numbers[~np.isnan(numbers)]
        if not len(real) or not np.isfinite(real).all() or not real.std() > 0:
            raise KakusanError(f"data.fields={name}: needs finite numbers that differ, in {where}")
        log = bool(real.min() > 0 and real.max() >= _LOG * real.min())
        scaled = np.log(real) if log else real
        mean, std = (float(f"{v:.6g}") for v in (scaled.mean(), scaled.std()))
        return Column(name, self.fields[name], numbers, mean=mean, std=std, log=log)
