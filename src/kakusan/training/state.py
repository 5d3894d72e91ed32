"""Exact training state on disk: atomic checkpoints of safetensors and JSON, verified by SHA-256 before use.

``state/save-00007/`` holds one safetensors file a group of tensors, ``state.json`` and ``manifest.json`` (sizes, hashes
and a hash of itself). A checkpoint is written under another name, synced, then renamed: it exists whole or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from kakusan.part import KakusanError

__all__ = ["DiskFull", "Saved", "disk_full", "flatten_optimiser", "is_full", "load", "restore_optimiser", "save"]

FORMAT = 1
KEEP = 2  # the newest checkpoints that are kept, and the newest scheduled one besides
NEWEST = "newest.json"
Groups = dict[str, dict[str, Tensor]]  # file stem -> name -> tensor


class DiskFull(KakusanError):
    """A checkpoint or a line of the log did not fit; the checkpoint before is untouched."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint read back and verified."""

    path: Path
    step: int
    meta: dict[str, Any]
    groups: Groups


def save(folder: Path, step: int, groups: Groups, meta: dict[str, Any], scheduled: bool = True) -> Path:
    """Write a checkpoint into ``folder`` atomically and drop old ones; raises DiskFull with the bytes it needs.

    ``scheduled``: what a roll-back returns to; checkpoints that an interruption asked for are not, so that a run that
    was interrupted rolls back to where an uninterrupted one would.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _clear_unfinished(folder)
    need = sum(t.numel() * t.element_size() for g in groups.values() for t in g.values()) + 1_000_000
    serial = max((_serial(p) for p in _checkpoints(folder)), default=0) + 1
    partial = folder / f".partial-{serial:05d}"
    target = folder / f"save-{serial:05d}"
    what = f"the checkpoint of step {step}"
    if shutil.disk_usage(folder).free < need:
        raise disk_full(folder, what, need)
    try:
        partial.mkdir()
        _write(partial, step, groups, meta, scheduled)
        partial.rename(target)
        _sync_folder(folder)
        _write_json(folder / f".{NEWEST}", {"name": target.name})
        (folder / f".{NEWEST}").replace(folder / NEWEST)
        _sync_folder(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        if is_full(error):
            raise disk_full(folder, what, need) from None
        raise
    _drop_old(folder)
    return target


def load(folder: Path, say: Callable[[str], None], scheduled: bool = False) -> Saved | None:
    """The newest whole checkpoint, None where there never was one; every damaged one is named through ``say``.

    ``scheduled``: only those a roll-back may return to. Raises KakusanError when there are some and none is whole.
    """
    found = sorted(_checkpoints(folder), key=_serial, reverse=True)
    damage = _missing_newest(folder, found)
    for path in found:
        try:
            saved = _read(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            damage.append(f"checkpoint {path} is damaged ({error})")
            continue
        if scheduled and not saved.meta["scheduled"]:
            continue
        for line in damage:
            say(f"{line}; using {path.name} of step {saved.step}")
        return saved
    if damage:
        raise KakusanError(f"{damage[0]} and no whole one is left in {folder}: restore the folder or start a new run")
    return None


def flatten_optimiser(optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as named tensors (``index/key``) and plain data (its groups' settings)."""
    state = optimiser.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for index, values in state["state"].items():
        for key, value in values.items():
            (tensors if isinstance(value, Tensor) else plain)[f"{index}/{key}"] = value
    return tensors, {"state": plain, "groups": state["param_groups"]}


