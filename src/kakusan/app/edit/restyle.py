"""Restyle and restore: a picture drawn again from part of the way into noise, or from what is left of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kakusan.app.draw.sampler import Edit
from kakusan.app.edit.editing import GRADIENTS, Edited, Wanted, diffused, draw, edited, model_domain, window
from kakusan.app.edit.fill import NOISE, ROUNDS
from kakusan.app.edit.layout import Layout, lay_out
from kakusan.core import constrain, operators
from kakusan.core.guide import Denoise
from kakusan.core.process import Process, cast
from kakusan.core.windows import windows
from kakusan.domains.canvas import Canvas, Source, open_canvas
from kakusan.domains.image import Image
from kakusan.domains.latent import Latent
from kakusan.part import KakusanError

if TYPE_CHECKING:
    from kakusan.app.draw.loaded import Loaded

__all__ = ["RESTORED", "edit", "restore", "started", "strength_ratio"]

RESTORED = ("x2", "x4", "blur", "grey", "noise")
AMOUNTS = {"blur": 1.5, "noise": 25.0}  # pixels of standard deviation; grey levels of 255


def strength_ratio(strength: float, sigma_data: float) -> float:
    """k = sigma/alpha at a strength in [0, 1]: ``3 sigma_data tan(strength pi/2)``, whatever the process.

    At 1/2 the noise is three times the pictures' own spread, of which little more than the layout shows through.
    """
    return 3 * sigma_data * math.tan(strength * math.pi / 2) if strength < 1 else math.inf


def started(seen: Tensor, ratio: float, process: Process, size: tuple[int, int]) -> Edit:
    """Sampling from ``seen`` (C, h, w) under noise of k = ``ratio`` (SDEdit; Meng et al. 2022, algorithm 1); from noise
    alone where that is infinite."""

    def edit(f: Denoise, x: Tensor, times: Tensor) -> tuple[Denoise, Tensor, Tensor]:
        f = windows(f, size)
        if not math.isfinite(ratio):
            return f, x, times
        eps = x / cast(process.scales(times[0])[1], x)
        if ratio < float(process.ratio(times[0])):
            first = process.time(torch.tensor([-math.log(ratio)], dtype=torch.float64))
            later = times[process.ratio(times) < 0.99 * ratio]
            times = torch.cat([first, later])
        return f, process.noised(seen.to(x).expand_as(x), eps, times[0]), times

    return edit


def edit(
    loaded: Loaded,
    image: Source,
    wanted: Wanted | None = None,
    *,
    strength: float = 0.6,
    tile: bool = False,
    resize: bool = False,
) -> list[Edited]:
    """Draw a picture again from itself under noise (SDEdit): ``strength`` 0 gives it back, 1 is noise alone."""
    wanted = wanted or Wanted()
    if not 0 <= strength <= 1:
        raise KakusanError(f"strength={strength:g}: need a number from 0 (the picture itself) to 1 (noise alone)")
    canvas, domain, request = open_canvas(image), model_domain(loaded), wanted.request(loaded)
    options = {"strength": float(strength), "tile": tile, "resize": resize}
    if strength == 0:
        pictures = [canvas.pixels] * len(request.seeds)
        notes = ["strength 0: the picture comes back as it is"]
    else:
        placed = lay_out(canvas.size, domain.size, tile, resize)
        seen = canvas.seen(domain, placed.work)
        known = placed.padded(seen, 0.0)
        known = diffused(loaded, known[None])[0]
        ratio = strength_ratio(strength, getattr(loaded.domain, "sigma_data", domain.sigma_data))
        work = started(known, ratio, loaded.model.denoiser.process, window(loaded))
        drawn = draw(loaded, request, tuple(known.shape), work, wanted)
        pictures = [canvas.painted(domain, placed.placed(seen, x)) for x in drawn]
        notes = _notes(placed)
    made = edited(loaded, request, "edit", canvas, pictures, {"image": canvas}, options, notes)
    for each in made:
        each.generated = strength > 0
    return made


def restore(
    loaded: Loaded,
    image: Source,
    kind: str,
    wanted: Wanted | None = None,
    *,
    amount: float | None = None,
    noise: float = NOISE,
    tile: bool = False,
) -> list[Edited]:
    """Undo what happened to a picture: "x2" and "x4" enlarge, "blur", "grey" (colouring) and "noise" say it themselves.

    ``amount``: of blur in pixels (1.5), of noise in grey levels (25), each a standard deviation. ``noise``: of the
    measurement, in the model's range of -1 to 1. ``tile`` allows results larger than the model.
    """
    wanted = (wanted or Wanted()).unguided()
    if wanted.guided(loaded):
        raise KakusanError("restore works without guidance: leave --guidance and --autoguidance at 1")
    if isinstance(loaded.domain, Latent):
        raise KakusanError("restore needs a model of pixels, and this one diffuses in a latent: use --strength")
    canvas, domain, request = open_canvas(image), model_domain(loaded), wanted.request(loaded)
    amount = _amount(kind, amount)
    factor = int(kind[1:]) if kind in ("x2", "x4") else 1
    size = (canvas.size[0] * factor, canvas.size[1] * factor)
    if size != domain.size and not tile:
        theirs, ours = (f"{s[1]} x {s[0]}" for s in (size, domain.size))
        raise KakusanError(f"restored it is {theirs} pixels, the model paints {ours}: add --tile (overlapping windows)")
    placed = lay_out(size, domain.size, True, False)
    measured, apply, noise = _operator(kind, canvas, domain, amount, noise)
    rows, columns = size
    process = loaded.model.denoiser.process

    def work(f: Denoise, x: Tensor, times: Tensor) -> tuple[Denoise, Tensor, Tensor]:
        def seen(x0: Tensor) -> Tensor:
            return apply(x0[..., :rows, :columns])

        target = measured.to(x).expand(len(x), *measured.shape)
        return constrain.posterior(windows(f, domain.size), target, seen, process, noise, ROUNDS), x, times

    shape = (domain.channels, *(max(a, b) for a, b in zip(size, domain.size, strict=True)))
    drawn = draw(loaded, request, shape, work, wanted, GRADIENTS * placed.windows)
    pictures = [canvas.painted(domain, x[:, :rows, :columns], own=kind != "grey") for x in drawn]
    options: dict[str, Any] = {"restore": kind, "amount": amount, "noise": noise, "tile": tile}
    made = edited(loaded, request, "edit", canvas, pictures, {"image": canvas}, options, _notes(placed))
    off = [float((apply(x[None, :, :rows, :columns]) - measured).square().mean().sqrt()) for x in drawn]
    for each, away in zip(made, off, strict=True):
        each.told["residual"] = away
    return made


def _amount(kind: str, amount: float | None) -> float | None:
    if kind not in RESTORED:
        raise KakusanError(f"restore={kind!r} is not known; choose one of: {', '.join(RESTORED)}")
    if amount is not None and kind not in AMOUNTS:
        raise KakusanError(f"amount={amount:g}: {kind} takes none; {' and '.join(AMOUNTS)} do")
    if amount is not None and not 0 < amount < 256:
        raise KakusanError(f"amount={amount:g}: need a standard deviation above 0 (blur: pixels, noise: grey levels)")
    return AMOUNTS.get(kind) if amount is None else amount


def _operator(
    kind: str, canvas: Canvas, domain: Image, amount: float | None, noise: float
) -> tuple[Tensor, Callable[[Tensor], Tensor], float]:
    """What was measured (C, h, w), the operator that made it of x0, and the noise in it."""
    seen = canvas.seen(domain)
    if kind == "grey":
        if domain.channels < 3 or domain.mode not in ("RGB", "RGBA"):
            raise KakusanError(f"restore='grey': this model draws {domain.mode}, without colours; use one with them")
        return operators.grey(seen[None])[0], operators.grey, noise
    if kind == "blur":
        return seen, operators.blurred(amount or 0.0), noise
    if kind == "noise":
        return seen, lambda x0: x0, 2 * (amount or 0.0) / 255
    return seen, operators.pooled(int(kind[1:])), noise


def _notes(placed: Layout) -> list[str]:
    return [f"painting in {placed.windows} overlapping windows"] if placed.windows > 1 else []
