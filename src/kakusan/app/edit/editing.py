"""Editing: what all edits share. What is asked for, the drawing, the edited picture with its recipe."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kakusan.app.draw import branches, sampler, sheet
from kakusan.app.draw.sampler import Edit, Request
from kakusan.domains.canvas import Canvas
from kakusan.domains.image import Image
from kakusan.domains.latent import Latent, seen
from kakusan.part import KakusanError

if TYPE_CHECKING:
    from kakusan.app.draw.loaded import Asked, Loaded, Report

__all__ = ["Edited", "Wanted", "diffused", "draw", "edited", "model_domain", "save_edits", "window"]

GRADIENTS = 4  # times the memory of an evaluation that is also differentiated


@dataclass(frozen=True)
class Wanted:
    """What every edit can be asked beside its pictures, as ``sample`` has it; None is the model's own default."""

    n: int = 1
    seed: int = 0
    prompt: str | None = None
    label: Any = None
    cond: dict[str, Any] | None = None
    steps: int | None = None
    solver: str | dict[str, Any] | None = None
    guidance: float | Mapping[str, float] | None = None
    autoguidance: float | None = None
    grid: dict[str, Any] | None = None
    batch: int | None = None
    progress: Report | None = None
    stop: Asked | None = None

    def unguided(self) -> Wanted:
        """The same, without autoguidance unless it was asked for: the model's own distribution, as constraints need it.

        The derivative of a guided estimate is no covariance; by it, fills became noise.
        """
        return replace(self, autoguidance=1.0) if self.autoguidance is None else self

    def guided(self, loaded: Loaded) -> bool:
        """Whether some guidance takes part."""
        settled = sampler.settle(loaded.model, self.request(loaded))
        return bool(settled["guidance"] != 1 or settled["autoguidance"] != 1)

    def request(self, loaded: Loaded) -> Request:
        """As a request to the sampler. A class that is not named is left open, and then nothing guides."""
        cond = dict(self.cond or {})
        told = bool(cond) or self.prompt is not None or self.label is not None
        if loaded.classes and self.label is None:
            cond.setdefault("label", None)
        settings = {
            "steps": self.steps, "solver": self.solver, "autoguidance": self.autoguidance, "grid": self.grid,
            "guidance": self.guidance if told or self.guidance is not None else 1.0,
        }  # fmt: skip
        return loaded.request(self.n, self.prompt, self.label, self.seed, cond, **settings)


@dataclass
class Edited:
    """One edited picture: pixels (H, W, C) in the input's own depth, the seed and the recipe that make it again.

    ``notes`` is what its user should know; ``told`` is what was measured on the way.
    """

    data: np.ndarray
    seed: int
    recipe: dict[str, Any]
    canvas: Canvas = field(repr=False)
    notes: list[str] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)
    generated: bool = True

    @property
    def stem(self) -> str:
        """The name its file gets: the verb, the input's name and the seed (or the frame)."""
        number = self.recipe["edit"].get("frame", self.seed)
        return f"{self.recipe['verb']}-{Path(self.canvas.name).stem}-{number:06d}"

    def save(self, path: str | Path, recipe: bool = True) -> Path:
        """Write it losslessly (PNG; ``.npy`` where a PNG can not hold it), with its recipe unless that is False."""
        path = Path(path) if Path(path).suffix.lower() == ".png" else Path(f"{path}.png")
        return self.canvas.save(self.data, path, self.recipe if recipe else None, self.generated)

    def _repr_png_(self) -> bytes | None:
        if self.data.dtype.kind == "f" or self.data.shape[2] not in (1, 3, 4):
            return None
        out = io.BytesIO()
        sheet.grid([self.data]).save(out, "PNG")
        return out.getvalue()


def model_domain(loaded: Loaded) -> Image:
    """What the model draws, which has to be pictures."""
    domain = seen(loaded.domain)
    if not isinstance(domain, Image):
        raise KakusanError(f"this model makes {domain.kind.split('/')[-1]}s; pictures can be edited with others")
    return domain


