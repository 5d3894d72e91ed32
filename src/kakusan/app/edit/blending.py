"""Blend: two pictures taken back to their noise, and what lies between on the great circle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kakusan.app.draw import sheet
from kakusan.app.edit.editing import Edited, Wanted, diffused, draw, edited, model_domain
from kakusan.app.edit.layout import lay_out
from kakusan.core.guide import Denoise
from kakusan.core.process import cast
from kakusan.core.sample import invert
from kakusan.domains.canvas import Source, open_canvas
from kakusan.part import KakusanError

if TYPE_CHECKING:
    from kakusan.app.draw.loaded import Loaded

__all__ = ["blend", "great_circle", "save_blend"]

STEPS = 40
REFINE = 2  # fixed-point rounds of each step of the inversion


def great_circle(a: Tensor, b: Tensor, share: float) -> Tensor:
    """``(sin((1 - w) phi) a + sin(w phi) b) / sin phi``, phi the angle between a and b (Shoemake 1985), for w in
    [0, 1]; a straight line where they point the same way."""
    cosine = float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-12))
    angle = torch.acos(torch.tensor(max(-1.0, min(1.0, cosine)), dtype=torch.float64))
    if float(torch.sin(angle)) < 1e-6:
        return (1 - share) * a + share * b
    weights = [float(torch.sin(w * angle) / torch.sin(angle)) for w in (1 - share, share)]
    return weights[0] * a + weights[1] * b


def blend(
    loaded: Loaded,
    first: Source,
    second: Source,
    wanted: Wanted | None = None,
    *,
    frames: int = 9,
    resize: bool = False,
) -> list[Edited]:
    """``frames`` pictures from one to the other, through the noise that makes each.

    The outermost are the model's reconstructions; ``told["psnr"]`` says how near they come (dB, first and second).
    Deterministic: first-order steps down, their fixed-point inverse up.
    """
    wanted = wanted or Wanted()
    if frames < 2:
        raise KakusanError(f"frames={frames}: a blend has at least 2, the two pictures")
    domain, canvases = model_domain(loaded), [open_canvas(first), open_canvas(second)]
    placed = [lay_out(c.size, domain.size, False, resize) for c in canvases]
    seen = []
    for canvas, where in zip(canvases, placed, strict=True):
        if where.work != domain.size:
            raise KakusanError(f"{canvas.name}: a blend needs pictures of the model's proportions; cut it first")
        seen.append(canvas.seen(domain, where.work))
    plain = {"solver": "ddim", "autoguidance": 1.0, "guidance": wanted.guidance or 1.0, "steps": wanted.steps or STEPS}
    ends = replace(wanted, n=2, batch=2, progress=None, stop=None, **plain)
    between = replace(wanted, n=frames, **plain)
    latents, again = _inverted(loaded, torch.stack(seen), ends)
    psnr = [_psnr(a, b) for a, b in zip(again, seen, strict=True)]
    path = [great_circle(*latents, i / (frames - 1)) for i in range(frames)]
    request = between.request(loaded)
    done = 0

    def work(f: Denoise, x: Tensor, times: Tensor) -> tuple[Denoise, Tensor, Tensor]:
        nonlocal done
        rows = torch.stack(path[done : done + len(x)]).to(x)
        done += len(x)
        return f, rows, times

    drawn = draw(loaded, request, tuple(latents[0].shape), work, between)
    inputs = dict(zip(("first", "second"), canvases, strict=True))
    canvas = canvases[0]
    options = {"frames": frames, "resize": resize}
    made = edited(loaded, request, "blend", canvas, [canvas.painted(domain, x) for x in drawn], inputs, options)
    for i, each in enumerate(made):
        each.recipe = each.recipe | {"edit": options | {"frame": i}, "seed": wanted.seed}
        each.told["psnr"] = psnr
    return made


def _inverted(loaded: Loaded, seen: Tensor, ends: Wanted) -> tuple[Tensor, list[Tensor]]:
    """The noise (2, C, h, w) of two pictures, and what the sampler makes of it."""
    process, clean = loaded.model.denoiser.process, diffused(loaded, seen)
    found: list[Tensor] = []

    def work(f: Denoise, x: Tensor, times: Tensor) -> tuple[Denoise, Tensor, Tensor]:
        rising = times[:-1].flip(0)
        low = clean.to(x) * cast(process.scales(rising[0])[0], x)
        found.append(invert(f, low, rising, process, REFINE))
        return f, found[0], times

    again = draw(loaded, ends.request(loaded), tuple(clean.shape[1:]), work, ends)
    return found[0].cpu(), again


def _psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal to noise in dB, for the range of -1 to 1."""
    error = float((a.clamp(-1, 1) - b).square().mean())
    return float(10 * torch.log10(torch.tensor(4.0 / max(error, 1e-12))))


def save_blend(made: list[Edited], out: str | Path, recipe: bool = True) -> list[Path]:
    """The frames, and a film of them there and back."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [each.save(folder / f"{each.stem}.png", recipe) for each in made]
    pictures = [each.data for each in made]
    if pictures[0].dtype.kind != "f" and pictures[0].shape[2] in (1, 3, 4):
        shown = [sheet.checkerboard(sheet.grid([p])) for p in (*pictures, *pictures[-2:0:-1])]
        stem = f"blend-{Path(made[0].canvas.name).stem}"
        paths.append(sheet.film(shown, folder / f"{stem}.webp", hold=0.2))
        paths.append(sheet.save(sheet.grid(pictures, columns=len(pictures)), folder / f"{stem}-grid.png"))
    return paths
