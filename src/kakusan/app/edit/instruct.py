"""Instruct: a picture changed as it is told, by a model that was trained on pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from kakusan.app.draw import sampler
from kakusan.app.draw.branches import weight_of
from kakusan.app.draw.given import Given
from kakusan.app.edit.editing import Edited, Wanted, diffused, draw, edited, model_domain, window
from kakusan.app.edit.layout import lay_out
from kakusan.conditions.spatial import Source as Shown
from kakusan.core.guide import Denoise
from kakusan.domains.canvas import Source, open_canvas
from kakusan.part import KakusanError
from kakusan.training.captions import PROMPT
from kakusan.training.pairs import SOURCE

if TYPE_CHECKING:
    from kakusan.app.draw.loaded import Loaded

__all__ = ["EMPTY", "instruct"]

EMPTY = '--instruct is empty: say what to change, as --instruct "make it flat"'


def instruct(
    loaded: Loaded,
    image: Source,
    wanted: Wanted,
    *,
    image_guidance: float | None = None,
    tile: bool = False,
    resize: bool = False,
) -> list[Edited]:
    """Change a picture as the prompt of ``wanted`` says, by a model that was trained on pairs.

    ``D = D_0 + w_I (D_I - D_0) + w_T (D_IT - D_I)`` over what is drawn from nothing, by the picture, and by picture and
    instruction (Brooks et al. 2023, arXiv 2211.09800, eq. 3): ``image_guidance`` is w_I, how near to the picture it
    stays, ``wanted.guidance`` w_T, how strictly it is told; None is the model's own.
    """
    cond = {name: value for name, value in (wanted.cond or {}).items() if name != SOURCE}
    _possible(loaded, wanted.prompt if wanted.prompt is not None else cond.get(PROMPT))
    weights = _weights(loaded, wanted.guidance, image_guidance)
    canvas, domain = open_canvas(image), model_domain(loaded)
    placed = lay_out(canvas.size, domain.size, tile, resize)
    seen = canvas.seen(domain, placed.work)
    known = diffused(loaded, placed.padded(seen, 0.0)[None])[0]
    request = replace(wanted, cond=cond, guidance=None).request(loaded)
    about = Given(known, {"picture": canvas.file, "sha256": canvas.sha256})
    request = replace(
        request,
        guidance=weights,
        cond=request.cond | {SOURCE: [about] * len(request.seeds)},
        window=window(loaded) if placed.windows > 1 else None,
    )
    drawn = draw(loaded, request, tuple(known.shape), _as_it_is, wanted, placed.windows)
    pictures = [canvas.painted(domain, placed.placed(seen, x)) for x in drawn]
    notes = [f"painting in {placed.windows} overlapping windows"] if placed.windows > 1 else []
    options = {"instruct": True, "tile": tile, "resize": resize}
    return edited(loaded, request, "edit", canvas, pictures, {"image": canvas}, options, notes)


def _possible(loaded: Loaded, told: object) -> None:
    """Refuses a model that was not trained on pairs, and an instruction that says nothing."""
    encoders = loaded.model.encoders
    if SOURCE not in encoders or not isinstance(loaded.model.encoder(SOURCE), Shown) or PROMPT not in encoders:
        raise KakusanError(
            f"--instruct: {loaded.path or 'this model'} was not trained on pairs and follows no instructions; train "
            "one that does: kakusan train PICTURES --pairs pairs.jsonl"
        )
    if told is None or (isinstance(told, str) and not told.strip()):
        raise KakusanError(EMPTY)


def _weights(loaded: Loaded, asked: float | Mapping[str, float] | None, image: float | None) -> dict[str, float]:
    """The two weights: those asked for over the model's own."""
    own = sampler.defaults(loaded.model)["guidance"]
    weights = dict(own) if isinstance(own, Mapping) else {PROMPT: float(own)}
    told = asked if isinstance(asked, Mapping) else {} if asked is None else {PROMPT: weight_of("--guidance", asked)}
    pictured = {} if image is None else {SOURCE: weight_of("--image-guidance", image)}
    return {SOURCE: 1.0, PROMPT: 1.0} | weights | dict(told) | pictured


def _as_it_is(f: Denoise, x: Tensor, times: Tensor) -> tuple[Denoise, Tensor, Tensor]:
    return f, x, times
