"""The command line: ``kakusan VERB``. Words in, facade called, paths out; heavy imports wait until a verb runs.

Standard output carries results only (its last line is the path made, or one JSON object with ``--json``); progress and
remarks go to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage or input, 130 stopped.
"""

from __future__ import annotations

import contextlib
import gc
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Group, Parameter

from kakusan.app import cli_deploy, cli_edit, cli_judge
from kakusan.app.aliases import spelled_out
from kakusan.app.failures import guarded
from kakusan.app.options import Device, Json, Labels, Model, conditions, numbers, positive, weights
from kakusan.app.outcome import Outcome, flat, print_outcome, printed, table
from kakusan.part import KakusanError
from kakusan.training.stop import Stop, interruptible

__all__ = ["app", "main"]


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"kakusan {version('kakusan')}"
    except PackageNotFoundError:
        return "kakusan (not installed as a package)"


app = App(
    name="kakusan",
    help=(
        "Train, sample and understand diffusion models on your own data, on the machine you have.\n\n"
        "Start with:  kakusan train PICTURES/ --minutes 30 --out runs/mine"
    ),
    version=_version,
    version_flags=["--version"],
    help_format="plaintext",
    group_commands=Group("Verbs", sort_key=0),
    default_parameter=Parameter(negative=()),
)
data_app = App(name="data", help="Look at data before training: data check.", sort_key=6)
app.command(data_app)

Captions = Annotated[str | None, Parameter(help="auto, or none: leave captions beside pictures unread.")]
Guidance = Annotated[
    list[str] | None, Parameter(help="How strictly to follow conditions, 1 is none; or NAME=WEIGHT, may be repeated.")
]


@app.command(sort_key=1)
def train(
    data: Annotated[str, Parameter(help="A folder of pictures, zip, IDX file, .npz or .npy.")],
    /,
    *overrides: Annotated[str, Parameter(help="Recipe settings, as denoiser.net.width=96.")],
    minutes: Annotated[float | None, Parameter(help="Time the run may take, 10 by default; it ends complete.")] = None,
    steps: Annotated[int | None, Parameter(help="Steps of training, in place of minutes.")] = None,
    out: Annotated[Path | None, Parameter(["--out", "-o"], help="The run's folder; never overwritten.")] = None,
    recipe: Annotated[Path | None, Parameter(help="A recipe file (TOML) to start from.")] = None,
    labels: Labels = None,
    captions: Captions = None,
    fit: Annotated[
        Literal["crop", "pad", "stretch"] | None, Parameter(help="How other shapes are made to fit; crop by default.")
    ] = None,
    flip: Annotated[
        bool | None, Parameter(negative="--no-flip", help="Mirror pictures (not for text or faces of clocks).")
    ] = None,
    size: Annotated[int | None, Parameter(help="Side of the pictures in pixels.")] = None,
    seed: Annotated[
        int | None, Parameter(help="The same seed, data, machine and --steps give the same run; 0.")
    ] = None,
    device: Device = "auto",
    start: Annotated[str | None, Parameter("--from", help="A model whose weights to start from.")] = None,
    autoencoder: Annotated[
        bool, Parameter(show_default=False, help="Train an autoencoder of the pictures, for --latent.")
    ] = False,
    latent: Annotated[str | None, Parameter(help="An autoencoder's run or file: diffuse in its latent.")] = None,
    upscale: Annotated[int | None, Parameter(help="Learn to enlarge pictures so many times: 2, 4 or 8.")] = None,
    masks: Annotated[bool | None, Parameter(show_default=False, help="Also learn to fill holes, for inpaint.")] = None,
    control: Annotated[str | None, Parameter(help="Learn to follow maps: a folder of them by name, or edges.")] = None,
    json: Json = False,
) -> Outcome:
    """Train a model on your pictures, within a time; ends with the path of model.safetensors."""
    positive("--minutes", minutes)
    positive("--steps", steps)
    positive("--size", size)
    for item in overrides:
        if "=" not in item or item.startswith("="):
            hint = "several folders cannot be trained on at once" if Path(item).exists() else "write NAME=VALUE"
            raise KakusanError(f"unexpected argument {item!r}: {hint}, as in denoiser.net.width=96")
    from kakusan.app import facade
    from kakusan.app.show import Progress

    with Progress() as progress:
        done = facade.train(
            data, minutes=minutes, steps=steps, out=out, recipe=recipe, overrides=list(overrides), labels=labels,
            captions=captions, fit=fit, flip=flip, size=size, seed=seed, device=device, start=start,
            autoencoder=autoencoder, latent=latent, upscale=upscale, masks=masks, control=control, progress=progress,
        )  # fmt: skip
        return _trained(done, progress)


