"""Cache: every picture of a source decoded once, in parallel, into one memory-mapped array; broken ones are named."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from kakusan.domains.image import Image
from kakusan.domains.picture import PictureError
from kakusan.part import KakusanError
from kakusan.training.source import Source
from kakusan.training.threads import in_order

__all__ = ["Cache", "build_cache", "cache_root", "hash_of"]

_FORMAT = 1
_CHUNK = 256  # pictures a task
Progress = Callable[[int, int, int], None]  # done, total, broken


@dataclass(frozen=True)
class Cache:
    """Fitted pictures on disk; every array is a read-only map of a file."""

    path: Path
    pixels: np.ndarray  # (N, H, W, C) uint8, uint16 or float32
    rows: np.ndarray  # (N,) int64: row of the source
    hashes: np.ndarray  # (N,) uint64 of the fitted pixels
    broken: list[tuple[str, str]]  # name, reason
    fingerprint: str
    fresh: bool  # built by this call

    def __len__(self) -> int:
        return len(self.rows)


def cache_root() -> Path:
    """``$KAKUSAN_CACHE``, else ``~/.cache/kakusan`` (under ``$XDG_CACHE_HOME`` where that is set)."""
    if given := os.environ.get("KAKUSAN_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "kakusan"


def build_cache(
    source: Source,
    domain: Image,
    root: str | Path | None = None,
    verify: bool = False,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Cache:
    """The source's pictures as the domain sees them; taken from disk where nothing changed, else decoded now.

    The key is every file's path, size and mtime in ns (zip: checksum and size) and what of the domain decides
    pixels. ``verify`` reads and hashes every file again, which finds a change that kept size and time. What can not
    be decoded is left out and listed in ``broken``. Raises KakusanError when nothing can be decoded, the disk is
    too small, or the source changes meanwhile.
    """
    fingerprint = source.fingerprint()
    spec = json.dumps(domain.cache_spec(), sort_keys=True)
    key = hashlib.sha256(f"{_FORMAT} {fingerprint} {spec}".encode()).hexdigest()[:32]
    root = Path(root).expanduser() if root is not None else cache_root()
    final = root / key
    found = _opened(final, fingerprint)
    if found is not None and not (verify and _content(source, progress) != _info(final)["content"]):
        return found
    _enough(root, source, domain)
    temporary = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=root))
    try:
        _build(source, domain, temporary, fingerprint, progress, workers or min(32, os.cpu_count() or 1))
        if source.fingerprint() != fingerprint:
            raise KakusanError(
                f"{source.path} changed while it was read; wait until nothing writes to it and run again"
            )
        if found is not None or _opened(final, fingerprint) is None:
            _publish(temporary, final)  # else another process was first, with the same
    finally:
        for left in (temporary, temporary.with_name(temporary.name + "-old")):
            shutil.rmtree(left, ignore_errors=True)
    made = _opened(final, fingerprint, fresh=True)
    if made is None:
        raise KakusanError(f"the cache in {final} can not be read back; delete that folder and run again")
    return made


def _publish(temporary: Path, final: Path) -> None:
    """Rename into place; what was there (changed content, or damaged) is moved away and then deleted."""
    temporary.chmod(0o755)
    if final.exists():
        final.rename(temporary.with_name(temporary.name + "-old"))
    temporary.rename(final)


def _info(path: Path) -> dict[str, Any]:
    return json.loads((path / "info.json").read_text())


def _opened(path: Path, fingerprint: str, fresh: bool = False) -> Cache | None:
    """The cache in a folder, None where there is none or it is not whole."""
    try:
        info = _info(path)
        pixels, rows, hashes = (np.load(path / f"{n}.npy", mmap_mode="r") for n in ("pixels", "rows", "hashes"))
    except (OSError, ValueError):
        return None
    if not (len(pixels) == len(rows) == len(hashes) == info.get("count")) or info.get("fingerprint") != fingerprint:
        return None
    return Cache(path, pixels, rows, hashes, [tuple(b) for b in info["broken"]], fingerprint, fresh)


def _enough(root: Path, source: Source, domain: Image) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(root).free
    except OSError as error:
        raise KakusanError(f"cache folder {root}: {error.strerror}; set KAKUSAN_CACHE to another folder") from None
    shape, dtype = domain.packed
    need = len(source) * (int(np.prod(shape)) * dtype.itemsize + 16)
    if need > free:
        raise KakusanError(
            f"the cache needs {need / 2**30:.1f} GiB and {root} has {free / 2**30:.1f} GiB free; "
            "set KAKUSAN_CACHE to a folder on a larger disk, or choose a smaller size"
        )


def _build(
    source: Source, domain: Image, into: Path, fingerprint: str, progress: Progress | None, workers: int
) -> None:
    """Decode chunks in threads (Pillow leaves the interpreter lock while it decodes) and append them in order."""
    broken: list[tuple[str, str]] = []
    content, start, done = hashlib.sha256(), time.monotonic(), 0
    shape, dtype = domain.packed
    with (
        (into / "pixels.npy").open("wb") as pixels,
        (into / "rows.npy").open("wb") as rows,
        (into / "hashes.npy").open("wb") as hashes,
    ):
        files = [(pixels, shape, dtype), (rows, (), np.dtype(np.int64)), (hashes, (), np.dtype(np.uint64))]
        for file, tail, kind in files:
            _header(file, 0, tail, kind)
        for chunk in _chunks(source, domain, workers):
            content.update(chunk.content)
            broken += chunk.broken
            done += len(chunk.rows) + len(chunk.broken)
            for file, values in ((pixels, chunk.pixels), (rows, chunk.rows), (hashes, chunk.hashes)):
                file.write(values.tobytes())
            if progress is not None:
                progress(done, len(source), len(broken))
        count = done - len(broken)
        if not count:
            reasons = "; ".join(reason for _, reason in broken[:3])
            raise KakusanError(f"{source.path}: none of its {done} pictures can be used: {reasons}")
        for file, tail, kind in files:
            _header(file, count, tail, kind)
    info = {
        "format": _FORMAT,
        "fingerprint": fingerprint,
        "domain": domain.cache_spec(),
        "source": str(source.path),
        "count": count,
        "content": content.hexdigest(),
        "broken": broken,
        "seconds": round(time.monotonic() - start, 3),
    }
    (into / "info.json").write_text(json.dumps(info, indent=1))


def _header(file: IO[bytes], count: int, tail: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Write a ``.npy`` header at the file's start; numpy pads it so that the first dimension may grow in place."""
    before = file.seek(0, 2)
    file.seek(0)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count, *tail)}
    np.lib.format.write_array_header_1_0(file, header)
    if before and file.tell() + count * int(np.prod(tail)) * dtype.itemsize != before:
        raise KakusanError("the cache's header came out at another length; please report this with numpy's version")
    file.seek(0, 2)


