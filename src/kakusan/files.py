"""Files that appear whole or not at all: written beside their place, then moved into it."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["replacing", "write_bytes", "write_json"]


@contextlib.contextmanager
def replacing(path: str | Path, lasting: bool = False) -> Iterator[Path]:
    """A temporary file to write to, which takes the place of ``path`` when the block ends and is deleted if it fails.

    ``lasting`` waits until the disk has it, so that it also survives a power cut.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        if lasting:
            _flush(temporary, os.O_RDWR)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if lasting and os.name == "posix":  # elsewhere a folder can not be opened
        _flush(path.parent, os.O_RDONLY)


def write_bytes(path: str | Path, data: bytes, lasting: bool = False) -> Path:
    """Bytes as a file; returns its path."""
    with replacing(path, lasting) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def write_json(path: str | Path, value: Any) -> Path:
    """Readable JSON with sorted keys; returns its path."""
    return write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def _flush(path: Path, mode: int) -> None:
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
