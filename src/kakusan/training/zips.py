"""A zip of pictures as a store, read without unpacking it and without trusting its directory."""

from __future__ import annotations

import mmap
import os
import struct
import threading
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kakusan.domains.picture import MAX_BYTES, PictureError
from kakusan.part import KakusanError
from kakusan.training.store import Listing, find_hashes, ignorable, short_hash

__all__ = ["ZipStore"]


class _Members:
    """Where zip members lie, 29 bytes each."""

    def __init__(self) -> None:
        self.offset, self.packed, self.size = array("q"), array("q"), array("q")
        self.crc, self.method = array("I"), array("B")

    def append(self, offset: int, packed: int, size: int, crc: int, method: int) -> None:
        for column, value in zip(
            (self.offset, self.packed, self.size, self.crc, self.method),
            (offset, packed, size, crc, method),
            strict=True,
        ):
            column.append(value)


class ZipStore(Listing):
    """A zip, its directory kept compactly; members are read by offset and never expand past what they declare."""

    kind = "zip"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._members, self._texts = _Members(), _Members()
        self._text_hashes, self._text_order = array("Q"), np.zeros(0, np.int64)
        self._file, self._lock = path.open("rb"), threading.Lock()
        size = os.fstat(self._file.fileno()).st_size
        if size < 22:
            raise KakusanError(f"{path}: this is no zip file ({size} bytes)")
        numbers: dict[str, int] = {}
        with mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            for name, member in _directory(view, path):
                self._add(name, member, numbers)

    def _add(self, full: str, member: tuple[int, int, int, int, int], numbers: dict[str, int]) -> None:
        full = full.replace("\\", "/").lstrip("/")
        folder, _, name = full.rpartition("/")
        if not name or any(ignorable(part) for part in full.split("/")):
            return
        kind = self._sort(folder, name)
        if kind == "picture":
            if folder not in numbers:
                numbers[folder] = len(self.folders)
                self.folders.append(folder)
            self.names.append(name)
            self.folder_of.append(numbers[folder])
            self._members.append(*member)
        elif kind == "side":
            self._text_hashes.append(short_hash(full))
            self._texts.append(*member)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def read(self, i: int) -> bytes:
        return self._member(self._members, i, self.name(i))

    def read_side(self, name: str) -> bytes | None:
        hashes = np.frombuffer(self._text_hashes, np.uint64)
        if len(self._text_order) != len(hashes):
            self._text_order = np.argsort(hashes)
        at = find_hashes(hashes, self._text_order, np.array([short_hash(name)], np.uint64))[0]
        return None if at < 0 else self._member(self._texts, int(at), name)

    def _member(self, table: _Members, i: int, name: str) -> bytes:
        size, packed, method = table.size[i], table.packed[i], table.method[i]
        if size > MAX_BYTES or packed > MAX_BYTES:
            raise PictureError(name, "oversized", f"{max(size, packed) >> 20} MiB; the limit is {MAX_BYTES >> 20} MiB")
        if method not in (0, 8):
            reason = "it is encrypted" if method == 255 else f"compression method {method} is not stored or deflated"
            raise PictureError(name, "unsupported", reason)
        head = self._at(30, table.offset[i])
        if len(head) < 30 or head[:4] != b"PK\3\4":
            raise PictureError(name, "broken", "the zip has no such member where its directory says")
        start = table.offset[i] + 30 + sum(struct.unpack_from("<HH", head, 26))
        data = self._at(packed, start)
        if method == 8:
            data = _inflated(data, size, name)
        if len(data) != size:
            raise PictureError(name, "truncated", f"{len(data)} of {size} bytes in the zip")
        if zlib.crc32(data) != table.crc[i]:
            raise PictureError(name, "broken", "its checksum in the zip is wrong")
        return data

    def _at(self, count: int, offset: int) -> bytes:
        """Bytes at a place of the file, from any thread (Windows has no pread)."""
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), count, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(count)

    def stamp(self, i: int) -> bytes:
        return struct.pack("<Iq", self._members.crc[i], self._members.size[i])

    def identity(self) -> bytes:
        return b"zip"


def _inflated(data: bytes, size: int, name: str) -> bytes:
    machine = zlib.decompressobj(-15)
    try:
        out = machine.decompress(data, size + 1)
    except zlib.error as error:
        raise PictureError(name, "broken", f"in the zip: {error}") from None
    if len(out) > size:
        raise PictureError(name, "oversized", f"expands past the {size} bytes that the zip declares")
    return out


def _directory(view: mmap.mmap, path: Path) -> Iterator[tuple[str, tuple[int, int, int, int, int]]]:
    """(name, (offset, packed, size, crc, method)) of every member (APPNOTE 6.3.9, 4.3.12); method 255 = encrypted."""
    end = view.rfind(b"PK\5\6", max(0, len(view) - 65557))
    if end < 0:
        raise KakusanError(f"{path}: this is no zip file, or its end is missing (downloaded completely?)")
    count, length, offset = struct.unpack_from("<HII", view, end + 10)
    at = end - length
    if 0xFFFF in (count,) or 0xFFFFFFFF in (length, offset):
        locator = end - 20
        if locator >= 0 and view[locator : locator + 4] == b"PK\6\7":
            big = struct.unpack_from("<Q", view, locator + 8)[0]
            if view[big : big + 4] != b"PK\6\6":
                big = locator - 56  # bytes stand before the zip
            if big < 0 or view[big : big + 4] != b"PK\6\6":
                raise KakusanError(f"{path}: damaged zip (its 64-bit directory is not where it says)")
            count, length, offset = struct.unpack_from("<QQQ", view, big + 32)
            at = big - length
    shift = at - offset  # bytes before the zip proper
    for _ in range(count):
        if at < 0 or view[at : at + 4] != b"PK\1\2":
            raise KakusanError(f"{path}: damaged zip (its directory breaks off)")
        flags, method, _, _, crc, packed, size, n, m, k = struct.unpack_from("<HHHHIIIHHH", view, at + 8)
        start = struct.unpack_from("<I", view, at + 42)[0]
        name = view[at + 46 : at + 46 + n].decode("utf-8" if flags & 0x800 else "cp437", "replace")
        packed, size, start = _wide(view[at + 46 + n : at + 46 + n + m], packed, size, start)
        yield name, (start + shift, packed, size, crc, 255 if flags & 1 else min(method, 254))
        at += 46 + n + m + k


def _wide(extra: bytes, packed: int, size: int, start: int) -> tuple[int, int, int]:
    """The 64-bit values of the extra field, where the 32-bit ones say to look there (4.5.3)."""
    if 0xFFFFFFFF not in (packed, size, start):
        return packed, size, start
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            values = [next(wide, v) if v == 0xFFFFFFFF else v for v in (size, packed, start)]
            return values[1], values[0], values[2]
        at += 4 + length
    return packed, size, start
