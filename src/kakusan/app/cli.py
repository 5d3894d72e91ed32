"""The command line: ``kakusan VERB``. Words in, facade called, paths out; heavy imports wait until a verb runs.

Standard output carries results only (its last line is the path made, or one JSON object with ``--json``); progress and
remarks go to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage or input, 130 stopped.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Group, Parameter

from kakusan.app.command.aliases import spelled_out
from kakusan.app.command.failures import guarded
from kakusan.app.command.options import Device, Json, Labels, Model, positive
from kakusan.app.command.outcome import Outcome, flat, print_outcome, printed, table
from kakusan.part import KakusanError
from kakusan.training.stop import interruptible

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

# The verbs of other files, which are loaded when one is typed: where each stands among all, and what it does.
VERBS = (
    ("cli_sample", "sample", 2, "Draw samples from a model; ends with the path of grid.png."),
    (
        "cli_sample",
        "vary",
        2.4,
        "Draw variants of a picture: noised again, and fallen from there with other seeds; ends with grid.png's path.",
    ),
    (
        "cli_edit",
        "inpaint",
        2.5,
        "Repaint what is white in a mask; everything else comes back to the bit. Ends with the picture's path.",
    ),
    (
        "cli_edit",
        "outpaint",
        2.51,
        "Extend a picture at its sides, by overlapping windows that agree; its own pixels stay to the bit.",
    ),
    (
        "cli_edit",
        "edit",
        2.52,
        "Draw a picture again from itself under noise, --restore what it has lost, or change it as you --instruct. "
        "Ends with the picture's path.",
    ),
    ("cli_edit", "blend", 2.53, "Pictures from one to another through the noise that makes each, and a film of them."),
    (
        "cli_edit",
        "upscale",
        2.54,
        "Enlarge pictures by a model trained with --upscale; ends with the path of the last.",
    ),
    (
        "cli_judge",
        "evaluate",
        4.4,
        "Say how good models are, with intervals: quality, variety, labels, likelihood, copies; ends with a report.",
    ),
    (
        "cli_judge",
        "compare",
        4.5,
        "Train diffusion and GANs for equal minutes, and say which is better at what; goes on where it was stopped.",
    ),
    (
        "cli_judge",
        "bench",
        4.6,
        "Measure how fast a model's network runs here, by engine; sample takes the fastest from then on.",
    ),
    (
        "cli_deploy",
        "distill",
        4.55,
        "Make a model that needs few evaluations: a tuned solver, or a student; ends with its path.",
    ),
    (
        "cli_deploy",
        "export",
        4.7,
        "Write a model for another runtime, checked against PyTorch; ends with the path of the folder.",
    ),
)
for _home, _verb, _place, _words in VERBS:
    app.command(f"kakusan.app.command.{_home}:{_verb}", name=_verb, help=_words, sort_key=_place)

Captions = Annotated[str | None, Parameter(help="auto, or none: leave captions beside pictures unread.")]


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
    start: Annotated[str | None, Parameter("--from", help="A model to start from: fine-tuning.")] = None,
    lora: Annotated[
        int | None, Parameter(help="With --from: rank of adapters; 0 trains all weights. 8 for under 50 pictures.")
    ] = None,
    prompt: Annotated[str | None, Parameter(help='With --from: a caption for all, "a photo of sks mug".')] = None,
    label: Annotated[str | None, Parameter(help="With --from: a class of the model for all pictures.")] = None,
    keep: Annotated[
        list[str] | None,
        Parameter(help='With --from: what it should still draw, "a mug" or a .txt of prompts; how many.'),
    ] = None,
    autoencoder: Annotated[
        bool, Parameter(show_default=False, help="Train an autoencoder of the pictures, for --latent.")
    ] = False,
    latent: Annotated[str | None, Parameter(help="An autoencoder's run or file: diffuse in its latent.")] = None,
    upscale: Annotated[int | None, Parameter(help="Learn to enlarge pictures so many times: 2, 4 or 8.")] = None,
    masks: Annotated[bool | None, Parameter(show_default=False, help="Also learn to fill holes, for inpaint.")] = None,
    control: Annotated[str | None, Parameter(help="Learn to follow maps: a folder of them by name, or edges.")] = None,
    pairs: Annotated[str | None, Parameter(help="Learn to follow instructions: a list of pairs in DATA.")] = None,
    style_image: Annotated[
        str | None, Parameter(help="Learn to draw in a picture's style: label (folders), or a field that says it.")
    ] = None,
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
    from kakusan.app.command.show import Progress

    with Progress() as progress:
        done = facade.train(
            data, minutes=minutes, steps=steps, out=out, recipe=recipe, overrides=list(overrides), labels=labels,
            captions=captions, fit=fit, flip=flip, size=size, seed=seed, device=device, start=start,
            lora=lora, prompt=prompt, label=label, keep=keep, autoencoder=autoencoder, latent=latent,
            upscale=upscale, masks=masks, control=control, pairs=pairs, style_image=style_image, progress=progress,
        )  # fmt: skip
        return _trained(done, progress)


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
    from kakusan.app.command.show import Progress

    with Progress() as progress:
        return _trained(facade.resume(run, minutes=minutes, progress=progress), progress)


@app.command(sort_key=4)
def info(model: Model, /, *, json: Json = False) -> Outcome:
    """Say what a model is: data, network, training, sampling defaults, hash."""
    from kakusan.app import facade

    found = dict(facade.model_info(model))
    said = {k: v for k, v in found.items() if k not in ("reference", "card")}
    return Outcome(found, text="\n\n".join([*filter(None, [found.get("card")]), table(flat(said))]))


@app.command(sort_key=7)
def doctor(*, json: Json = False) -> Outcome:
    """Examine this machine: versions, devices, speed, memory, disk, extras."""
    from kakusan.app.judge import doctor as examiner

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
    from kakusan.app.command.show import Progress
    from kakusan.app.judge import datacheck
    from kakusan.app.judge.checkwords import print_check

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
    data, words = {"path": str(path), "identical": bool(identical)}, "identical"
    if not identical:
        from kakusan.app.draw.samples import apart

        levels, count, pixels = apart(file, Path(path))
        data |= {"levels": levels, "pixels": count}
        words = (
            f"not identical: up to {levels:.2g} of 255 levels off, at {count:,} of {pixels:,} pixels; it is rounded "
            "otherwise in another batch, on another machine or device, and by other threads and versions"
        )
    return Outcome(data, text=words, path=Path(path))


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
    if isinstance(getattr(command, "__self__", command), App):  # --help, --version: the parser's own
        command(*bound.args, **bound.kwargs)
        return 0
    with contextlib.redirect_stdout(sys.stderr):
        outcome = command(*bound.args, **bound.kwargs)
    if not outcome.silent:
        print_outcome(outcome, bool(bound.arguments.get("json")))
    return outcome.code


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


if __name__ == "__main__":
    main()