def diffused(loaded: Loaded, x: Tensor) -> Tensor:
    """Pictures (B, C, h, w) as what the model diffuses: themselves, or their latents; those of sides that the
    autoencoder does not fold are continued by their borders."""
    if isinstance(loaded.domain, Latent):
        below, right = (-n % loaded.domain.autoencoder.factor for n in x.shape[2:])
        x = torch.nn.functional.pad(x, (0, right, 0, below), mode="replicate")
    with torch.no_grad():
        return loaded.domain.encode(x).cpu()


def window(loaded: Loaded) -> tuple[int, int]:
    """The model's own size, (H, W) of what it diffuses."""
    height, width = loaded.domain.blank(1)[0][1:]
    return height, width


def draw(
    loaded: Loaded, request: Request, shape: tuple[int, ...], edit: Edit, wanted: Wanted, heavy: int = 1
) -> list[Tensor]:
    """The samples of a request, (C, *S) each, drawn as ``edit`` says, in batches that fit memory.

    ``heavy``: how many times the memory of plain sampling it takes. Fewer when ``wanted.stop`` said so on the way.
    """
    total = len(request.seeds)
    settled = sampler.settle(loaded.model, request) | {"cond": {name: v[0] for name, v in request.cond.items()}}
    each = branches.count(settled)
    painted = shape if request.window is None else (shape[0], *request.window)
    width = wanted.batch or max(1, sampler.plan_batches(total * heavy, painted, each, loaded.device) // heavy)
    out: list[Tensor] = []
    while len(out) < total:
        rows = range(len(out), min(total, len(out) + width))
        part = request.rows(rows)
        last = None
        for last in sampler.steps(loaded.model, part, [shape] * len(rows), edit):
            if wanted.progress:
                wanted.progress(len(out) * last.count + len(rows) * (last.index + 1), total * last.count)
            if wanted.stop and last.t > 0 and wanted.stop():
                return out
        assert last is not None
        out += list(loaded.domain.decode(last.x).float().cpu())
    return out


def edited(
    loaded: Loaded,
    request: Request,
    verb: str,
    canvas: Canvas,
    pictures: Sequence[np.ndarray],
    inputs: dict[str, Canvas],
    options: dict[str, Any],
    notes: Sequence[str] = (),
) -> list[Edited]:
    """Finished pictures with their recipes: the model, what was asked of it, and the inputs by their SHA-256."""
    settled = sampler.settle(loaded.model, request)
    about = {name: {"file": c.file, "sha256": c.sha256} for name, c in inputs.items()}
    out = []
    for row, (seed, picture) in enumerate(zip(request.seeds, pictures, strict=False)):
        recipe = loaded._recipe(request, settled, seed, row) | {"verb": verb, "inputs": about, "edit": options}
        out.append(Edited(picture, int(seed), recipe, canvas, list(notes)))
    return out


def save_edits(edits: Sequence[Edited], out: str | Path, recipe: bool = True) -> list[Path]:
    """Write edits into a folder, each under a name of its own, and a grid of several beside the input."""
    if not edits:
        raise KakusanError("no pictures to save")
    if len(groups := _by_input(edits)) > 1:
        return [path for group in groups for path in save_edits(group, out, recipe)]
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [e.save(folder / f"{e.stem}.png", recipe) for e in edits]
    first = edits[0]
    if len(edits) > 1 and first.data.dtype.kind != "f" and first.data.shape[2] in (1, 3, 4):
        labels = ["input", *(f"seed {e.seed}" for e in edits)]
        pictures = [first.canvas.pixels, *(e.data for e in edits)]
        name = f"{first.recipe['verb']}-{Path(first.canvas.name).stem}-grid.png"
        paths.append(sheet.save(sheet.grid(pictures, labels=labels), folder / name))
    return paths


def _by_input(edits: Sequence[Edited]) -> list[list[Edited]]:
    """Edits of one picture after those of another; refused where two would have one name."""
    groups: dict[str, list[Edited]] = {}
    for each in edits:
        groups.setdefault(each.canvas.file or each.canvas.sha256, []).append(each)
    stems = [group[0].stem for group in groups.values()]
    if twice := next((s for s in stems if stems.count(s) > 1), None):
        raise KakusanError(f"two of the pictures would be saved as {twice}.png: edit them into folders of their own")
    return list(groups.values())
