"""Kept: the rows of one part of a measurement as a JSON file that grows; what is there is not measured again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kakusan.files import write_json

__all__ = ["Kept"]

Row = dict[str, Any]


class Kept:
    """Rows by name under ``asked``, all that decides them; a file made of another question is begun anew."""

    def __init__(self, file: Path, asked: Row) -> None:
        self.file, self.asked = file, json.loads(json.dumps(asked))
        found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        same = found.get("asked") == self.asked
        self.rows: dict[str, Row] = found["rows"] if same else {}
        self.extra: Row = {k: v for k, v in found.items() if k not in ("asked", "rows")} if same else {}

    def row(self, name: str, make: Callable[[], Row]) -> Row:
        """The row of a name, made and written now where it is not there yet."""
        if name not in self.rows:
            self.rows[name] = json.loads(json.dumps(make()))
            self.write()
        return self.rows[name]

    def write(self, **extra: Any) -> None:
        """All rows, and what is said beside them."""
        self.extra |= extra
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.file, {"asked": self.asked, **self.extra, "rows": self.rows})
