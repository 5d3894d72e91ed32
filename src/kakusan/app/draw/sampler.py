"""From a request (how many, which label, how many steps) to the steps of the sampling loop, in fitting batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kakusan.app.draw import branches
from kakusan.app.draw.branches import prepare
from kakusan.app.draw.start import Start, begin, cut
from kakusan.app.draw.tiling import tiled
from kakusan.app.judge.doctor import memory_free
from kakusan.catalog import build
from kakusan.core import grid as grids
from kakusan.core.grid import Grid
from kakusan.core.guide import Denoise
from kakusan.core.model import Model
from kakusan.core.rng import Rng, mix
from kakusan.core.sample import Step, sample
from kakusan.core.solver import Solver
from kakusan.core.windows import windows
from kakusan.part import KakusanError, Part

__all__ = ["DEFAULTS", "SOLVERS", "Edit", "Request", "plan_batches", "prepare", "settle", "steps"]

# from (denoiser, noise at the first time, times) to what an edit puts in their places
Edit = Callable[[Denoise, Tensor, Tensor], tuple[Denoise, Tensor, Tensor]]

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
    guidance: float | Mapping[str, float] | None = None  # one weight, or one for each condition
    autoguidance: float | None = None
    eta: float | None = None
    churn: float | None = None
    grid: dict[str, Any] | None = None
    size: tuple[int, ...] | None = None
    negative: dict[str, list[Any]] = field(default_factory=dict)  # what guidance leads away from, as ``cond``
    guidance_interval: Sequence[float] | None = None  # (low, high) sigma/alpha between which it is guided
    guidance_rescale: float | None = None
    apg: float | None = None  # bound of APG's differences, 0 = none
    threshold: float | None = None
    chaos: float | None = None  # 0 to 100
    tile: bool = False
    start: Start | None = None  # a picture to vary, in place of noise alone
    window: tuple[int, int] | None = None  # larger pictures are painted in overlapping windows of this size
    names: Sequence[str] = ()  # of the samples' files, where their seeds do not name them

    def rows(self, at: Sequence[int]) -> Request:
        """The request of some of its samples."""
        cond, negative = ({k: [v[i] for i in at] for k, v in named.items()} for named in (self.cond, self.negative))
        seeds, names = [self.seeds[i] for i in at], [self.names[i] for i in at] if self.names else ()
        return replace(self, seeds=seeds, cond=cond, negative=negative, names=names)


_GUIDANCE = ("guidance", "guidance_interval", "guidance_rescale", "apg", "threshold", "chaos")


def settle(model: Model, request: Request) -> dict[str, Any]:
    """The request's settings with the model's defaults filled in: what a sample's recipe records."""
    known = defaults(model)
    solver, eta = _solver(request.solver, known["solver"], known["eta"])
    settled = {
        "solver": solver,
        "grid": request.grid or known["grid"],
        "steps": int(known["steps"] if request.steps is None else request.steps),
        "autoguidance": _autoguidance(model, request.autoguidance, known["autoguidance"]),
        "eta": float(eta if request.eta is None else request.eta),
        "churn": float(request.churn or 0.0),
    }
    asked = {name: getattr(request, name) for name in _GUIDANCE}
    settled |= branches.settle(model, asked, known, request.cond, request.negative, settled["autoguidance"])
    settled |= {"tile": True} if request.tile else {}
    if not 1 <= settled["steps"] <= 10_000:
        raise KakusanError(
            f"--steps {settled['steps']}: choose between 1 and 10000; {known['steps']} is this model's default"
        )
    if settled["eta"] and settled["churn"]:
        raise KakusanError("--eta and --churn both add noise: choose one of them")
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
    return branches.weight_of("--autoguidance", default if asked is None else asked)


def evaluations(settled: dict[str, Any]) -> int:
    """Evaluations of a network for one sample, from its recipe or a model's default settings."""
    each = 2 if settled["solver"]["kind"] == "solver/heun" else 1
    return int(settled["steps"]) * each * branches.count(settled)