@dataclass
class _Chunk:
    pixels: np.ndarray
    rows: np.ndarray
    hashes: np.ndarray
    broken: list[tuple[str, str]]
    content: bytes


def _chunk(source: Source, domain: Image, first: int) -> _Chunk:
    """Rows [first, first + _CHUNK) read, decoded, fitted and hashed."""
    last = min(first + _CHUNK, len(source))
    shape, dtype = domain.packed
    pixels, kept = np.empty((last - first, *shape), dtype), list[int]()
    hashes, broken, content = [], [], []
    for i in range(first, last):
        try:
            data = source.read(i)
            content.append(_digest(data))
            fitted = domain.pack(data, source.name(i))
        except PictureError as error:
            broken.append((error.name, f"{error.reason}: {error.detail}"))
            continue
        except KakusanError as error:
            broken.append((source.name(i), str(error)))
            continue
        pixels[len(kept)] = fitted
        hashes.append(hash_of(fitted))
        kept.append(i)
    rows = np.array(kept, np.int64)
    return _Chunk(pixels[: len(kept)], rows, np.array(hashes, np.uint64), broken, b"".join(content))


def hash_of(pixels: np.ndarray) -> int:
    """64 bits that stand for one fitted picture."""
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(pixels), digest_size=8).digest(), "little")


def _digest(data: bytes | np.ndarray) -> bytes:
    return hashlib.blake2b(data if isinstance(data, bytes) else np.ascontiguousarray(data), digest_size=16).digest()


def _content(source: Source, progress: Progress | None) -> str:
    """The hash over every file's bytes that a build records."""
    digest = hashlib.sha256()
    for i in range(len(source)):
        try:
            digest.update(_digest(source.read(i)))
        except PictureError:
            continue
        if progress is not None and i % _CHUNK == 0:
            progress(i, len(source), 0)
    return digest.hexdigest()


def _chunks(source: Source, domain: Image, workers: int) -> Iterator[_Chunk]:
    """All chunks in order. The first is timed: under 150 us a picture, threads only wait for the interpreter lock
    (measured: a quarter slower)."""

    def work(first: int) -> _Chunk:
        return _chunk(source, domain, first)

    start = time.monotonic()
    yield work(0)
    quick = time.monotonic() - start < 150e-6 * _CHUNK
    yield from in_order(work, range(_CHUNK, len(source), _CHUNK), 1 if quick else workers, "decode")
