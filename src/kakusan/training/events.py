"""events.jsonl and log.jsonl: a run's decisions, on disk before they act, and its measurements, rewound on resume.

Events are rare and decide things, so each line is synced to disk. Log rows are frequent and can be computed again: they
are buffered and written at checkpoints, which remember how far the file had come.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from kakusan.part import KakusanError
from kakusan.training.state import disk_full, is_full

__all__ = ["DECISIONS", "Events", "Log", "read_rows"]

DECISIONS = ("pace",)  # what the clock decided: replayed on resume, never decided again


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _write_at(path: Path, offset: int, data: bytes) -> None:
    """Make the file end with ``data`` at ``offset``, on disk: what a failed attempt left behind is cut off first."""
    try:
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.truncate(offset)
            file.seek(offset)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if is_full(error):
            raise disk_full(path.parent, path.name, len(data)) from None
        raise


def _check_size(path: Path, offset: int) -> None:
    size = path.stat().st_size if path.exists() else 0
    if size < offset:
        raise KakusanError(f"{path} has {size} bytes where the checkpoint knows {offset}: restore the file to resume")


def _whole(path: Path) -> int:
    """Length of a file up to its last whole line: a crash may have cut one short."""
    return path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0


def read_rows(path: Path, start: int = 0) -> list[dict[str, Any]]:
    """The whole lines of a JSON-lines file from byte ``start``; a last line that a crash cut short is left out."""
    if not path.exists():
        return []
    data = path.read_bytes()[start:]
    rows = []
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines()):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise KakusanError(
                f"{path}: line {number + 1} after byte {start} is not JSON ({error}); restore the file"
            ) from None
    return rows


class Events:
    """Decisions and notices, ``{"kind", "step", ...}``, in the order they acted; on disk when ``append`` returns.

    After ``rewind`` the file still ends with the decisions taken later than the checkpoint: they wait to be replayed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = _whole(path)  # what has acted ends here: a checkpoint remembers it
        self._waiting: list[dict[str, Any]] = []

    def append(self, event: dict[str, Any]) -> None:
        """Write one event and wait for the disk."""
        data = _line(event)
        if self._waiting:
            self._rewrite(data)
        else:
            _write_at(self.path, self.offset, data)
        self.offset += len(data)

    def rewind(self, offset: int) -> None:
        """Back to a checkpoint that knew ``offset`` bytes: later decisions wait to be replayed, later notices go."""
        _check_size(self.path, offset)
        self._waiting = [e for e in read_rows(self.path, offset) if e["kind"] in DECISIONS]
        self.offset = offset
        self._rewrite(b"")

    def replay(self, kind: str, step: int) -> dict[str, Any] | None:
        """The decision of this kind that was taken at this step before an interruption, if there was one."""
        if not self._waiting:
            return None
        event = self._waiting[0]
        if (event["kind"], event["step"]) != (kind, step):
            raise KakusanError(
                f"{self.path} holds a decision {event['kind']!r} of step {event['step']} where one of step {step} "
                "was due: the recipe changed since; start a new run, or restore the recipe"
            )
        self._waiting.pop(0)
        self.offset += len(_line(event))
        return event

    def _rewrite(self, data: bytes) -> None:
        """What has acted, then ``data``, then what waits; atomically."""
        acted = self.path.read_bytes()[: self.offset] if self.path.exists() else b""
        fresh = self.path.with_suffix(".tmp")
        _write_at(fresh, 0, acted + data + b"".join(map(_line, self._waiting)))
        fresh.replace(self.path)


class Log:
    """Rows of measurements, buffered until ``flush``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = _whole(path)
        self._buffer: list[bytes] = []

    def append(self, row: dict[str, Any]) -> None:
        """Remember one row."""
        self._buffer.append(_line(row))

    def flush(self) -> int:
        """Write what is remembered and wait for the disk; returns the file's length. After a failure, flush again."""
        data = b"".join(self._buffer)
        _write_at(self.path, self.offset, data)
        self.offset += len(data)
        self._buffer.clear()
        return self.offset

    def rewind(self, offset: int) -> None:
        """Forget what was written after byte ``offset``: it will be measured again."""
        _check_size(self.path, offset)
        self._buffer.clear()
        self.offset = offset
        _write_at(self.path, offset, b"")
