"""The drawing verbs: sample, vary (loaded when typed, ``cli.VERBS``)."""

from __future__ import annotations

import contextlib
import gc
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from kakusan.app.command.options import Device, Json, Lora, Model, conditions, numbers, positive, weights
from kakusan.app.command.outcome import Outcome
from kakusan.part import KakusanError
from kakusan.training.stop import Stop

if TYPE_CHECKING:
    from kakusan.app.draw.loaded import Loaded

__all__ = ["sample", "vary"]

Guidance = Annotated[
    list[str] | None, Parameter(help="How strictly to follow conditions, 1 is none; or NAME=WEIGHT, may be repeated.")
]


def sample(
    model: Model,
    prompt: Annotated[str | None, Parameter(help="What to draw, for models that read text.")] = None,
    /,
    *,
    count: Annotated[int | None, Parameter(["--count", "-n"], help="How many; 1, or one for each wildcard.")] = None,
    seed: Annotated[int, Parameter(help="Sample i has the seed SEED + i.")] = 0,
    steps: Annotated[int | None, Parameter(help="Steps of the solver; more is finer and slower.")] = None,
    solver: Annotated[str | None, Parameter(help="ddpm, ddim, heun, dpm2m, unipc or ipndm.")] = None,
    guidance: Guidance = None,
    no: Annotated[str | None, Parameter("--no", help="What not to draw, for models that read text.")] = None,
    negative: Annotated[list[str] | None, Parameter(help="Away from a condition, NAME=VALUE; may be repeated.")] = None,
    guidance_interval: Annotated[
        str | None, Parameter(help="Noise levels sigma/alpha between which guidance works: LOW,HIGH.")
    ] = None,
    guidance_rescale: Annotated[float | None, Parameter(help="Guided contrast back to what it was; 0 to 1.")] = None,
    apg: Annotated[float | None, Parameter(help="Guidance without burning out; bound of a change, 0 is none.")] = None,
    threshold: Annotated[float | None, Parameter(help="Dynamic thresholding: the share kept; 0.995 usual.")] = None,
    autoguidance: Annotated[float | None, Parameter(help="How far from its weak early self; 1 is none.")] = None,
    chaos: Annotated[float | None, Parameter(help="Variety, 0 to 100: looser guidance, by each seed.")] = None,
    tile: Annotated[bool, Parameter(show_default=False, help="Seamless: opposite borders join.")] = False,
    eta: Annotated[float | None, Parameter(help="Fresh noise on the way: 0 none, 1 as DDPM.")] = None,
    size: Annotated[int | None, Parameter(help="Side in pixels, for models that allow it.")] = None,
    label: Annotated[str | None, Parameter(help="A class, by name or index.")] = None,
    cond: Annotated[list[str] | None, Parameter(help="A condition, NAME=VALUE; --NAME VALUE does it too.")] = None,
    prompts: Annotated[Path | None, Parameter(help="A file of prompts, one a line; -n of each.")] = None,
    from_line: Annotated[int, Parameter(show_default=False, help="First line of --prompts.")] = 1,
    wildcards: Annotated[str, Parameter(help="{a,b}: every combination in turn, or by seed.")] = "turn",
    lora: Lora = None,
    control: Annotated[Path | None, Parameter(help="A map to follow, or a folder of them, one a sample.")] = None,
    style_image: Annotated[Path | None, Parameter(help="A picture in whose style to draw.")] = None,
    film: Annotated[bool, Parameter(show_default=False, help="Also a film of the reverse process.")] = False,
    upscale: Annotated[str | None, Parameter(help="Enlarge them by this model; alone: the one that ships.")] = None,
    recipe: Annotated[bool, Parameter("--recipe", negative="--no-recipe", help="Write the recipe into files.")] = True,
    out: Annotated[Path, Parameter(["--out", "-o"], help="Folder for the pictures and grid.png.")] = Path("out"),
    batch: Annotated[int | None, Parameter(help="Samples at once; by default what fits memory.")] = None,
    device: Device = "auto",
    runtime: Annotated[
        str, Parameter(help="eager, winograd, bf16, onnx or openvino; auto takes what bench found to be best.")
    ] = "auto",
    json: Json = False,
) -> Outcome:
    for name, value in (("-n", count), ("--steps", steps), ("--size", size), ("--batch", batch)):
        positive(name, value)
    if out.exists() and not out.is_dir():
        raise KakusanError(f"--out {out}: is a file; name a folder, which is made if it is not there")
    asked: dict[str, Any] = {
        "prompt": prompt, "label": label, "seed": seed, "steps": steps, "solver": solver, "eta": eta, "size": size,
        "guidance": weights(guidance), "guidance_interval": numbers(guidance_interval), "apg": apg,
        "guidance_rescale": guidance_rescale, "autoguidance": autoguidance, "threshold": threshold, "chaos": chaos,
        "cond": conditions("--cond", cond), "negative": conditions("--negative", negative, no), "tile": tile,
        "prompts": prompts, "from_line": from_line, "wildcards": wildcards,
    }  # fmt: skip
    with _without_collecting():
        from kakusan.app import facade
        from kakusan.app.command.show import Progress

    with Progress() as progress, Stop() as stop:
        loaded = facade.load(model, device=device, lora=lora)
        if control is not None:
            from kakusan.app.train.spatial import maps_of

            maps = maps_of(loaded, control, None if size is None else (size, size))
            asked["cond"] = (asked["cond"] or {}) | {"map": maps}
        if style_image is not None:
            from kakusan.app.train.styled import added

            asked["cond"] = added(loaded, asked["cond"], style_image)
        request = loaded.request(count, **asked)
        enlarging = None if upscale is None else _enlarging(str(model), upscale, device)
        if runtime != "eager" and not (tile and runtime == "auto"):
            from kakusan.app.deploy.engines import swap

            swap(loaded, runtime, request)
        progress.start(len(request.seeds), "sampling", "step")
        for words in loaded.remarks(request):
            progress.warn(words)
        samples = loaded.draw(request, film, batch, progress.update, stop)
        progress.stop()
        made, total = len(samples), len(request.seeds)
        if made < total:
            left: dict[str, Any] = {"-n": total - made, "--seed": seed + made}
            if request.names:  # of a file of prompts, the line that is not whole begins again
                left = {"-n": count, "--seed": seed, "--from-line": int(request.names[made].split("-")[1])}
            words = {
                "": [model, *([prompt] if prompt is not None else [])], **left,
                "--steps": steps, "--solver": solver, "--guidance": guidance, "--no": no, "--negative": negative,
                "--guidance-interval": guidance_interval, "--guidance-rescale": guidance_rescale, "--apg": apg,
                "--threshold": threshold, "--autoguidance": autoguidance, "--chaos": chaos, "--tile": tile,
                "--eta": eta, "--size": size, "--label": label, "--cond": cond, "--prompts": prompts,
                "--wildcards": wildcards if wildcards != "turn" else None, "--film": film,
                "--lora": lora, "--control": control, "--style-image": style_image, "--upscale": upscale,
                "--no-recipe": not recipe,
                "--out": out, "--batch": batch, "--device": device if device != "auto" else None,
                "--runtime": runtime if runtime != "auto" else None,
            }  # fmt: skip
            rest = _command("sample", words)
            progress.note(f"stopped: {made:,} of {total:,} samples are made and saved; the rest: {rest}")
            if not made:
                return Outcome({"path": None, "files": [], "interrupted": True, "rest": rest}, code=130)
        if enlarging is not None:
            from kakusan.app.draw.upscale import enlarged

            progress.start(made, "enlarging", "step")
            samples = enlarged(samples, enlarging, progress.update, stop) or samples
            progress.stop()
        paths = [Path(p) for p in facade.save_samples(samples, out, film=film, recipe=recipe)]
        found = _examined(samples, loaded)
        for finding in found:
            (progress.problem if finding.severity == "problem" else progress.warn)(finding.line())
    healthy = not any(f.severity == "problem" for f in found)
    grid = next((p for p in paths if p.stem == "grid"), paths[-1])
    files = [str(p) for p in paths]
    data = {"path": str(grid), "files": files, "healthy": healthy, "findings": [f.dict() for f in found]}
    if made < total:
        return Outcome(data | {"interrupted": True, "rest": rest}, path=grid, code=130)
    return Outcome(data, path=grid)


