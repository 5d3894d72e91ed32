"""From a request (how many, which label, how many steps) to the steps of the sampling loop, in fitting batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kakusan.app.doctor import memory_free
from kakusan.catalog import build
from kakusan.core import grid as grids
from kakusan.core.batch import Inputs
from kakusan.core.grid import Grid
from kakusan.core.guide import Autoguidance, ClassifierFree, Denoise, Guide, Plain, pair
from kakusan.core.model import Model
from kakusan.core.rng import Rng, mix
from kakusan.core.sample import Step, sample, start
from kakusan.core.solver import Solver
from kakusan.part import KakusanError, Part

__all__ = ["DEFAULTS", "SOLVERS", "Request", "denoise_of", "plan_batches", "settle", "steps"]

SOLVERS = {
    "ddim": "solver/ddim",
    "heun": "solver/heun",
    "dpm2m": "solver/dpm2m",
    "unipc": "solver/unipc",
    "ipndm": "solver/ipndm",
}
DEFAULTS: dict[str, Any] = {
    "solver": {"kind": "solver/dpm2m"},
    "grid": {"kind": "grid/karras", "k_min": 0.01},
    "steps": 20,
    "guidance": 1.0,
    "autoguidance": 1.0,
    "eta": 0.0,
}
_ALIASES = {"ddpm": ("ddim", 1.0), "euler": ("ddim", 0.0), "dpm++": ("dpm2m", 0.0), "dpm++2m": ("dpm2m", 0.0)}


@dataclass(frozen=True)
class Request:
    """Everything that decides a set of samples; what is None is the model's own default."""

    seeds: Sequence[int]
    cond: dict[str, list[Any]] = field(default_factory=dict)  # condition name -> one value a sample
    steps: int | None = None
    solver: str | dict[str, Any] | None = None  # a name, or the whole spec as a recipe has it
    guidance: float | None = None
    autoguidance: float | None = None
    eta: float | None = None
    churn: float | None = None
    grid: dict[str, Any] | None = None
    size: tuple[int, ...] | None = None


def settle(model: Model, request: Request) -> dict[str, Any]:
    """The request's settings with the model's defaults filled in: what a sample's recipe records."""
    known = defaults(model)
    solver, eta = _solver(request.solver, known["solver"], known["eta"])
    settled = {
        "solver": solver,
        "grid": request.grid or known["grid"],
        "steps": int(known["steps"] if request.steps is None else request.steps),
        "guidance": float(known["guidance"] if request.guidance is None else request.guidance),
        "autoguidance": _autoguidance(model, request.autoguidance, known["autoguidance"]),
        "eta": float(eta if request.eta is None else request.eta),
        "churn": float(request.churn or 0.0),
    }
    if not 1 <= settled["steps"] <= 10_000:
        raise KakusanError(
            f"--steps {settled['steps']}: choose between 1 and 10000; {known['steps']} is this model's default"
        )
    if settled["eta"] and settled["churn"]:
        raise KakusanError("--eta and --churn both add noise: choose one of them")
    if not math.isfinite(settled["guidance"]):
        raise KakusanError(f"--guidance {settled['guidance']}: need a number; 1 is no guidance, 2 to 4 is usual")
    if settled["guidance"] != 1 and not guided(model):
        raise KakusanError(
            f"--guidance {settled['guidance']:g}: this model has no conditions to be guided by; leave it out"
        )
    return settled


def defaults(model: Model) -> dict[str, Any]:
    """The model's sampling defaults as plain data, ours where it has none."""
    return DEFAULTS | {k: v.spec() if isinstance(v, Part) else v for k, v in model.defaults.items()}


def _autoguidance(model: Model, asked: float | None, default: float) -> float:
    """The weight; a default counts only where there is a weak model to lead away from."""
    if model.weak is None:
        if asked not in (None, 1):
            raise KakusanError(
                f"--autoguidance {asked:g}: this model's file has no weak model beside it (training.weak); leave it out"
            )
        return 1.0
    weight = float(default if asked is None else asked)
    if not math.isfinite(weight):
        raise KakusanError(f"--autoguidance {weight}: need a number; 1 is none, 1.5 to 2.5 is usual")
    return weight


def evaluations(settled: dict[str, Any]) -> int:
    """Evaluations of a network for one sample."""
    branches = 1 + (settled["guidance"] != 1) + (settled["autoguidance"] != 1)
    return int(settled["steps"]) * (2 if settled["solver"]["kind"] == "solver/heun" else 1) * branches


