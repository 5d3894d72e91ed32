"""Upscale: pictures enlarged by a model that was trained to; those that a file holds, and those just sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as Pil
from torch import Tensor

from kakusan.app.draw import sampler
from kakusan.app.draw.given import Given
from kakusan.app.draw.sampled import Sample
from kakusan.app.draw.sampler import Request
from kakusan.app.draw.shipped import called
from kakusan.app.edit.editing import Edited, Wanted, draw, edited, model_domain
from kakusan.app.train.spatial import LOW, lowered
from kakusan.conditions.spatial import LowResolution
from kakusan.core.guide import Denoise
from kakusan.domains.canvas import Canvas, Source, open_canvas
from kakusan.domains.domain import Record
from kakusan.domains.image import Image
from kakusan.part import KakusanError

if TYPE_CHECKING:
    from kakusan.app.draw.loaded import Loaded

__all__ = ["again", "encoder_of", "enlarged", "upscale"]

WHOLE = 1024  # pixels a side that are painted at once; what is larger, in overlapping windows
WINDOW = 512


def encoder_of(loaded: Loaded) -> LowResolution:
    """The model's condition of low resolution; raises KakusanError where it has none."""
    found = loaded.model.encoder(LOW) if LOW in loaded.model.encoders else None
    if not isinstance(found, LowResolution):
        raise KakusanError(
            f"{loaded.path or 'this model'} does not enlarge pictures: train one that does, "
            "kakusan train PICTURES --upscale 4 (or, with any model: kakusan edit MODEL IMAGE --restore x4)"
        )
    return found


def upscale(loaded: Loaded, image: Source, wanted: Wanted | None = None, *, noise: float | None = None) -> list[Edited]:
    """Enlarge a picture by the model's factor; a picture of any size, its mode, depth, alpha and profile kept.

    ``noise``: how much is covered and drawn anew, as a standard deviation in the model's range of -1 to 1.
    """
    wanted = wanted or Wanted()
    encoder, domain, canvas = encoder_of(loaded), model_domain(loaded), open_canvas(image)
    level = encoder.level if noise is None else float(noise)
    if not 0 <= level <= encoder.most:
        raise KakusanError(f"--noise {level:g}: this model knows 0 to {encoder.most:g}; {encoder.level:g} is usual")
    request, factor = wanted.request(loaded), encoder.factor
    apart = canvas.pixels.shape[2] == 4 and domain.mode in ("L", "RGB")  # alpha that the model does not see
    colour = replace(canvas, pixels=canvas.pixels[..., :3]) if apart else canvas
    drawn = _draw(loaded, request, [colour.seen(domain)] * len(request.seeds), wanted, level)
    pictures = [colour.painted(domain, x) for x in drawn]
    if apart:
        alpha = _alpha(canvas, factor)
        pictures = [np.concatenate([p, alpha], 2) for p in pictures]
    return edited(loaded, request, "upscale", canvas, pictures, {"image": canvas}, {"noise": level})


def enlarged(
    samples: Sequence[Sample],
    loaded: Loaded,
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
    steps: int | None = None,
) -> list[Sample]:
    """Samples of another model, enlarged; their recipes tell of both models. Fewer when ``stop`` said so."""
    encoder, domain = encoder_of(loaded), model_domain(loaded)
    if not samples:
        return []
    lows = [_seen(domain, s) for s in samples]
    request = Request(seeds=[s.seed for s in samples], steps=steps)
    settled = sampler.settle(loaded.model, request)
    wanted = Wanted(progress=progress, stop=stop)
    out = []
    about = {"model": loaded.info_.get("hash", ""), "file": called(loaded.path)} | settled
    for sample, x in zip(samples, _draw(loaded, request, lows, wanted, encoder.level), strict=False):
        recipe = sample.recipe | {"upscaled": about}
        record = domain.records(x[None])[0]
        record.meta |= {"seed": sample.seed, "recipe": recipe}
        out.append(replace(sample, record=record, recipe=recipe, domain=domain))
    return out


def again(sample: Sample, made: Mapping[str, Any], file: Path) -> Sample:
    """A sample enlarged once more, as the recipe in ``file`` says that it was."""
    from kakusan.app.draw.loaded import load

    loaded = load(str(made["file"]))
    if loaded.info_["hash"] != made["model"]:
        raise KakusanError(
            f"{file}: enlarged by model {str(made['model'])[:12]}, but {made['file']} is "
            f"{str(loaded.info_['hash'])[:12]}; put the model back"
        )
    return enlarged([sample], loaded, steps=int(made["steps"]))[0]


def _seen(domain: Image, sample: Sample) -> Tensor:
    """A sample as the enlarging model sees it."""
    a = sample.record.data
    if a.dtype.kind == "f" or a.ndim != 3:
        raise KakusanError("--upscale: these samples are no pictures of 8 or 16 bits")
    return domain.replace(size=list(a.shape[:2]), fit="stretch").tensor(Record(np.array(a), {"name": "sample"}))


def _draw(loaded: Loaded, request: Request, lows: Sequence[Tensor], wanted: Wanted, level: float) -> list[Tensor]:
    """Enlarged pictures (C, H, W) of small ones of one size, by the seeds of a request."""
    encoder = encoder_of(loaded)
    given: list[Given] = [lowered(encoder, low, seed, level) for low, seed in zip(lows, request.seeds, strict=True)]
    channels, height, width = lows[0].shape
    shape = (int(channels), int(height) * encoder.factor, int(width) * encoder.factor)
    sides = tuple(min(n, WINDOW) for n in shape[1:])
    large = max(shape[1:]) > WHOLE
    full = replace(request, cond=request.cond | {LOW: given}, window=(sides[0], sides[1]) if large else None)
    return draw(loaded, full, shape, _plain, wanted)


def _plain(f: Denoise, x: Tensor, times: Tensor) -> tuple[Denoise, Tensor, Tensor]:
    return f, x, times


def _alpha(canvas: Canvas, factor: int) -> np.ndarray:
    """Alpha enlarged by cubic interpolation, (H, W, 1)."""
    a = canvas.pixels[..., 3]
    top = np.iinfo(a.dtype).max
    size = (a.shape[1] * factor, a.shape[0] * factor)
    wide = Pil.fromarray(a.astype(np.float32)).resize(size, Pil.Resampling.BICUBIC)
    return np.clip(np.rint(np.asarray(wide)), 0, top).astype(a.dtype)[..., None]