def _enlarging(model: str, wanted: str, device: str) -> Loaded:
    """The model that enlarges the samples of another; one that does not is refused before anything is drawn."""
    from kakusan.app import facade
    from kakusan.app.draw.shipped import upscaler
    from kakusan.app.draw.upscale import encoder_of

    found = facade.load(upscaler(model, wanted), device=device)
    encoder_of(found)
    return found


def vary(
    *model_and_image: Annotated[str, Parameter(help="[MODEL] IMAGE; a sample of ours knows its model.")],
    subtle: Annotated[bool, Parameter(show_default=False, help="Details change; the default.")] = False,
    strong: Annotated[bool, Parameter(show_default=False, help="Shapes change too.")] = False,
    count: Annotated[int, Parameter(["--count", "-n"], help="How many.")] = 4,
    seed: Annotated[int, Parameter(help="Variant i has the seed SEED + i.")] = 0,
    prompt: Annotated[str | None, Parameter(help="Another prompt than the picture's own.")] = None,
    label: Annotated[str | None, Parameter(help="Another class than the picture's own.")] = None,
    cond: Annotated[list[str] | None, Parameter(help="A condition by name, NAME=VALUE; may be repeated.")] = None,
    guidance: Guidance = None,
    steps: Annotated[int | None, Parameter(help="Steps from noise alone; a part of them is taken.")] = None,
    out: Annotated[Path | None, Parameter(["--out", "-o"], help="Folder; IMAGE's name-subtle beside it.")] = None,
    device: Device = "auto",
    json: Json = False,
) -> Outcome:
    if not 1 <= len(model_and_image) <= 2:
        raise KakusanError("give a picture, or a model and a picture: kakusan vary [MODEL] IMAGE")
    if subtle and strong:
        raise KakusanError("--subtle and --strong: choose one of them")
    for name, value in (("-n", count), ("--steps", steps)):
        positive(name, value)
    image, strength = Path(model_and_image[-1]), "strong" if strong else "subtle"
    folder = out or image.with_name(f"{image.stem}-{strength}")
    if folder.exists() and not folder.is_dir():
        raise KakusanError(f"--out {folder}: is a file; name a folder, which is made if it is not there")
    with _without_collecting():
        from kakusan.app import facade
        from kakusan.app.command.show import Progress
        from kakusan.app.draw import varying

    with Progress() as progress, Stop() as stop:
        if model_and_image[1:]:
            loaded = facade.load(model_and_image[0], device=device)
        else:
            loaded = facade.load(varying.model_of(image), device=device, lora=varying.lora_of(image))
        if prompt is not None:
            for words in loaded.remarks(loaded.request(1, prompt, None, 0, None)):
                progress.warn(words)
        progress.start(count, "varying", "step")
        samples = loaded.vary(
            image, count, strength=strength, seed=seed, prompt=prompt, label=label, cond=conditions("--cond", cond),
            guidance=weights(guidance), steps=steps, progress=progress.update, stop=stop,
        )  # fmt: skip
        progress.stop()
        if words := varying.remark(loaded, image):
            progress.note(words)
        if not samples:
            return Outcome({"path": None, "files": [], "interrupted": True}, code=130)
        paths = [Path(p) for p in facade.save_samples(samples, folder)]
    grid = next((p for p in paths if p.stem == "grid"), paths[-1])
    data = {"path": str(grid), "files": [str(p) for p in paths], "interrupted": len(samples) < count}
    return Outcome(data, path=grid, code=130 if len(samples) < count else 0)


