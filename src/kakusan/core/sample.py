"""The one sampling loop, and ``invert``, its deterministic way up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from kakusan.core.guide import Denoise
from kakusan.core.process import Process, cast
from kakusan.core.rng import Rng
from kakusan.core.solver import Memory, Solver
from kakusan.core.space import Space
from kakusan.part import KakusanError

__all__ = ["Step", "invert", "run", "sample", "start"]


@dataclass(frozen=True)
class Step:
    """One step of sampling, done: ``index`` of ``count``; x stands at time t; x0 is the latest clean estimate."""

    index: int
    count: int
    t: float
    x: Tensor
    x0: Tensor


def start(times: Tensor, process: Process, space: Space, shapes: Sequence[tuple[int, ...]], rng: Rng) -> Tensor:
    """Noise to start from: ``sigma(t) eps`` at the first time, drawn per sample."""
    sigma = process.scales(times[0])[1]
    eps = space.noise(shapes, rng, "start")
    return cast(sigma, eps) * eps


def sample(
    f: Denoise,
    x: Tensor,
    times: Tensor,
    solver: Solver,
    process: Process,
    space: Space,
    rng: Rng,
    shapes: Sequence[tuple[int, ...]] | None = None,
    mask: Tensor | None = None,
) -> Iterator[Step]:
    """Follow a list of times: where it falls the solver steps, where it climbs noise is added by the forward kernel.

    ``x`` (B, C, *S) stands at times[0]; ``shapes`` are the samples' own unpadded shapes (all of x by default). A
    climb clears the solver's memory. A bar, a server and a preview iterate the same generator; to cancel is to stop
    iterating.
    """
    if times.ndim != 1 or len(times) < 2:
        raise KakusanError(f"times has shape {tuple(times.shape)}: need a list of at least two")
    own = [tuple(x.shape[1:])] * len(x) if shapes is None else shapes
    memory: Memory | None = None
    x0 = x
    count = len(times) - 1
    for index, (t, s) in enumerate(pairwise(times)):
        if s > t:
            eps = space.noise(own, rng, "climb", index).to(x.dtype)
            x, memory = space.project(process.renoise(x, eps, t, s), mask), None
        elif s < t:
            x, x0, memory = solver.step(f, x, t, s, process, memory)
        yield Step(index, count, float(s), x, x0)


def invert(f: Denoise, x: Tensor, times: Tensor, process: Process, refine: int = 0) -> Tensor:
    """The noise that a deterministic sampler turns into x: the first-order fall, taken upwards
    (Song et al. 2021, section 4.3).

    ``times`` rise from a first one > 0, at which x (already ``alpha x0``) is taken to stand. Each rise uses the
    estimate made below it; ``refine`` repeats it with the estimate made above (fixed-point iteration), which makes
    DDIM's fall its exact inverse in the limit. Approximate: the error falls with more times and with refine.
    """
    if not bool((times.diff() > 0).all()) or not float(times[0]) > 0:
        raise KakusanError("times: inversion needs rising times, the first greater than 0")
    for t, s in pairwise(times):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.scales(t), process.scales(s)
        ratio = sigma_s / sigma_t

        def rise(x0: Tensor, a: Tensor = ratio, b: Tensor = alpha_s - alpha_t * ratio, at: Tensor = x) -> Tensor:
            return cast(a, at) * at + cast(b, at) * x0

        risen = rise(f(x, t, s))
        for _ in range(refine):
            risen = rise(f(risen, s, t))
        x = risen
    return x


def run(steps: Iterator[Step]) -> Tensor:
    """The last x of a sampling loop."""
    x: Tensor | None = None
    for step in steps:
        x = step.x
    if x is None:
        raise KakusanError("nothing was sampled: the list of times is empty")
    return x