@app.command(sort_key=2)
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
    control: Annotated[Path | None, Parameter(help="A map to follow, or a folder of them, one a sample.")] = None,
    film: Annotated[bool, Parameter(show_default=False, help="Also a film of the reverse process.")] = False,
    upscale: Annotated[str | None, Parameter(help="A model that then enlarges the samples.")] = None,
    recipe: Annotated[bool, Parameter("--recipe", negative="--no-recipe", help="Write the recipe into files.")] = True,
    out: Annotated[Path, Parameter(["--out", "-o"], help="Folder for the pictures and grid.png.")] = Path("out"),
    batch: Annotated[int | None, Parameter(help="Samples at once; by default what fits memory.")] = None,
    device: Device = "auto",
    runtime: Annotated[
        str, Parameter(help="eager, onnx or openvino; auto takes what bench found to be best.")
    ] = "auto",
    json: Json = False,
) -> Outcome:
    """Draw samples from a model; ends with the path of grid.png."""
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
        from kakusan.app.show import Progress

    with Progress() as progress, Stop() as stop:
        loaded = facade.load(model, device=device)
        if control is not None:
            from kakusan.app.spatial import maps_of

            maps = maps_of(loaded, control, None if size is None else (size, size))
            asked["cond"] = (asked["cond"] or {}) | {"map": maps}
        request = loaded.request(count, **asked)
        enlarging = None if upscale is None else facade.load(upscale, device=device)
        if runtime != "eager" and not (tile and runtime == "auto"):
            from kakusan.app.engines import swap

            swap(loaded, runtime, request)
        progress.start(len(request.seeds), "sampling", "step")
        for words in loaded.remarks(request):
            progress.warn(words)
        student = loaded.info_.get("distilled") or {"method": "shrink"}
        made_for = 10_000 if student["method"] == "shrink" else max(4, student["steps"])
        if steps is not None and steps > made_for:
            progress.warn(f"--steps {steps}: this student was made for 1 to {made_for}; more help little")
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
                "--control": control, "--upscale": upscale, "--no-recipe": not recipe,
                "--out": out, "--batch": batch, "--device": device if device != "auto" else None,
                "--runtime": runtime if runtime != "auto" else None,
            }  # fmt: skip
            rest = _command("sample", words)
            progress.note(f"stopped: {made:,} of {total:,} samples are made and saved; the rest: {rest}")
            if not made:
                return Outcome({"path": None, "files": [], "interrupted": True, "rest": rest}, code=130)
        if enlarging is not None:
            from kakusan.app.upscale import enlarged

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


@app.command(sort_key=2.4)
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
    """Draw variants of a picture: noised again, and fallen from there with other seeds; ends with grid.png's path."""
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
        from kakusan.app import facade, varying
        from kakusan.app.show import Progress

    with Progress() as progress, Stop() as stop:
        loaded = facade.load(model_and_image[0] if model_and_image[1:] else varying.model_of(image), device=device)
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


@app.command(sort_key=3)
def resume(
    run: Annotated[Path, Parameter(help="The folder of a run.")],
    /,
    *,
    minutes: Annotated[float | None, Parameter(help="For a finished run: a new one, RUN-2, goes on this long.")] = None,
    json: Json = False,
) -> Outcome:
    """Continue a stopped run exactly where it was, or train a finished one for longer."""
    positive("--minutes", minutes)
    from kakusan.app import facade
    from kakusan.app.show import Progress

    with Progress() as progress:
        return _trained(facade.resume(run, minutes=minutes, progress=progress), progress)


@app.command(sort_key=4)
def info(model: Model, /, *, json: Json = False) -> Outcome:
    """Say what a model is: data, network, training, sampling defaults, hash."""
    from kakusan.app import facade

    found = dict(facade.model_info(model))
    said = {k: v for k, v in found.items() if k != "reference"}
    return Outcome(found, text=table(flat(said)))