def _solver(asked: str | dict[str, Any] | None, default: dict[str, Any], eta: float) -> tuple[dict[str, Any], float]:
    if asked is None:
        return default, eta
    if isinstance(asked, dict):
        return asked, 0.0
    name, given = _ALIASES.get(asked.lower(), (asked.lower(), 0.0))
    if name not in SOLVERS:
        raise KakusanError(f"--solver {asked!r} is not known; choose one of: {', '.join([*SOLVERS, *_ALIASES])}")
    return {"kind": SOLVERS[name]}, given


def plan_batches(count: int, shape: tuple[int, ...], branches: int, device: torch.device) -> int:
    """How many samples fit one batch: 600 activations a pixel are assumed, and a quarter of the free memory is used."""
    numbers = 600 * math.prod(shape[1:]) * 4 * branches
    free = free_memory(device)
    if numbers > free:
        raise KakusanError(
            f"--size {shape[-1]}: one sample would need about {numbers / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB "
            "are free; choose a smaller size"
        )
    return int(max(1, min(count, free // 4 // max(numbers, 1), 256)))


def free_memory(device: torch.device) -> int:
    """Bytes free on the device, or in the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return memory_free() or 4 << 30


def steps(model: Model, request: Request, shapes: list[tuple[int, ...]], edit: Edit | None = None) -> Iterator[Step]:
    """Sample one batch, step by step; ``shapes`` are the samples' own (C, *S); ``edit`` has the last word on how."""
    settled = settle(model, request)
    _complete(model, request)
    if settled.get("tile"):
        model = tiled(model, shapes)
    denoiser = model.denoiser
    process, rng = denoiser.process, Rng(request.seeds, next(model.parameters()).device)
    solver, grid = build(settled["solver"], "solver"), build(settled["grid"], "grid")
    if not isinstance(solver, Solver) or not isinstance(grid, Grid):
        raise KakusanError(f"solver {settled['solver']} and grid {settled['grid']}: need a solver/... and a grid/...")
    times = grid.times(settled["steps"], process)
    if (settled["eta"] or settled["churn"]) and bool((times.diff() > 0).any()):
        raise KakusanError(f"--eta {settled['eta']:g}: {grid.kind} adds noise of its own; leave --eta and churn out")
    times = cut(times, process, request.start)
    if settled["eta"]:
        times = grids.climb(times, process, settled["eta"])
    if settled["churn"]:
        times = grids.churn(times, process, settled["churn"])
    x = begin(times, process, denoiser.space, shapes, rng, request.start)
    told = (model, settled, request.cond, request.negative, request.seeds)
    denoise = branches.denoiser(*told)
    if request.window is not None:
        denoise = windows(denoise, request.window, at=lambda where: branches.denoiser(*told, where))
    if edit is not None:
        with torch.no_grad():
            denoise, x, times = edit(denoise, x, times)
    drawn = sample(denoise, x, times, solver, process, denoiser.space, rng, shapes)
    yield from _no_grad(drawn, torch.inference_mode if edit is None else torch.no_grad)


def _complete(model: Model, request: Request) -> None:
    """Refuses to draw without a condition that there is nothing to draw without."""
    for name in model.encoders:
        if model.encoder(name).needed and any(v is None for v in request.cond.get(name, [None])):
            raise KakusanError("this model enlarges pictures and draws none of its own: kakusan upscale MODEL IMAGE")


def _no_grad(source: Iterator[Step], mode: type[torch.no_grad] | type[torch.inference_mode]) -> Iterator[Step]:
    """Each step is computed without gradients, and the caller's own mode is left alone between them.

    Constraints take gradients of their own, which inference mode rules out.
    """
    while True:
        with mode():
            step = next(source, None)
        if step is None:
            return
        yield step


def random_labels(names: Sequence[str], seeds: Sequence[int]) -> list[int]:
    """A class for each sample of a conditional model when none is asked for, decided by the sample's own seed."""
    return [mix(int(seed), "label") % len(names) for seed in seeds]


def to_tensor(step: Step) -> Tensor:
    """The picture as it would be if sampling ended here: the estimate of x0, or x itself at the end."""
    return step.x if step.t == 0 else step.x0
