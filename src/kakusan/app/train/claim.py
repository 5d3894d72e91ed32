"""Claims: which of several processes works on a folder. A claim ends with its process, however that ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["claimed"]


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether this process holds FOLDER.lock for the length of the block; False while another does.

    Where the system has no such locks (Windows), every claim is granted: there, run one process.
    """
    try:
        import fcntl
    except ImportError:
        yield True
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