@app.command(sort_key=7)
def doctor(*, json: Json = False) -> Outcome:
    """Examine this machine: versions, devices, speed, memory, disk, extras."""
    from kakusan.app import doctor as examiner

    found = examiner.examine()
    advice = [f"! {words}" for words in found["advice"]] or ["All is well."]
    return Outcome(found, text="\n".join([table(examiner.lines(found)), *advice]))


@data_app.command
def check(
    data: Annotated[str, Parameter(help="A folder of pictures, zip, IDX file, .npz or .npy.")],
    /,
    *,
    against: Annotated[str | None, Parameter(help="Other data in which none of these should appear.")] = None,
    labels: Labels = None,
    sheet: Annotated[Path | None, Parameter(help="Write a sheet of pictures (PNG) here.")] = None,
    json: Json = False,
) -> Outcome:
    """Count, measure and look for broken files, duplicates and leaks; changes nothing."""
    from kakusan.app import datacheck
    from kakusan.app.checkwords import print_check
    from kakusan.app.show import Progress

    with Progress() as progress:
        progress.start(0, "looking", "picture")

        def tell(done: int, total: int, faulty: int) -> None:
            progress.update(done, total, note=f"{faulty:,} faulty" if faulty else "")

        found = datacheck.check(data, against=against, labels=labels or "auto", sheet=sheet, progress=tell)
    return Outcome(found, text=printed(lambda console: print_check(found, console)), path=sheet)


@app.command(sort_key=5)
def reproduce(
    file: Annotated[Path, Parameter(help="A sample that carries its recipe.")],
    /,
    *,
    out: Annotated[Path | None, Parameter(["--out", "-o"], help="Where to write it; by default beside it.")] = None,
    model: Annotated[str | None, Parameter(help="The model that made it, when it has moved.")] = None,
    json: Json = False,
) -> Outcome:
    """Make a sample again from the recipe inside it, and compare."""
    from kakusan.app import facade

    path, identical = facade.reproduce(file, out=out, model=model)
    words = "identical" if identical else "not identical: another machine, device or version makes small differences"
    return Outcome({"path": str(path), "identical": bool(identical)}, text=words, path=Path(path))


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


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: runs a verb, prints its outcome, exits with its code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with interruptible():
        code = guarded(lambda: _run(words), "--json" in words)
        with contextlib.suppress(BrokenPipeError, OSError):
            sys.stdout.flush()
    sys.exit(code)


def _run(words: list[str]) -> int:
    """Parse, call with standard output kept clean, print."""
    command, bound, _ = app.parse_args(spelled_out(app, words) or ["--help"], exit_on_error=False, print_error=False)
    if not isinstance(command, App) and command in _VERBS:
        with contextlib.redirect_stdout(sys.stderr):
            outcome = command(*bound.args, **bound.kwargs)
        if not outcome.silent:
            print_outcome(outcome, bool(bound.arguments.get("json")))
        return outcome.code
    command(*bound.args, **bound.kwargs)  # --help, --version
    return 0


_VERBS = (
    train, sample, vary, resume, info, doctor, check, reproduce,
    *cli_edit.register(app), *cli_judge.register(app), *cli_deploy.register(app),
)  # fmt: skip


def _command(verb: str, words: dict[str, Any]) -> str:
    """A command to type: flags by name; None and False are left out, True stands alone, a list repeats its flag."""
    said = ["kakusan", verb]
    for flag, value in words.items():
        for each in value if isinstance(value, list) else [] if value is None or value is False else [value]:
            said += [*([flag] if flag else []), *([] if each is True else [str(each)])]
    return shlex.join(said)


def _trained(done: Any, progress: Any) -> Outcome:
    """Remarks on a finished or interrupted run, and its outcome; of several processes the first one speaks."""
    if not getattr(done, "first", True):
        return Outcome(silent=True)
    for finding in done.findings:
        (progress.problem if finding.severity == "problem" else progress.warn)(finding.line())
    if done.report and not done.interrupted:
        progress.note(f"report: {done.report}")
    path = Path(done.path) if done.path else None
    data = {
        "path": str(path) if path else None,
        "run": str(done.run),
        "report": str(done.report) if done.report else None,
        "interrupted": bool(done.interrupted),
        "healthy": not any(f.severity == "problem" for f in done.findings),
        "findings": [f.dict() for f in done.findings],
        "summary": dict(done.summary),
    }
    return Outcome(data, path=Path(done.run) if done.interrupted else path, code=130 if done.interrupted else 0)


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


if __name__ == "__main__":
    main()
