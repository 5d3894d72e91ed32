"""Fill: what is masked in a picture is painted anew, what is not stays to the bit; a canvas is extended likewise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from kakusan.app.draw.given import Given
from kakusan.app.draw.sampler import Edit
from kakusan.app.edit.editing import GRADIENTS, Edited, Wanted, diffused, draw, edited, model_domain, window
from kakusan.app.edit.layout import Layout, lay_out
from kakusan.app.train.spatial import MASK
from kakusan.conditions.spatial import Mask
from kakusan.core import constrain, grid
from kakusan.core.guide import Denoise
from kakusan.core.process import Process
from kakusan.core.windows import windows
from kakusan.domains.canvas import Canvas, Source, feathered, open_canvas, open_mask
from kakusan.domains.latent import Latent
from kakusan.part import KakusanError

if TYPE_CHECKING:
    from kakusan.app.draw.loaded import Loaded

__all__ = ["ROUTES", "constrained", "inpaint", "outpaint"]

ROUTES = {"posterior": 2, "replace": 10, "trained": 1}  # the ways to fill, and how often each takes a step by default
ROUNDS = 3  # of conjugate gradients
NOISE = 0.01  # of what is known, in the model's range of -1 to 1: a grey level and a bit
MOSTLY_WHITE = 0.9


def inpaint(
    loaded: Loaded,
    image: Source,
    mask: Source,
    wanted: Wanted | None = None,
    *,
    route: str | None = None,
    resample: int | None = None,
    feather: int = 0,
    invert: bool = False,
    tile: bool = False,
    resize: bool = False,
) -> list[Edited]:
    """Paint anew what is white in ``mask``; everything else is the file's own to the bit.

    ``route``: "trained" (a model that was trained with masks), "posterior" (the denoiser's own covariance decides what
    the known pixels say of the others; not with guidance) or "replace" (RePaint); None takes the first that is
    possible. Each step is taken ``resample`` times. ``feather`` softens the mask over so many pixels inside its border;
    ``invert`` repaints what is black. ``tile`` works at the picture's scale, ``resize`` at the model's. A model that
    diffuses in a latent fills by "replace": it knows the places of the latent all of whose pixels are known.
    """
    wanted = (wanted or Wanted()).unguided()
    canvas = open_canvas(image)
    white, mask_file = open_mask(mask, canvas.size)
    white = 1 - white if invert else white
    if feather < 0:
        raise KakusanError(f"feather={feather}: need a number of pixels, 0 for the mask as it is")
    notes = []
    if (share := float((white > 0).mean())) > MOSTLY_WHITE:
        notes.append(f"{100 * share:.0f}% of the mask is white, and white is repainted: inverted? (--invert)")
    white = feathered(white, feather) if feather else white
    options = _route(loaded, wanted, route, resample) | {
        "feather": feather, "invert": invert, "tile": tile, "resize": resize,
    }  # fmt: skip
    inputs = {"image": canvas, "mask": mask_file}
    if not (white > 0).any():
        return _unchanged(loaded, canvas, wanted, inputs, options)
    placed = lay_out(canvas.size, model_domain(loaded).size, tile, resize, white)
    return _filled(loaded, canvas, white, placed, wanted, "inpaint", inputs, options, notes)


def outpaint(
    loaded: Loaded,
    image: Source,
    wanted: Wanted | None = None,
    *,
    left: int = 0,
    right: int = 0,
    top: int = 0,
    bottom: int = 0,
    route: str | None = None,
    resample: int | None = None,
    resize: bool = False,
) -> list[Edited]:
    """Extend a picture by so many pixels at each side; its own pixels stay to the bit.

    The model paints in overlapping windows of its own size, whose estimates are averaged at every step; at the
    picture's own scale unless ``resize`` brings the picture to the model's size first.
    """
    wanted = (wanted or Wanted()).unguided()
    edges = {"left": left, "right": right, "top": top, "bottom": bottom}
    for name, pixels in edges.items():
        if pixels < 0:
            raise KakusanError(f"{name}={pixels}: need a number of pixels, 0 or more")
    if not any(edges.values()):
        raise KakusanError("nothing to extend: give --left, --right, --top or --bottom, in pixels")
    canvas = open_canvas(image)
    options = edges | _route(loaded, wanted, route, resample) | {"resize": resize}
    wide, new = canvas.extended(**edges)
    placed = lay_out(wide.size, model_domain(loaded).size, True, resize, new, canvas.size)
    return _filled(loaded, wide, new, placed, wanted, "outpaint", {"image": canvas}, options, [])


def constrained(
    process: Process, size: tuple[int, int], known: Tensor, white: Tensor, route: str, resample: int
) -> Edit:
    """Sampling of what is white (1, h, w) in ``known`` (C, h, w), by windows of ``size``.

    What is grey is known with a noise of m/(1 - m).
    """
    hard = (white < 1).to(known)
    doubt = NOISE + white / (1 - white).clamp(min=1e-3)

    def edit(f: Denoise, x: Tensor, times: Tensor) -> tuple[Denoise, Tensor, Tensor]:
        told, here, unsure = (v.to(x.device) for v in (known, hard, doubt))
        target = told.expand_as(x)
        f = windows(f, size)
        if route == "posterior":
            f = constrain.posterior(f, target * here, lambda v: v * here, process, unsure, ROUNDS)
            keep = (white == 0).to(x)
        else:
            keep = 1 - white.to(x)
        return constrain.inpaint(f, target, keep), x, grid.resample(times, resample)

    return edit


def _route(loaded: Loaded, wanted: Wanted, route: str | None, resample: int | None) -> dict[str, Any]:
    """The way to fill and how often each step is taken, chosen where that was left open."""
    guided = wanted.guided(loaded)
    latent = isinstance(loaded.domain, Latent)
    able = MASK in loaded.model.encoders and isinstance(loaded.model.encoder(MASK), Mask)
    chosen = route or ("trained" if able else "replace" if guided or latent else "posterior")
    if chosen not in ROUTES:
        raise KakusanError(f"route={chosen!r} is not known; choose one of: {', '.join(ROUTES)}")
    if chosen == "trained" and not able:
        raise KakusanError("route='trained': this model was not trained with --masks; leave the route out")
    if chosen == "posterior" and latent:
        raise KakusanError("route='posterior' needs a model of pixels, this one diffuses in a latent: --route replace")
    if chosen == "posterior" and guided:
        raise KakusanError("route='posterior' works without guidance: leave --guidance at 1, or use --route replace")
    if resample is not None and resample < 1:
        raise KakusanError(f"resample={resample}: each step is taken at least once")
    return {"route": chosen, "resample": resample or ROUTES[chosen]}


def _filled(
    loaded: Loaded,
    canvas: Canvas,
    white: np.ndarray,
    placed: Layout,
    wanted: Wanted,
    verb: str,
    inputs: dict[str, Canvas],
    options: dict[str, Any],
    notes: list[str],
) -> list[Edited]:
    """Samples of the region, brought back onto the canvas."""
    domain, request = model_domain(loaded), wanted.request(loaded)
    seen = canvas.seen(domain, placed.work)
    known, unknown = placed.padded(seen, 0.0)[(..., *placed.cut)], placed.shrunk(white)
    if placed.windows > 1:
        notes = [*notes, f"painting in {placed.windows} overlapping windows"]
    process, route, resample = loaded.model.denoiser.process, options["route"], int(options["resample"])
    if isinstance(loaded.domain, Latent):  # a place of the latent is known where all of its pixels are
        known, factor = diffused(loaded, known[None])[0], loaded.domain.autoencoder.factor
        unknown = functional.max_pool2d(unknown, factor, ceil_mode=True)
    told, work = request, constrained(process, window(loaded), known, unknown, route, resample)
    if route == "trained":
        given = [Given((known, unknown))] * len(request.seeds)
        pane = window(loaded) if placed.windows > 1 else None
        told, work = replace(request, cond=request.cond | {MASK: given}, window=pane), _repeating(resample)
    heavy = GRADIENTS if route == "posterior" else 1
    drawn = draw(loaded, told, tuple(known.shape), work, wanted, heavy * placed.windows)
    paint = [canvas.painted(domain, placed.placed(seen, x)) for x in drawn]
    pictures = [canvas.merged(p, white) for p in paint]
    return edited(loaded, request, verb, canvas, pictures, inputs, options, notes)


def _repeating(resample: int) -> Edit:
    """Sampling by the conditions alone, each step taken so many times."""

    def edit(f: Denoise, x: Tensor, times: Tensor) -> tuple[Denoise, Tensor, Tensor]:
        return f, x, grid.resample(times, resample)

    return edit


def _unchanged(
    loaded: Loaded, canvas: Canvas, wanted: Wanted, inputs: dict[str, Canvas], options: dict[str, Any]
) -> list[Edited]:
    request = wanted.request(loaded)
    notes = ["the mask is black everywhere, so nothing is repainted: the picture comes back as it is"]
    pictures = [canvas.pixels] * len(request.seeds)
    made = edited(loaded, request, "inpaint", canvas, pictures, inputs, options, notes)
    for each in made:
        each.generated = False
    return made
