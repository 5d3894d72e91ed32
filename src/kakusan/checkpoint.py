"""A model is one file: safetensors whose metadata holds the spec tree and what is known about the model.

It reloads with no code of its own and no pickle: names come from the catalog only, the spec is bounded, and shapes are
compared before anything is allocated.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from kakusan.catalog import build, find, shown
from kakusan.core.denoiser import Denoiser
from kakusan.core.model import Model
from kakusan.core.undrawn import undrawn
from kakusan.part import KakusanError, Spec

__all__ = [
    "FORMAT",
    "canonical",
    "check_header",
    "load_model",
    "load_module",
    "model_hash",
    "read_info",
    "save_model",
    "set_defaults",
    "write_tensors",
]

FORMAT = 1
_SPEC_LIMIT = 1 << 20  # bytes of JSON
_ABOUT_LIMIT = 2 << 20  # of all metadata
_HEADER_LIMIT = 8 << 20
_TENSORS = 20_000  # a model has no more
_KEYS = {"format", "spec", "info", "hash", "sum"}
_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}  # format -> step to the next one


def canonical(tree: Any) -> str:
    """JSON with one spelling: sorted keys, no spaces."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


class Module(Protocol):
    """A part that is a torch module: a model, or a network alone."""

    def spec(self) -> Spec: ...
    def state_dict(self) -> dict[str, Any]: ...


def model_hash(model: Module) -> str:
    """SHA-256 over the sorted tensors and the canonical spec, 64 hex digits; sampling defaults do not count."""
    return _hash(model.spec(), model.state_dict())


def _hash(spec: Spec, weights: Mapping[str, Tensor], whole: bool = False) -> str:
    """The same for weights stored in half precision and for what is restored from them.

    Without the defaults: every sample records its own settings, and a model whose defaults are set anew is the same
    model. ``whole``: as files were hashed once, with them.
    """
    counted = spec if whole else {name: value for name, value in spec.items() if name != "defaults"}
    digest = hashlib.sha256(canonical(counted).encode())
    for name, value in sorted(weights.items()):
        restored = value.detach().to("cpu", torch.float32 if value.is_floating_point() else value.dtype).contiguous()
        digest.update(f"\0{name}\0{restored.dtype}\0{tuple(restored.shape)}\0".encode())
        digest.update(restored.numpy().tobytes())
    return digest.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically: a temporary file beside it, flushed to disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    plain = {name: t.detach().to("cpu").contiguous() for name, t in tensors.items()}
    try:
        _write_full(plain, temporary, dict(metadata), path)
        temporary.chmod(0o644)
        temporary.replace(path)
        parent = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
    finally:
        temporary.unlink(missing_ok=True)


def _write_full(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str], target: Path) -> None:
    """Written and flushed to disk; a full disk is told with the bytes that are needed."""
    try:
        safetensors.torch.save_file(tensors, file, metadata=metadata)
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())
    except (OSError, safetensors.SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error).lower()
        if not full:
            raise
        need = sum(t.numel() * t.element_size() for t in tensors.values()) + len(str(metadata))
        file.unlink(missing_ok=True)
        free = shutil.disk_usage(target.parent).free
        raise KakusanError(
            f"{target}: the disk is full (No space left): it needs {need:,} bytes and {free:,} are free; "
            "what was there before is intact; free some space and do it again"
        ) from None


