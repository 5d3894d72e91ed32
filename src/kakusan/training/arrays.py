"""Arrays as a store: IDX files, ``.npz`` and ``.npy``, memory-mapped, never unpickled."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from kakusan.domains.picture import channels_last
from kakusan.part import KakusanError
from kakusan.training.store import Names, Store

__all__ = ["ArrayStore", "idx_array", "npz_array", "pictures_of"]


class ArrayStore(Store):
    """Arrays (N, H, W, C) one after the other, memory-mapped, so that their pages are the file's."""

    kind = "array"

    def __init__(self, path: Path, parts: list[tuple[str, Path, np.ndarray]]) -> None:
        self.path, self.parts = path, parts
        self.ignored, self.side, self.captions = Counter(), [], Names()
        self.starts = np.cumsum([0] + [len(a) for _, _, a in parts])
        self.dtype = np.result_type(*[_stored_dtype(a) for _, _, a in parts])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def _at(self, i: int) -> tuple[int, int]:
        part = int(np.searchsorted(self.starts, i, "right")) - 1
        return part, i - int(self.starts[part])

    def name(self, i: int) -> str:
        part, at = self._at(i)
        return f"{self.parts[part][0]}[{at}]"

    def read(self, i: int) -> np.ndarray:
        part, at = self._at(i)
        a = np.array(self.parts[part][2][at])
        return a.astype(np.uint8) * np.uint8(255) if a.dtype.kind == "b" else a.astype(self.dtype, copy=False)

    def read_side(self, name: str) -> bytes | None:
        return None

    def fingerprint(self, rows: np.ndarray | None = None) -> str:
        """sha256 over the files' paths, sizes and mtimes in ns, and which rows of them."""
        status = [(os.fsencode(p.resolve()), p.stat()) for _, p, _ in self.parts]
        digest = hashlib.sha256()
        for name, s in status:
            digest.update(name + struct.pack("<qq", s.st_size, s.st_mtime_ns))
        digest.update(np.ascontiguousarray(len(self) if rows is None else rows).tobytes())
        return digest.hexdigest()


def _stored_dtype(a: np.ndarray) -> np.dtype[Any]:
    """uint8 and booleans stay 8 bits, integers up to 65535 become 16, everything else float32."""
    if a.dtype.kind == "b" or a.dtype in (np.uint8, np.uint16):
        return np.dtype(np.uint16 if a.dtype == np.uint16 else np.uint8)
    if a.dtype.kind == "f":
        return np.dtype(np.float32)
    low = min(int(a[i : i + 1024].min()) for i in range(0, len(a), 1024))
    high = max(int(a[i : i + 1024].max()) for i in range(0, len(a), 1024))
    return np.dtype(np.float32 if low < 0 or high > 65535 else np.uint8 if high <= 255 else np.uint16)


def _unpacked(stream: Any, size: int | None, what: str) -> Any:
    """A compressed stream as an anonymous file on disk (never in memory), at most ``size`` bytes long."""
    out = tempfile.TemporaryFile(prefix="kakusan-")  # noqa: SIM115 (the map outlives this call)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    limit = free // 2 if size is None else size
    try:
        while block := stream.read(1 << 20):
            out.write(block)
            if out.tell() > limit:
                raise KakusanError(f"{what}: expands past {limit} bytes: damaged, or not what it says")
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise KakusanError(f"{what}: can not be unpacked: {error}") from None
    out.flush()
    return out


def idx_array(path: Path) -> np.ndarray:
    """An IDX file of unsigned bytes (LeCun's MNIST format), gzipped or not, as a memory-mapped array."""
    packed = path.suffix.lower() == ".gz"
    with gzip.open(path) if packed else path.open("rb") as f:
        try:
            head = f.read(4)
            if len(head) < 4 or head[:3] != b"\0\0\x08" or not 1 <= head[3] <= 4:
                raise KakusanError(f"{path}: this is no IDX file of unsigned bytes")
            shape = struct.unpack(f">{head[3]}I", f.read(4 * head[3]))
        except (OSError, EOFError, struct.error, zlib.error) as error:
            raise KakusanError(f"{path}: damaged IDX file: {error}") from None
        start, total = 4 + 4 * head[3], int(np.prod(shape, dtype=np.float64))
        if packed:
            f.seek(0)
        file = _unpacked(f, start + total, str(path)) if packed else path.open("rb")
    length = os.fstat(file.fileno()).st_size
    if length != start + total:
        raise KakusanError(f"{path}: truncated: {length} of {start + total} bytes ({shape})")
    return np.memmap(file, np.uint8, "r", start, shape)


def npz_array(path: Path, member: str | None) -> np.ndarray:
    """An array of a ``.npz``, or a ``.npy`` (member None), memory-mapped; objects (pickles) are refused."""
    try:
        if member is None:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        with zipfile.ZipFile(path) as z, z.open(member + ".npy") as f:
            file = _unpacked(f, z.getinfo(member + ".npy").file_size, f"{path}: {member}")
        file.seek(0)
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = reader(file)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise KakusanError(f"{path}: can not be read as an array: {str(error).splitlines()[0]}") from None


def pictures_of(a: np.ndarray, where: str) -> np.ndarray:
    """(N, H, W), (N, H, W, C) or (N, C, H, W) numbers as (N, H, W, C); a view."""
    if a.ndim not in (3, 4) or a.dtype.kind not in "buif" or not a.size:
        raise KakusanError(
            f"{where}: an array {a.shape} of {a.dtype}; pictures are (N, H, W), (N, H, W, C) or (N, C, H, W)"
        )
    return channels_last(a, 1)
