"""The verb ``export``: a model and its sampling settings as files for another runtime."""

from __future__ import annotations

from pathlib import Path

import torch

from kakusan.app.command.show import Progress
from kakusan.app.deploy.engines import ledger
from kakusan.app.deploy.int8 import judge
from kakusan.app.draw import sampler
from kakusan.app.draw.loaded import load
from kakusan.app.draw.sampler import Request
from kakusan.app.train import rundir
from kakusan.catalog import build
from kakusan.core import grid as grids
from kakusan.core.grid import Grid
from kakusan.core.guide import Autoguidance, ClassifierFree, Guide, Plain
from kakusan.core.model import Model
from kakusan.core.solver import Solver
from kakusan.distillation.teacher import WEIGHT
from kakusan.part import KakusanError
from kakusan.runtime import export as runtime
from kakusan.runtime.diffusers import export_folder
from kakusan.runtime.export import Branch, Exported, Sampling

__all__ = ["export", "sampling"]


def export(
    model: str | Path,
    *,
    format: str = "onnx",
    out: str | Path | None = None,
    size: int | None = None,
    steps: int | None = None,
    solver: str | None = None,
    guidance: float | None = None,
    autoguidance: float | None = None,
    eta: float | None = None,
    int8: bool = False,
    data: str | Path | None = None,
    labels: str = "auto",
    count: int = 256,
    progress: Progress | None = None,
) -> Exported:
    """Write a model in another runtime's format, verified against PyTorch; what is not given is the model's default.

    ``int8`` rounds the convolutions between the first and the last to 8 bits, and keeps that only where the Fréchet
    distance of ``count`` samples from the pictures at ``data`` stays within the interval of float32's.
    Raises KakusanError where the format cannot hold the model, a package is missing or the check fails.
    """
    _check_int8(int8, format, data, size)
    if format not in (known := sorted([*runtime.FORMATS, "diffusers"])):
        raise KakusanError(f"--format {format!r} is not known; choose one of: {', '.join(known)}")
    with progress or Progress() as shown:
        loaded = load(model, "cpu")
        grown = (size, size) if size is not None else None
        request = Request(
            seeds=[0], steps=steps, solver=solver, guidance=guidance, autoguidance=autoguidance, eta=eta, size=grown
        )
        about = {"kakusan": rundir.environment()["versions"]["kakusan"], "model": loaded.info()["hash"]}
        shape = loaded.domain.blank(1, size=grown)[0]
        name = (
            loaded.path.parent.name if loaded.path and loaded.path.stem == "model" else loaded.path and loaded.path.stem
        )
        target = Path(out) if out is not None else Path(f"{name or 'model'}-{format}")
        if format == "diffusers":
            return export_folder(loaded.model, shape, _ddim(request), target, ledger(), about, shown.note)
        chosen = sampling(loaded.model, request)
        rounded = judge(loaded, str(data), labels, count, shown) if int8 else None
        return runtime.export(
            loaded.model, chosen, shape, format, target, ledger(), about, shown.note, torch.get_num_threads(), rounded
        )


def _check_int8(int8: bool, format: str, data: str | Path | None, size: int | None) -> None:
    """What goes together."""
    if not int8:
        if data is not None:
            raise KakusanError(f"--data {data}: is what --int8 is judged by; add --int8, or leave it out")
        return
    if format != "onnx":
        raise KakusanError(f"--int8 goes with --format onnx, not {format} (OpenVINO reads that file too)")
    if data is None:
        raise KakusanError("--int8: add --data PICTURES, real ones to hold its samples against")
    if size is not None:
        raise KakusanError(f"--size {size}: int8 is judged at the model's own size; leave --size out")


def _ddim(request: Request) -> int:
    """Steps of the sample that a Diffusers folder is compared by; what its scheduler does not hold is refused."""
    for name, value, neutral in (
        ("solver", request.solver, "ddim"), ("guidance", request.guidance, 1.0), ("eta", request.eta, 0.0),
        ("autoguidance", request.autoguidance, 1.0),
    ):  # fmt: skip
        if value not in (None, neutral):
            raise KakusanError(
                f"--{name} {value}: a Diffusers folder holds the network and its betas, sampled with DDIM; leave it "
                "out, and ask Diffusers for it"
            )
    return 20 if request.steps is None else request.steps


def sampling(model: Model, request: Request) -> Sampling:
    """The request's sampler as the runtime wants it: what ``sampler.steps`` would do."""
    if WEIGHT in model.encoders and request.guidance not in (None, 1):
        raise KakusanError(
            f"--guidance {request.guidance:g}: this student takes the weight as an input; leave it out, and give it to "
            f"the exported network as {WEIGHT!r}"
        )
    settled = sampler.settle(model, request)
    solver, grid, process = build(settled["solver"], "solver"), build(settled["grid"], "grid"), model.denoiser.process
    if not isinstance(solver, Solver) or not isinstance(grid, Grid):
        raise KakusanError(f"solver {settled['solver']} and grid {settled['grid']}: need a solver/... and a grid/...")
    times = grid.times(settled["steps"], process)
    if settled["eta"]:
        times = grids.climb(times, process, settled["eta"])
    weight = sampler.defaults(model)["guidance"] if request.guidance is None else request.guidance
    if not isinstance(weight, (int, float)):
        raise KakusanError("this model weighs each condition by itself, which a table cannot hold: add --guidance 2")
    settled |= {"guidance": float(weight)}  # hosts say what they draw, later
    guide, branches = guided(model, float(weight), settled["autoguidance"])
    return Sampling(solver, times, guide, branches, settled)


def guided(model: Model, guidance: float, autoguidance: float) -> tuple[Guide, tuple[Branch, ...]]:
    """The guide of these weights, and the branches it weighs, in its order."""
    guide: Guide = Plain()
    branches: tuple[Branch, ...] = (Branch(),)
    if guidance != 1:
        guide = ClassifierFree(guidance)
        branches = (
            Branch(none=tuple(name for name in model.encoders if name not in ("augment", model.timed))),
            Branch(),
        )
    if autoguidance != 1 and model.weak is not None:
        return Autoguidance(autoguidance, guide), (Branch("weak"), *branches)
    return guide, branches