def save_model(
    path: str | Path, model: Module, info: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.float32
) -> str:
    """Write the model to one file and return its hash; ``info``: plain data (fingerprint, summary, licence).

    A network alone (a GAN's generator) is written in the same way; ``load_module`` reads it.
    """
    target = Path(path)
    weights = {k: v.to(dtype) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    spec = model.spec()
    if len(canonical(spec)) > _SPEC_LIMIT:
        raise KakusanError(f"{target}: the model's spec is over {_SPEC_LIMIT} bytes; shorten its class names or tables")
    digest = _hash(spec, weights)
    about = {"format": FORMAT, "spec": spec, "info": dict(info or {}), "hash": digest}
    about["sum"] = _sum(about)
    if len(canonical(about)) > _ABOUT_LIMIT:
        raise KakusanError(f"{target}: what is to be said about the model is over {_ABOUT_LIMIT} bytes; shorten info")
    write_tensors(target, weights, {"format": "pt", "kakusan": canonical(about)})
    return digest


def set_defaults(path: str | Path, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Change some of a model file's sampling defaults, atomically; its weights and its hash stay. Returns them all."""
    source = Path(path)
    load_model(source)  # whole and undamaged, or nothing is written
    about = read_info(source)
    spec = about["spec"] | {"defaults": dict(about["spec"].get("defaults") or {}) | dict(defaults)}
    weights = safetensors.torch.load_file(source)
    told = {"format": FORMAT, "spec": spec, "info": about["info"], "hash": _hash(spec, weights)}
    told["sum"] = _sum(told)
    write_tensors(source, weights, {"format": "pt", "kakusan": canonical(told)})
    return dict(spec["defaults"])


def _sum(about: Mapping[str, Any]) -> str:
    """SHA-256 over the metadata itself, so that damage to it shows as damage to the weights does."""
    return hashlib.sha256(canonical({k: v for k, v in about.items() if k != "sum"}).encode()).hexdigest()


def read_info(path: str | Path) -> dict[str, Any]:
    """What a model file says about itself, without building it: format, spec, info, hash, parameters, shapes."""
    source = Path(path)
    check_header(source)
    try:
        with safetensors.safe_open(source, framework="pt") as file:
            raw = (file.metadata() or {}).get("kakusan")
            names = list(file.keys()) if raw is not None else []
            sizes = {name: tuple(file.get_slice(name).get_shape()) for name in names[: _TENSORS + 1]}
    except Exception as error:  # safetensors raises its own types, by version
        raise KakusanError(f"{source}: not a readable safetensors file ({_short(error)})") from error
    if raw is None:
        raise KakusanError(f"{source}: a safetensors file, but not a kakusan model (no 'kakusan' metadata)")
    if len(raw) > _ABOUT_LIMIT:
        raise KakusanError(f"{source}: its metadata has {len(raw)} bytes; more than {_ABOUT_LIMIT} is refused")
    if len(sizes) > _TENSORS:
        raise KakusanError(f"{source}: it holds {len(names)} tensors; more than {_TENSORS} are refused")
    try:
        about = json.loads(raw)
        version = int(about["format"])
        if version <= FORMAT and (odd := sorted(about.keys() - _KEYS)):
            raise ValueError(f"unknown entry {odd[0][:40]!r}")
        if "sum" in about and about["sum"] != _sum(about):
            raise ValueError("it was changed since it was written: its checksum differs")
        spec, info = about["spec"], about["info"]
        if not isinstance(spec, dict) or not isinstance(info, dict):
            raise TypeError("spec and info must be tables")
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise KakusanError(f"{source}: its kakusan metadata is damaged ({_short(error)})") from error
    if version > FORMAT:
        raise KakusanError(f"{source}: written in format {version}; this kakusan reads up to {FORMAT}: upgrade kakusan")
    for old in range(version, FORMAT):
        about = _MIGRATIONS[old](about)
    total = sum(int(torch.Size(s).numel()) for s in sizes.values())
    return {
        "format": version,
        "spec": about["spec"],
        "info": about["info"],
        "hash": str(about.get("hash", "")),
        "parameters": total,
        "shapes": sizes,
    }


def check_header(path: Path) -> None:
    """Refuse what cannot be a model before a library parses it."""
    if path.is_dir():
        raise KakusanError(f"{path}: a folder, not a model file")
    if not path.is_file():
        raise KakusanError(f"{path}: no such file")
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
    if len(first) < 8 or length > size - 8:
        raise KakusanError(f"{path}: not a safetensors file, or one cut short ({size} bytes)")
    if length > _HEADER_LIMIT:
        raise KakusanError(f"{path}: its header has {length} bytes; more than {_HEADER_LIMIT} is refused")


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def load_model(path: str | Path, device: torch.device | str = "cpu") -> tuple[Model, dict[str, Any]]:
    """The model in a file, in evaluation mode and float32, and its info (with ``hash`` and ``parameters``)."""
    model, info = load_module(path, device)
    if not isinstance(model, Model):
        hint = getattr(model, "hint", "")  # what its file is for
        raise KakusanError(f"{path}: holds a {model.kind!r}, not a model" + (f"; {hint}" if hint else ""))
    return model, info


def load_module(path: str | Path, device: torch.device | str = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """``load_model`` for whatever module a file holds, as a GAN's generator."""
    source = Path(path)
    about = read_info(source)
    _check_shapes(about["spec"], about["shapes"], source)
    with torch.random.fork_rng(devices=[]), undrawn():  # the caller's generator is left alone
        model = build(about["spec"], f"{source}: spec")
    if not isinstance(model, nn.Module):
        raise KakusanError(f"{source}: holds a {about['spec'].get('kind')!r}, not a model")
    weights = safetensors.torch.load_file(source)
    restored = {k: v.to(torch.float32) if v.is_floating_point() else v for k, v in weights.items()}
    try:
        model.load_state_dict(restored, strict=True)
    except RuntimeError as error:
        raise KakusanError(f"{source}: weights do not fit the spec ({_short(error)})") from error
    known = (_hash(about["spec"], weights, whole) for whole in (False, True))
    if about["hash"] and about["hash"] not in known:
        raise KakusanError(f"{source}: damaged since it was written: its weights differ from their SHA-256")
    info = dict(about["info"]) | {"hash": about["hash"], "parameters": about["parameters"]}
    return model.to(device).eval(), info


def _networks(spec: Any, where: str) -> Iterator[tuple[str, Spec]]:
    """Every network and encoder in a spec, outermost first; models and denoisers are only their frames."""
    if isinstance(spec, dict):
        if "kind" in spec:
            cls = find(spec["kind"], where)
            if issubclass(cls, nn.Module) and not issubclass(cls, (Model, Denoiser)):
                yield where, spec
                return
        for name, value in spec.items():
            yield from _networks(value, f"{where}.{shown(name)}")
    elif isinstance(spec, list):
        for i, value in enumerate(spec):
            yield from _networks(value, f"{where}[{i}]")


def _check_shapes(spec: Spec, shapes: dict[str, tuple[int, ...]], source: Path) -> None:
    """Build each network without memory and compare: a spec that asks for more than the file holds is refused."""
    held = sorted(s for s in shapes.values())
    asked: list[tuple[int, ...]] = []
    with _bounded(len(shapes), sum(torch.Size(s).numel() for s in held), source):
        for where, network in _networks(spec, f"{source}: spec"):
            with torch.device("meta"), undrawn():
                part = build(network, where)
            assert isinstance(part, nn.Module)
            asked += [tuple(v.shape) for v in part.state_dict().values()]
    if sorted(asked) != held:
        raise KakusanError(
            f"{source}: the spec describes {len(asked)} tensors that differ from the {len(held)} in the file"
        )


@contextlib.contextmanager
def _bounded(tensors: int, numbers: int, source: Path) -> Iterator[None]:
    """Stop building as soon as a spec asks for more modules or parameters than its file can fill."""
    from torch.nn.modules import module as registry

    count = {"modules": 0, "numbers": 0}

    def on_module(parent: nn.Module, name: str, child: nn.Module | None) -> None:
        count["modules"] += 1
        if count["modules"] > 100 * tensors + 1000:
            raise KakusanError(f"{source}: the spec describes a network with more layers than the file holds")

    def on_parameter(parent: nn.Module, name: str, value: nn.Parameter | None) -> None:
        count["numbers"] += value.numel() if value is not None else 0
        if count["numbers"] > 2 * numbers + 1000:
            raise KakusanError(f"{source}: the spec describes a network with more weights than the file holds")

    handles = [
        registry.register_module_module_registration_hook(on_module),
        registry.register_module_parameter_registration_hook(on_parameter),
    ]
    try:
        yield
    except (RuntimeError, ValueError, ZeroDivisionError, OverflowError, MemoryError, AssertionError) as error:
        raise KakusanError(f"{source}: the spec cannot be built ({_short(error)})") from error
    finally:
        for handle in handles:
            handle.remove()
