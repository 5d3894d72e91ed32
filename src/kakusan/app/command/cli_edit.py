"""The editing verbs: inpaint, outpaint, edit, blend, upscale (loaded when typed, ``cli.VERBS``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from kakusan.app.command.options import Device, Json, Lora, Model, conditions, positive
from kakusan.app.command.outcome import Outcome
from kakusan.part import KakusanError
from kakusan.training.stop import Stop

__all__ = ["blend", "edit", "inpaint", "outpaint", "upscale"]

Picture = Annotated[Path, Parameter(help="A picture file.")]
Prompt = Annotated[str | None, Parameter(help="What to draw, for models that read text.")]
Count = Annotated[int, Parameter(["--count", "-n"], help="How many.")]
Seed = Annotated[int, Parameter(help="Result i has the seed SEED + i.")]
Steps = Annotated[int | None, Parameter(help="Steps of the solver; more is finer and slower.")]
Solver = Annotated[str | None, Parameter(help="ddpm, ddim, heun, dpm2m, unipc or ipndm.")]
Guidance = Annotated[float | None, Parameter(help="How strictly to follow conditions; 1 is none.")]
Autoguidance = Annotated[float | None, Parameter(help="How far from its weak early self; 1 is none.")]
Label = Annotated[str | None, Parameter(help="A class, by name or index; left open by default.")]
Cond = Annotated[list[str] | None, Parameter(help="A condition by name, NAME=VALUE; may be repeated.")]
Recipe = Annotated[bool, Parameter("--recipe", negative="--no-recipe", help="Write the recipe into files.")]
Out = Annotated[Path, Parameter(["--out", "-o"], help="Folder for the pictures.")]
Batch = Annotated[int | None, Parameter(help="Results at once; by default what fits memory.")]
Route = Annotated[
    Literal["posterior", "replace", "trained"] | None,
    Parameter(help="trained where the model was, with --masks; posterior, by its covariance; replace, as RePaint."),
]
Resample = Annotated[
    int | None, Parameter(help="How often each step is taken; more is truer and slower (posterior 2, replace 10).")
]
Tile = Annotated[
    bool, Parameter(show_default=False, help="Other sizes than the model's: at the picture's scale, in windows.")
]
Resize = Annotated[
    bool, Parameter(show_default=False, help="Other sizes than the model's: scaled for the model, the result back.")
]
FOLDER = Path("out")


def inpaint(
    model: Model,
    image: Picture,
    mask: Annotated[Path, Parameter(help="A picture of the same size: white is repainted, black stays.")],
    prompt: Prompt = None,
    /,
    *,
    route: Route = None,
    resample: Resample = None,
    feather: Annotated[int, Parameter(help="Soften the mask over so many pixels inside its border.")] = 0,
    invert: Annotated[bool, Parameter(show_default=False, help="Repaint what is black instead.")] = False,
    tile: Tile = False,
    resize: Resize = False,
    count: Count = 1,
    seed: Seed = 0,
    steps: Steps = None,
    solver: Solver = None,
    guidance: Guidance = None,
    autoguidance: Autoguidance = None,
    label: Label = None,
    cond: Cond = None,
    lora: Lora = None,
    recipe: Recipe = True,
    out: Out = FOLDER,
    batch: Batch = None,
    device: Device = "auto",
    json: Json = False,
) -> Outcome:

    def work(loaded: Any, told: dict[str, Any]) -> Any:
        return loaded.inpaint(
            image, mask, route=route, resample=resample, feather=feather, invert=invert, tile=tile, resize=resize,
            solver=solver, autoguidance=autoguidance, n=count, seed=seed, **told,
        )  # fmt: skip

    told = _told(prompt, label, cond, steps, guidance, batch, count, resample)
    return _done(model, lora, device, out, recipe, count, told, work, "filling")


def outpaint(
    model: Model,
    image: Picture,
    prompt: Prompt = None,
    /,
    *,
    left: Annotated[int, Parameter(help="Pixels to add at the left.")] = 0,
    right: Annotated[int, Parameter(help="Pixels to add at the right.")] = 0,
    top: Annotated[int, Parameter(help="Pixels to add at the top.")] = 0,
    bottom: Annotated[int, Parameter(help="Pixels to add at the bottom.")] = 0,
    route: Route = None,
    resample: Resample = None,
    resize: Resize = False,
    count: Count = 1,
    seed: Seed = 0,
    steps: Steps = None,
    solver: Solver = None,
    guidance: Guidance = None,
    autoguidance: Autoguidance = None,
    label: Label = None,
    cond: Cond = None,
    lora: Lora = None,
    recipe: Recipe = True,
    out: Out = FOLDER,
    batch: Batch = None,
    device: Device = "auto",
    json: Json = False,
) -> Outcome:

    def work(loaded: Any, told: dict[str, Any]) -> Any:
        return loaded.outpaint(
            image, left=left, right=right, top=top, bottom=bottom, route=route, resample=resample, resize=resize,
            solver=solver, autoguidance=autoguidance, n=count, seed=seed, **told,
        )  # fmt: skip

    told = _told(prompt, label, cond, steps, guidance, batch, count, resample)
    return _done(model, lora, device, out, recipe, count, told, work, "extending")


def edit(
    model: Model,
    image: Picture,
    prompt: Prompt = None,
    /,
    *,
    strength: Annotated[
        float | None, Parameter(help="0 is the picture itself, 1 starts from noise alone; 0.6 by default.")
    ] = None,
    restore: Annotated[
        Literal["x2", "x4", "blur", "grey", "noise"] | None, Parameter(help="Undo this instead of drawing again.")
    ] = None,
    amount: Annotated[
        float | None, Parameter(help="Of --restore blur in pixels (1.5), noise in grey levels (25).")
    ] = None,
    instruct: Annotated[str | None, Parameter(help="Change it as told, by a model trained with --pairs.")] = None,
    image_guidance: Annotated[
        float | None, Parameter(help="Of --instruct: how near to the picture it stays; --guidance: to the words.")
    ] = None,
    tile: Tile = False,
    resize: Resize = False,
    count: Count = 1,
    seed: Seed = 0,
    steps: Steps = None,
    solver: Solver = None,
    guidance: Guidance = None,
    autoguidance: Autoguidance = None,
    label: Label = None,
    cond: Cond = None,
    lora: Lora = None,
    recipe: Recipe = True,
    out: Out = FOLDER,
    batch: Batch = None,
    device: Device = "auto",
    json: Json = False,
) -> Outcome:
    if instruct is not None:
        for flag, value in (("--strength", strength), ("--restore", restore), ("a prompt", prompt)):
            if value is not None:
                raise KakusanError(f"--instruct {instruct!r} and {flag} {value}: give one of the two")
        if not instruct.strip():  # before a model is loaded that would remark on a prompt
            from kakusan.app.edit.instruct import EMPTY

            raise KakusanError(EMPTY)
    elif image_guidance is not None:
        raise KakusanError(f"--image-guidance {image_guidance:g}: goes with --instruct")
    if restore is not None and (strength is not None or resize):
        other = f"--strength {strength:g}" if strength is not None else "--resize"
        raise KakusanError(f"--restore {restore} and {other}: give one of the two")
    if restore is None and amount is not None:
        raise KakusanError(f"--amount {amount:g}: goes with --restore blur or --restore noise")

    def work(loaded: Any, told: dict[str, Any]) -> Any:
        told |= {"solver": solver, "autoguidance": autoguidance, "n": count, "seed": seed}
        if restore is not None:
            return loaded.restore(image, restore, amount=amount, tile=tile, **told)
        if instruct is not None:
            text = told.pop("prompt")
            return loaded.instruct(image, text, image_guidance=image_guidance, tile=tile, resize=resize, **told)
        return loaded.edit(image, strength=0.6 if strength is None else strength, tile=tile, resize=resize, **told)

    told = _told(prompt if instruct is None else instruct, label, cond, steps, guidance, batch, count)
    return _done(model, lora, device, out, recipe, count, told, work, "drawing")


def blend(
    model: Model,
    first: Picture,
    second: Picture,
    prompt: Prompt = None,
    /,
    *,
    count: Annotated[int, Parameter(["--count", "-n"], help="Frames, the two pictures among them.")] = 9,
    resize: Resize = False,
    steps: Annotated[int | None, Parameter(help="Steps each way; 40 by default. More reconstruct better.")] = None,
    guidance: Guidance = None,
    label: Label = None,
    cond: Cond = None,
    lora: Lora = None,
    recipe: Recipe = True,
    out: Out = FOLDER,
    batch: Batch = None,
    device: Device = "auto",
    json: Json = False,
) -> Outcome:

    def work(loaded: Any, told: dict[str, Any]) -> Any:
        return loaded.blend(first, second, frames=count, resize=resize, **told)

    told = _told(prompt, label, cond, steps, guidance, batch, count)
    return _done(model, lora, device, out, recipe, count, told, work, "blending")


def upscale(
    model: Model,
    image: Picture,
    *images: Picture,
    noise: Annotated[
        float | None, Parameter(help="How much of the picture is covered and drawn anew, of a range of -1 to 1.")
    ] = None,
    count: Count = 1,
    seed: Seed = 0,
    steps: Steps = None,
    solver: Solver = None,
    recipe: Recipe = True,
    out: Out = FOLDER,
    batch: Batch = None,
    device: Device = "auto",
    json: Json = False,
) -> Outcome:

    def work(loaded: Any, told: dict[str, Any]) -> Any:
        named = {name: told[name] for name in ("steps", "batch", "progress", "stop")}
        each = [loaded.upscale(i, noise=noise, solver=solver, n=count, seed=seed, **named) for i in (image, *images)]
        return [made for several in each for made in several]

    told = _told(None, None, None, steps, None, batch, count)
    return _done(model, None, device, out, recipe, count * (1 + len(images)), told, work, "enlarging")


def _told(
    prompt: str | None,
    label: str | None,
    cond: Sequence[str] | None,
    steps: int | None,
    guidance: float | None,
    batch: int | None,
    count: int,
    resample: int | None = None,
) -> dict[str, Any]:
    """The options that all edits share, checked, by their names in Python."""
    for name, value in (("-n", count), ("--steps", steps), ("--batch", batch), ("--resample", resample)):
        positive(name, value)
    conds = conditions("--cond", cond)
    return {"prompt": prompt, "label": label, "cond": conds, "steps": steps, "guidance": guidance, "batch": batch}


def _done(
    model: str,
    lora: Sequence[str] | None,
    device: str,
    out: Path,
    recipe: bool,
    count: int,
    told: dict[str, Any],
    work: Callable[[Any, dict[str, Any]], Any],
    what: str,
) -> Outcome:
    """Load, edit, save, and say where; the path is the picture's, or that of the sheet of several."""
    if out.exists() and not out.is_dir():
        raise KakusanError(f"--out {out}: is a file; name a folder, which is made if it is not there")
    from kakusan.app import facade
    from kakusan.app.command.show import Progress
    from kakusan.app.edit.blending import save_blend
    from kakusan.app.edit.editing import save_edits

    with Progress() as progress, Stop() as stop:
        loaded = facade.load(model, device=device, lora=lora)
        if told["prompt"] is not None:
            for words in loaded.remarks(loaded.request(1, told["prompt"], None, 0, None)):
                progress.warn(words)
        progress.start(count, what, "step")
        made = work(loaded, told | {"progress": progress.update, "stop": stop})
        progress.stop()
        for note in made[0].notes if made else []:
            progress.note(note)
        if len(made) < count:
            progress.note(f"stopped: {len(made):,} of {count:,} are made and saved")
        if not made:
            return Outcome({"path": None, "files": [], "interrupted": True}, code=130)
        paths = (save_blend if what == "blending" else save_edits)(made, out, recipe)
    measured = [each.told for each in made if each.told]
    data = {
        "path": str(paths[-1]), "files": [str(p) for p in paths], "seeds": [each.seed for each in made],
        "notes": list(made[0].notes), "measured": measured, "interrupted": len(made) < count,
    }  # fmt: skip
    return Outcome(data, text=_words(measured), path=paths[-1], code=130 if len(made) < count else 0)


def _words(measured: list[dict[str, Any]]) -> str:
    """What an edit measured of itself, as a line."""
    if not measured:
        return ""
    if "psnr" in measured[0]:
        first, second = measured[0]["psnr"]
        return f"the model reconstructs the first picture to {first:.1f} dB PSNR, the second to {second:.1f} dB"
    worst = max(each["residual"] for each in measured)
    return f"damaged the same way, the result is {127.5 * worst:.1f} grey levels (root mean square) from the input"
