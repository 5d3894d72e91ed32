"""An edit made again: from the recipe inside it and the same inputs, each known by its SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from kakusan.app.draw import prompts, upscale
from kakusan.app.draw.loaded import Loaded, load
from kakusan.app.edit import blending, fill, instruct, restyle
from kakusan.app.edit.editing import Edited, Wanted
from kakusan.app.train import adapters
from kakusan.domains.canvas import open_canvas
from kakusan.part import KakusanError

__all__ = ["again"]


def again(source: Path, made: dict[str, Any], out: str | Path | None, model: str | Path | None) -> tuple[Path, bool]:
    """Repeat the edit in ``source``, whose recipe is ``made``; returns the new file and whether its pixels are the
    same."""
    try:
        loaded = load(model or made["file"], lora=adapters.recalled(made.get("lora"), source))
        inputs = {str(name): dict(about) for name, about in made["inputs"].items()}
        files = {name: _found(source, name, str(about["file"]), str(about["sha256"])) for name, about in inputs.items()}
        if made["model"] != loaded.info_["hash"]:
            raise KakusanError(
                f"{source}: made by model {made['model'][:12]}, but {model or made['file']} is "
                f"{str(loaded.info_['hash'])[:12]}; put the model back, or name it with --model"
            )
        wanted = Wanted(
            seed=int(made["seed"]),
            cond={str(name): _meant(value) for name, value in made["cond"].items()},
            steps=int(made["steps"]),
            solver=dict(made["solver"]),
            grid=dict(made["grid"]),
            guidance=made["guidance"] if isinstance(made["guidance"], dict) else float(made["guidance"]),
            autoguidance=float(made["autoguidance"]),
        )
        edit = _repeated(loaded, str(made["verb"]), files, wanted, dict(made["edit"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise KakusanError(f"{source}: its recipe is damaged ({error})") from error
    target = Path(out) if out else source.with_name(f"{source.stem}-again{source.suffix}")
    path = edit.save(target / source.name if target.is_dir() else target)
    return path, bool(np.array_equal(open_canvas(source).pixels, open_canvas(path).pixels))


def _meant(value: Any) -> Any:
    """A condition's value in a recipe, which means itself, as one that a user would write."""
    return prompts.literal(value) if isinstance(value, str) else prompts.recalled(value)


def _repeated(loaded: Loaded, verb: str, files: dict[str, Path], wanted: Wanted, options: dict[str, Any]) -> Edited:
    """One edit, by its verb and the options it was made with."""
    if verb == "inpaint":
        return fill.inpaint(loaded, files["image"], files["mask"], wanted, **options)[0]
    if verb == "outpaint":
        return fill.outpaint(loaded, files["image"], wanted, **options)[0]
    if verb == "edit" and "restore" in options:
        return restyle.restore(loaded, files["image"], options.pop("restore"), wanted, **options)[0]
    if verb == "edit" and options.pop("instruct", False):
        return instruct.instruct(loaded, files["image"], wanted, **options)[0]
    if verb == "edit":
        return restyle.edit(loaded, files["image"], wanted, **options)[0]
    if verb == "upscale":
        return upscale.upscale(loaded, files["image"], wanted, **options)[0]
    if verb == "blend":
        frame = int(options.pop("frame"))
        return blending.blend(loaded, files["first"], files["second"], wanted, **options)[frame]
    raise ValueError(f"verb {verb!r} is not known")


def _found(source: Path, name: str, file: str, sha256: str) -> Path:
    """The input where it was, or beside the edit; refused where it has changed."""
    if not file:
        raise KakusanError(f"{source}: its {name} was an array in Python; edit again from there")
    places = [p for p in dict.fromkeys((Path(file), source.parent / Path(file).name)) if p.is_file()]
    if not places:
        raise KakusanError(f"{source}: its {name} {file} is not there any more; put it back, or beside {source.name}")
    for place in places:
        if hashlib.sha256(place.read_bytes()).hexdigest() == sha256:
            return place
    raise KakusanError(
        f"{source}: its {name} {places[0]} has changed since (SHA-256 was {sha256[:12]}...); put the old file back"
    )
