"""Engines by name for a model that is loaded: where their files and figures lie, and putting one in its place."""

from __future__ import annotations

import hashlib
import math
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from kakusan.app.draw import sampler
from kakusan.app.draw.loaded import Loaded
from kakusan.app.draw.sampler import Request
from kakusan.app.judge import doctor
from kakusan.core.batch import Cond
from kakusan.core.model import Model
from kakusan.part import KakusanError
from kakusan.runtime import choose
from kakusan.runtime.nets import Swapped, engine
from kakusan.training.cache import cache_root

__all__ = ["LASTING", "figures_file", "figures_key", "ledger", "network_file", "noise", "swap"]

# Engines whose work outlives the process: what ``sample`` may take.
LASTING = ("eager", "winograd", "bf16", "onnx", "openvino")
MOST = 256  # samples of one batch, at most


def ledger() -> Path:
    """Where the hashes of what this user exported are kept."""
    return cache_root() / "exported"


def swap(loaded: Loaded, runtime: str, request: Request) -> str:
    """Let another engine evaluate the model's networks from now on, at the request's size; returns the one taken.

    ``auto`` takes what ``bench`` measured to end first for such a request, and eager where nothing was measured.
    """
    if runtime not in ("auto", *LASTING):
        raise KakusanError(f"--runtime {runtime!r} is not known; choose one of: auto, {', '.join(LASTING)}")
    if request.tile and runtime not in ("auto", "eager"):
        raise KakusanError(f"--runtime {runtime}: --tile joins borders in PyTorch alone; leave --runtime out")
    shape, threads = loaded.domain.blank(1, size=request.size)[0], torch.get_num_threads()
    if loaded.device.type != "cpu":
        if runtime not in ("auto", "eager"):
            raise KakusanError(f"--runtime {runtime}: runs on the CPU; add --device cpu")
        return "eager"
    name = runtime
    if runtime == "auto":
        name = _best(loaded, request, shape, threads)
    if name == "eager":
        return name
    for part, model in (("model", loaded.model), ("weak", loaded.model.weak)):
        if model is None:
            continue
        x, _, cond = noise(model, shape, 2)
        call, _ = engine(name, model.denoiser.net, x, cond, network_file(loaded, shape, part), ledger(), threads)
        model.denoiser.net = Swapped(model.denoiser.net, call, shape)
    loaded.runtime = name
    return name


def _best(loaded: Loaded, request: Request, shape: tuple[int, ...], threads: int) -> str:
    """The engine that ends first, by what was measured here."""
    file, count = figures_file(loaded), len(request.seeds)
    if not file.is_file():
        return "eager"
    calls = sampler.evaluations(sampler.settle(loaded.model, request)) * math.ceil(count / MOST)
    return choose.pick(choose.recall(file, figures_key(shape, threads)), min(count, MOST), calls, LASTING)


def noise(model: Model, shape: tuple[int, ...], batch: int) -> tuple[Tensor, Tensor, Cond]:
    """Noise at a middling level, without conditions."""
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
    if x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return x, torch.zeros(batch), model.cond({}, {}, batch).over(x.shape[2:])


def figures_file(loaded: Loaded) -> Path:
    """Where a model's measured figures are kept."""
    return cache_root() / "runtime" / f"{_digest(loaded)}.json"


def network_file(loaded: Loaded, shape: tuple[int, ...], part: str) -> Path:
    """Where one of a model's networks ("model", "weak") is kept as ONNX."""
    return cache_root() / "runtime" / f"{_digest(loaded)}-{part}-{'x'.join(map(str, shape))}.onnx"


def _digest(loaded: Loaded) -> str:
    name = str(loaded.info()["hash"])[:16]
    if not loaded.lora:
        return name
    merged = "".join(f"{each['hash']}:{each['weight']!r}," for each in loaded.lora)
    return f"{name}-{hashlib.sha256(merged.encode()).hexdigest()[:8]}"


def figures_key(shape: tuple[int, ...], threads: int) -> str:
    """Shape, machine and versions in one line: what a figure holds for."""
    versions = []
    for package in ("torch", "onnxruntime", "openvino"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return f"{'x'.join(map(str, shape))}, {doctor.cpu_name()}, {threads} threads, {', '.join(versions)}"
