"""Samples as files: written with their recipe, a grid and a film, and made again from what a file says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kakusan.app.draw import sheet, varying
from kakusan.app.draw.loaded import Sample, load
from kakusan.app.draw.sampled import titles
from kakusan.app.train import adapters
from kakusan.domains.picture import decode, read_recipe
from kakusan.part import KakusanError

__all__ = ["apart", "reproduce", "save_samples"]


def save_samples(samples: Sequence[Sample], out: str | Path, film: bool = False, recipe: bool = True) -> list[Path]:
    """Write samples as PNG (or what their data needs), a grid of them all, and their films where they have one."""
    if not samples:
        raise KakusanError("no samples to save")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [s.save(folder / f"{s.name or f'seed-{s.seed:06d}'}.png", recipe) for s in samples]
    pictures = [s.shown for s in samples]
    if pictures[0].ndim == 3 and pictures[0].shape[2] in (1, 3, 4):
        lines = len({s.name.partition("-seed-")[0] for s in samples})
        columns = len(samples) // lines if lines > 1 and len(samples) > lines else None  # a row for each line of a file
        if film and samples[0].frames:
            count = min(len(s.frames) for s in samples)
            grids = [sheet.checkerboard(sheet.grid([s.frames[i] for s in samples], columns)) for i in range(count)]
            paths.append(sheet.film(grids, folder / "film.webp"))
        paths.append(sheet.save(sheet.grid(pictures, columns, labels=titles(samples)), folder / "grid.png"))
    return paths


def reproduce(file: str | Path, out: str | Path | None = None, model: str | Path | None = None) -> tuple[Path, bool]:
    """Make a sample again from the recipe in its file; returns the new file and whether its pixels are the same."""
    source = Path(file)
    if not source.is_file():
        raise KakusanError(f"{source}: no such file")
    made = read_recipe(source)
    if not made:
        raise KakusanError(f"{source}: carries no recipe (it was written with --no-recipe, or not by kakusan)")
    if "verb" in made:
        from kakusan.app.edit.again import again

        return again(source, made, out, model)
    where = model or made.get("file")
    if not where:
        raise KakusanError(f"{source}: its recipe names no model; name it with --model")
    loaded = load(where, lora=adapters.recalled(made.get("lora"), source))
    if made.get("model") != loaded.info_["hash"]:
        raise KakusanError(
            f"{source}: made by model {str(made.get('model'))[:12]}, but {where} is {str(loaded.info_['hash'])[:12]}; "
            "put the model back, or name it with --model"
        )
    try:
        request = varying.recalled(loaded, made, source)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise KakusanError(f"{source}: its recipe is damaged ({error})") from error
    if made.get("runtime"):
        from kakusan.app.deploy.engines import swap

        swap(loaded, str(made["runtime"]), request)
    sample = loaded.draw(request)[0]
    if made.get("upscaled"):
        from kakusan.app.draw import upscale

        sample = upscale.again(sample, made["upscaled"], source)
    target = Path(out) if out else source.with_name(f"{source.stem}-again{source.suffix}")
    if target.is_dir():
        target = target / source.name
    path = sample.save(target)
    before = sample.domain.load(source.read_bytes(), source.name)
    after = sample.domain.load(path.read_bytes(), path.name)
    return path, bool(np.array_equal(before.data, after.data))


def apart(one: Path, other: Path) -> tuple[float, int, int]:
    """How far two files of one picture are apart: their largest difference in steps of 1/255 of the range, at how many
    pixels they differ, of how many."""
    a, b = (decode(path.read_bytes(), path.name).data for path in (one, other))
    if a.shape != b.shape:
        return math.inf, a.shape[0] * a.shape[1], a.shape[0] * a.shape[1]
    whole = float(np.iinfo(a.dtype).max) if a.dtype.kind == "u" else 1.0
    away = np.abs(a.astype(np.float64) - b).max(-1) * 255 / whole
    return float(away.max()), int((away > 0).sum()), away.size
