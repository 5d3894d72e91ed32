"""A folder of pictures as a store."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

from kakusan.domains.picture import MAX_BYTES, PictureError
from kakusan.part import KakusanError
from kakusan.training.store import Listing, ignorable

__all__ = ["FolderStore"]


def _is(kind: Callable[[], bool]) -> bool:
    """Whether an entry is of a kind; a link to itself is of none."""
    try:
        return kind()
    except OSError:
        return False


class FolderStore(Listing):
    """A folder and all below it, in sorted order; links are followed, loops are not, hidden files left out."""

    kind = "folder"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        seen: set[tuple[int, int]] = set()
        stack = [""]
        while stack:
            folder = stack.pop()
            at = path / folder if folder else path
            try:
                status = at.stat()
                if (status.st_dev, status.st_ino) in seen:
                    self.ignored["(a folder met twice through links)"] += 1
                    continue
                seen.add((status.st_dev, status.st_ino))
                below = self._scan(at, folder)
            except OSError as error:
                if not folder:
                    raise KakusanError(f"{path}: {error.strerror}") from None
                self.ignored[f"(a folder that can not be read: {error.strerror})"] += 1
                continue
            stack += reversed(below)

    def _scan(self, at: Path, folder: str) -> list[str]:
        files, below = [], []
        with os.scandir(at) as entries:
            for entry in entries:
                if ignorable(entry.name):
                    continue
                if _is(entry.is_dir):
                    below.append(entry.name)
                elif _is(entry.is_file):
                    files.append(entry.name)
                else:
                    self.ignored["(a broken link or no plain file)"] += 1
        files.sort()
        number = -1
        for name in files:
            if self._sort(folder, name) == "picture":
                if number < 0:
                    number = len(self.folders)
                    self.folders.append(folder)
                self.names.append(name)
                self.folder_of.append(number)
        return [f"{folder}/{name}" if folder else name for name in sorted(below)]

    def read(self, i: int) -> bytes:
        name = self.name(i)
        try:
            with (self.path / name).open("rb") as f:
                if (size := os.fstat(f.fileno()).st_size) > MAX_BYTES:
                    raise PictureError(name, "oversized", f"{size >> 20} MiB; the limit is {MAX_BYTES >> 20} MiB")
                return f.read()
        except OSError as error:
            raise PictureError(name, "broken", f"can not be read: {error.strerror}") from None

    def read_side(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise KakusanError(f"{self.path / name}: {error.strerror}") from None

    def stamp(self, i: int) -> bytes:
        try:
            status = (self.path / self.name(i)).stat()
        except OSError:
            return b"gone"
        return struct.pack("<qq", status.st_size, status.st_mtime_ns)

    def identity(self) -> bytes:
        return os.fsencode(self.path.resolve())