@contextlib.contextmanager
def _without_collecting() -> Iterator[None]:
    """Importing torch makes a million objects and no garbage: collecting was a quarter of a cold start."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # what was imported stays: later collections need not look through it
        if before:
            gc.enable()


def _command(verb: str, words: dict[str, Any]) -> str:
    """A command to type: flags by name; None and False are left out, True stands alone, a list repeats its flag."""
    said = ["kakusan", verb]
    for flag, value in words.items():
        for each in value if isinstance(value, list) else [] if value is None or value is False else [value]:
            said += [*([flag] if flag else []), *([] if each is True else [str(each)])]
    return shlex.join(said)


def _examined(samples: Sequence[Any], loaded: Any) -> list[Any]:
    """Findings about fresh samples, against the statistics that the model file keeps of its data."""
    import torch

    from kakusan.evaluation.health import diagnose

    raw = [s.raw for s in samples if s.raw is not None]
    if not raw or any(r.shape != raw[0].shape for r in raw):
        return []
    known, recipe = loaded.info(), samples[0].recipe
    training, strict = known.get("training") or {}, recipe.get("guidance")
    run = loaded.path.parent if loaded.path else Path("RUN")
    context = {
        "run": run if (run / "recipe.toml").exists() else "RUN",
        "steps": recipe.get("steps"),
        "guidance": max(strict.values()) if isinstance(strict, dict) else strict,
        "minutes": training.get("minutes"),
        "epochs": training.get("epochs"),
    }
    return diagnose(torch.stack(raw), known.get("reference"), context)
