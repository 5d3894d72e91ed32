"""Bundles: a folder of exported files with a manifest of their hashes, and the ledger of what this user exported.

ONNX files are read by native code that was not written for hostile input, so only files whose hash is in the ledger
are ever loaded: those that kakusan wrote here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kakusan.files import write_bytes, write_json
from kakusan.part import KakusanError

__all__ = ["MANIFEST", "enter", "ours", "read_table", "seal"]

MANIFEST = "manifest.json"
_MOST = 64 << 20  # bytes of a table


def seal(folder: Path, about: Mapping[str, Any], ledger: Path) -> dict[str, str]:
    """Write the manifest of all files in a folder and enter them in the ledger (a folder with one name a hash)."""
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    hashes = {name: _sha256(file) for name, file in files.items() if name != MANIFEST}
    for name in hashes:
        enter(folder / name, ledger)
    write_json(folder / MANIFEST, dict(about) | {"files": hashes})
    return hashes


def enter(path: Path, ledger: Path) -> None:
    """Remember a file as written here."""
    write_bytes(ledger / _sha256(path), b"")


def ours(path: Path, ledger: Path) -> Path:
    """The path, if it is a file that was exported here and is unchanged; refused otherwise."""
    if not path.is_file():
        raise KakusanError(f"{path}: no such file; export the model again: kakusan export MODEL")
    if not (ledger / _sha256(path)).is_file():
        raise KakusanError(
            f"{path}: not loaded: its SHA-256 is not that of a file exported here (or it was changed since); "
            "export it again from the model: kakusan export MODEL"
        )
    return path


def read_table(path: Path, ledger: Path) -> dict[str, Any]:
    """A table exported here."""
    if path.is_file() and path.stat().st_size > _MOST:
        raise KakusanError(f"{path}: {path.stat().st_size:,} bytes; a table has no more than {_MOST:,}")
    found = json.loads(ours(path, ledger).read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