@torch.no_grad()
def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Put back what ``flatten_optimiser`` gave, in place: device and memory format stay the live optimiser's own.

    Raises KakusanError when a tensor is missing, left over or of another shape.
    """
    live = optimiser.state_dict()
    mine = {f"{i}/{k}": v for i, values in live["state"].items() for k, v in values.items()}
    if mine.keys() != tensors.keys() | plain["state"].keys():
        odd = sorted(mine.keys() ^ (tensors.keys() | plain["state"].keys()))[0]
        raise KakusanError(
            f"the saved optimiser state does not fit: {odd!r} is on one side only; the recipe changed since"
        )
    for name, value in mine.items():
        if not isinstance(value, Tensor):
            index, key = name.split("/", 1)
            live["state"][int(index)][key] = plain["state"][name]
        elif value.shape != tensors[name].shape:
            raise KakusanError(
                f"the saved optimiser state {name!r} has shape {tuple(tensors[name].shape)}, not {tuple(value.shape)}"
            )
        else:
            value.copy_(tensors[name])
    for group, saved in zip(optimiser.param_groups, plain["groups"], strict=True):
        for key in group.keys() - {"params"}:
            group[key] = tuple(saved[key]) if isinstance(group[key], tuple) else saved[key]


def _write(folder: Path, step: int, groups: Groups, meta: dict[str, Any], scheduled: bool) -> None:
    for stem, tensors in groups.items():
        save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, folder / f"{stem}.safetensors")
        _sync(folder / f"{stem}.safetensors")
    _write_json(folder / "state.json", meta | {"step": step, "scheduled": scheduled})
    files = {p.name: {"bytes": p.stat().st_size, "sha256": _hash(p)} for p in sorted(folder.iterdir())}
    manifest = {"format": FORMAT, "step": step, "files": files}
    _write_json(folder / "manifest.json", manifest | {"sha256": hashlib.sha256(_canonical(manifest)).hexdigest()})
    _sync_folder(folder)


def _read(path: Path) -> Saved:
    """Verify, then read; every mismatch is a ValueError that says what."""
    data = (path / "manifest.json").read_bytes()
    manifest = json.loads(data)
    if data != _canonical(manifest):
        raise ValueError("manifest.json was changed")
    digest = manifest.pop("sha256")
    if hashlib.sha256(_canonical(manifest)).hexdigest() != digest:
        raise ValueError("manifest.json was changed")
    if manifest["format"] != FORMAT:
        raise ValueError(f"format {manifest['format']}, this version reads {FORMAT}")
    for name, facts in manifest["files"].items():
        if not (path / name).is_file():
            raise ValueError(f"{name} is missing")
        size = (path / name).stat().st_size
        if size != facts["bytes"]:
            raise ValueError(f"{name} has {size} bytes instead of {facts['bytes']}")
        if _hash(path / name) != facts["sha256"]:
            raise ValueError(f"{name} was changed: its SHA-256 differs")
    meta = json.loads((path / "state.json").read_bytes())
    stems = [n.removesuffix(".safetensors") for n in manifest["files"] if n.endswith(".safetensors")]
    groups = {stem: load_file(path / f"{stem}.safetensors") for stem in stems}
    return Saved(path, manifest["step"], meta, groups)


def _canonical(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


def _write_json(path: Path, data: Any) -> None:
    path.write_bytes(_canonical(data))
    _sync(path)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    if os.name != "posix":
        return  # a folder can not be opened elsewhere, and renames are journalled
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checkpoints(folder: Path) -> Iterator[Path]:
    return (p for p in folder.glob("save-*") if p.name[5:].isdigit())


def _serial(path: Path) -> int:
    return int(path.name[5:])


def _clear_unfinished(folder: Path) -> None:
    for path in folder.glob(".partial-*"):
        shutil.rmtree(path, ignore_errors=True)


def _drop_old(folder: Path) -> None:
    """Keep the newest two, and the newest scheduled one besides (the old ones' hashes are not read for this)."""
    found = sorted(_checkpoints(folder), key=_serial, reverse=True)
    keep = set(found[:KEEP]) | set(next(([p] for p in found if _is_scheduled(p)), []))
    for path in set(found) - keep:
        doomed = folder / f".partial-{path.name}"
        path.rename(doomed)  # a kill in the middle of a deletion must not leave half a checkpoint under a good name
        shutil.rmtree(doomed, ignore_errors=True)


def _is_scheduled(path: Path) -> bool:
    try:
        return bool(json.loads((path / "state.json").read_bytes())["scheduled"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _missing_newest(folder: Path, found: list[Path]) -> list[str]:
    """A newest checkpoint that vanished as a whole leaves its name behind."""
    try:
        name = str(json.loads((folder / NEWEST).read_bytes())["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    gone = name[5:].isdigit() and int(name[5:]) > max(map(_serial, found), default=0)
    return [f"checkpoint {folder / name} is missing"] if gone else []


def is_full(error: Exception) -> bool:
    """Whether this is how the system, or safetensors, says that the disk (or the user's share of it) is full."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "os error 28" in str(error).lower() or "no space" in str(error).lower()


def disk_full(folder: Path, what: str, need: int) -> DiskFull:
    """The error that says how many bytes something needs and how many there are."""
    free = shutil.disk_usage(folder).free
    return DiskFull(
        f"the disk of {folder} is full: {what} needs {need:,} bytes and {free:,} are free; "
        "earlier checkpoints are intact; free some space, then kakusan resume"
    )
