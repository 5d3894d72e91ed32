"""Adapters: low-rank adapters as a small file of their own, and as ``FILE:WEIGHT`` beside the model they belong to.

The file is safetensors: ``LAYER.a`` and ``LAYER.b`` of every adapted layer. Its metadata names the model that they were
trained from, by name, file and hash; on any other they are refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from kakusan.app.train.rundir import RunDir
from kakusan.checkpoint import canonical, check_header, write_tensors
from kakusan.core.model import Model
from kakusan.nets.lora import LoRA, factors, merge
from kakusan.part import KakusanError

__all__ = ["Adapters", "add", "asked", "of_run", "read", "recalled", "save"]

FORMAT = 1
KEY = "kakusan-lora"  # of the metadata
_ABOUT = 1 << 20  # bytes of it, at most
_MOST = 16  # adapters at once
_WEIGHED = re.compile(r"(.+):([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)", re.I)


@dataclass(frozen=True)
class Adapters:
    """A file of adapters: where it is, what it was trained from (name, file, hash), its scale, hash and tensors."""

    path: Path
    base: dict[str, str]
    scale: float
    hash: str
    info: dict[str, Any]
    tensors: dict[str, Tensor]


def save(path: Path, net: nn.Module, lora: LoRA, base: Mapping[str, str], info: Mapping[str, Any]) -> str:
    """Write what was trained beside ``net``; returns its hash."""
    tensors = factors(net)
    about = {
        "format": FORMAT,
        "base": dict(base),
        "rank": lora.rank,
        "alpha": lora.alpha,
        "info": dict(info),
        "hash": _hash(lora.scale, tensors),
    }
    write_tensors(path, tensors, {"format": "pt", KEY: canonical(about)})
    return str(about["hash"])


def _hash(scale: float, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the sorted tensors and their scale, 64 hex digits."""
    digest = hashlib.sha256(canonical(scale).encode())
    for name, value in sorted(tensors.items()):
        whole = value.detach().cpu().float().contiguous()
        digest.update(f"\0{name}\0{tuple(whole.shape)}\0".encode())
        digest.update(whole.numpy().tobytes())
    return digest.hexdigest()


def find(path: str | Path) -> Path:
    """The file of adapters that a run or a path means."""
    place = Path(path)
    file = RunDir(place).lora if place.is_dir() else place
    if file.is_file():
        return file
    if place.is_dir():
        raise KakusanError(
            f"--lora {place}: a folder without {file.name}; adapters are made by: kakusan train DATA --from MODEL "
            "--lora 8"
        )
    raise KakusanError(f"--lora {place}: no such file; give a run of adapters or its lora.safetensors, as FILE:0.8")


def read(path: str | Path) -> Adapters:
    """A file of adapters, checked against its hash."""
    file = find(path)
    check_header(file)
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            raw = (opened.metadata() or {}).get(KEY)
    except Exception as error:  # safetensors raises its own types, by version
        raise KakusanError(f"--lora {file}: not a readable safetensors file ({str(error)[:160]})") from error
    if raw is None:
        raise KakusanError(f"--lora {file}: holds no adapters of kakusan; a whole model is sampled as MODEL itself")
    try:
        if len(raw) > _ABOUT:
            raise ValueError(f"{len(raw)} bytes")
        about = json.loads(raw)
        version, base = int(about["format"]), {str(k): str(v) for k, v in about["base"].items()}
        base = {name: base[name] for name in ("name", "file", "hash")}
        scale, told = float(about["alpha"]) / int(about["rank"]), str(about["hash"])
        info = dict(about["info"])
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise KakusanError(f"--lora {file}: its metadata is damaged ({str(error)[:160]})") from error
    if version > FORMAT:
        raise KakusanError(f"--lora {file}: of format {version}; this kakusan reads up to {FORMAT}: upgrade kakusan")
    tensors = safetensors.torch.load_file(file)
    if _hash(scale, tensors) != told:
        raise KakusanError(f"--lora {file}: damaged since it was written: its numbers differ from their SHA-256")
    return Adapters(file, base, scale, told, info, tensors)


def asked(given: str | Path | Sequence[str | Path] | None) -> list[tuple[Path, float]]:
    """``FILE`` or ``FILE:WEIGHT``, one or several, as files with their weights (1 where none is said)."""
    items = [given] if isinstance(given, (str, Path)) else list(given or ())
    if len(items) > _MOST:
        raise KakusanError(f"--lora: {len(items)} are given; at most {_MOST} go together")
    found = []
    for item in items:
        weighed = None if Path(item).exists() else _WEIGHED.fullmatch(str(item))
        path, weight = (weighed[1], float(weighed[2])) if weighed else (str(item), 1.0)
        if abs(weight) > 100:
            raise KakusanError(f"--lora {item}: the weight is {weight:g}; 0 is none, 1 as trained")
        found.append((find(path), weight))
    return found


def add(model: Model, known: str, name: str, given: Sequence[tuple[Path, float]]) -> list[dict[str, Any]]:
    """Merge adapters into the weights of a model whose hash is ``known``; returns what a recipe keeps of them.

    Those of weight 0 leave every bit as it was.
    """
    told = []
    for path, weight in given:
        found = read(path)
        if found.base["hash"] != known:
            raise KakusanError(
                f"--lora {path}: was trained from {found.base['name']} ({found.base['hash'][:12]}), and {name} is "
                f"{known[:12]}: sample {found.base['file']}, or train adapters from {name}"
            )
        merge(model.denoiser.net, found.tensors, weight * found.scale)
        told.append({"file": str(path), "hash": found.hash, "weight": weight})
    return told


def of_run(model: str | Path) -> Path | None:
    """The file of adapters, where ``model`` is a run of them and so no whole model."""
    run = RunDir(Path(model))
    return run.lora if run.lora.is_file() and not run.model.is_file() else None


def recalled(told: Any, beside: Path) -> list[str]:
    """Adapters of a recipe as ``load`` takes them: where they were or beside the sample, each known by its hash."""
    try:
        listed = [(Path(str(item["file"])), str(item["hash"]), float(item["weight"])) for item in told or ()]
    except (KeyError, TypeError, ValueError) as error:
        raise KakusanError(f"{beside}: its recipe is damaged ({error})") from error
    found = []
    for file, known, weight in listed:
        places = [p for p in (file, beside.parent / file.name) if p.is_file()]
        if not places:
            raise KakusanError(f"{beside}: its adapters {file} are not there any more; put them back, or beside it")
        place = next((p for p in places if read(p).hash == known), None)
        if place is None:
            raise KakusanError(
                f"{beside}: its adapters {places[0]} have changed since (hash was {known[:12]}); put the old file back"
            )
        found.append(f"{place}:{weight!r}")
    return found