def guided(model: Model) -> bool:
    """Whether the model has a condition that guidance can strengthen (augmentation is not one)."""
    return any(name != "augment" for name in model.encoders)


def _solver(asked: str | dict[str, Any] | None, default: dict[str, Any], eta: float) -> tuple[dict[str, Any], float]:
    if asked is None:
        return default, eta
    if isinstance(asked, dict):
        return asked, 0.0
    name, given = _ALIASES.get(asked.lower(), (asked.lower(), 0.0))
    if name not in SOLVERS:
        raise KakusanError(f"--solver {asked!r} is not known; choose one of: {', '.join([*SOLVERS, *_ALIASES])}")
    return {"kind": SOLVERS[name]}, given


def plan_batches(count: int, shape: tuple[int, ...], guided: bool, device: torch.device) -> int:
    """How many samples fit one batch: 600 activations a pixel are assumed, and a quarter of the free memory is used."""
    numbers = 600 * math.prod(shape[1:]) * 4 * (2 if guided else 1)
    most = free_memory(device) // 4 // max(numbers, 1)
    return int(max(1, min(count, most, 256)))


def free_memory(device: torch.device) -> int:
    """Bytes free on the device, or in the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return memory_free() or 4 << 30


def steps(model: Model, request: Request, shapes: list[tuple[int, ...]]) -> Iterator[Step]:
    """Sample one batch, step by step; ``shapes`` are the samples' own (C, *S)."""
    settled = settle(model, request)
    denoiser = model.denoiser
    device = next(model.parameters()).device
    solver, grid = build(settled["solver"], "solver"), build(settled["grid"], "grid")
    if not isinstance(solver, Solver) or not isinstance(grid, Grid):
        raise KakusanError(f"solver {settled['solver']} and grid {settled['grid']}: need a solver/... and a grid/...")
    times = grid.times(settled["steps"], denoiser.process)
    if (settled["eta"] or settled["churn"]) and bool((times.diff() > 0).any()):
        raise KakusanError(f"--eta {settled['eta']:g}: {grid.kind} adds noise of its own; leave --eta and churn out")
    if settled["eta"]:
        times = grids.climb(times, denoiser.process, settled["eta"])
    if settled["churn"]:
        times = grids.churn(times, denoiser.process, settled["churn"])
    rng = Rng(request.seeds, device)
    x = start(times, denoiser.process, denoiser.space, shapes, rng)
    denoise = denoise_of(model, settled, request.cond, len(request.seeds))
    yield from _no_grad(sample(denoise, x, times, solver, denoiser.process, denoiser.space, rng, shapes))


def denoise_of(model: Model, settled: dict[str, Any], cond: dict[str, list[Any]], count: int) -> Denoise:
    """The denoiser of ``count`` samples with these conditions, guided as settled."""
    guide: Guide = ClassifierFree(settled["guidance"]) if settled["guidance"] != 1 else Plain()
    inputs = prepare(model, cond, count)
    full = model.cond(inputs, {}, count)
    conds = [full]
    if guide.branches == 2:
        off = {name: torch.zeros(count, dtype=torch.bool) for name in inputs if name != "augment"}
        conds = [model.cond(inputs, off, count), full]
    branches = model.branches(conds)
    if model.weak is not None and settled["autoguidance"] != 1:
        guide = Autoguidance(settled["autoguidance"], guide)
        branches = pair(model.weak.branches([model.weak.cond(inputs, {}, count)]), branches)
    return guide(branches)


def _no_grad(source: Iterator[Step]) -> Iterator[Step]:
    """Each step is computed without gradients, and the caller's own mode is left alone between them."""
    while True:
        with torch.inference_mode():
            step = next(source, None)
        if step is None:
            return
        yield step


def prepare(model: Model, cond: dict[str, list[Any]], count: int) -> Inputs:
    """Values by condition name to prepared inputs."""
    inputs: Inputs = {}
    for name, values in cond.items():
        if len(values) != count:
            raise KakusanError(f"condition {name!r}: {len(values)} values for {count} samples; give one, or one each")
        inputs[name] = model.encoder(name).prepare(values)
    return inputs


def random_labels(names: Sequence[str], seeds: Sequence[int]) -> list[int]:
    """A class for each sample of a conditional model when none is asked for, decided by the sample's own seed."""
    return [mix(int(seed), "label") % len(names) for seed in seeds]


def to_tensor(step: Step) -> Tensor:
    """The picture as it would be if sampling ended here: the estimate of x0, or x itself at the end."""
    return step.x if step.t == 0 else step.x0
