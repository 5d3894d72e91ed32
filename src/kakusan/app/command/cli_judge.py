"""The measuring verbs: evaluate, compare, bench (loaded when typed, ``cli.VERBS``)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kakusan.app.command.options import Device, Json, Labels, Model, positive
from kakusan.app.command.outcome import Outcome, printed, table
from kakusan.part import KakusanError

__all__ = ["bench", "compare", "evaluate"]


def evaluate(
    *models_and_data: Annotated[str, Parameter(help="One model or several, then the pictures to judge them by.")],
    count: Annotated[int, Parameter(["--count", "-n"], help="Samples of each model that are judged.")] = 1000,
    seed: Annotated[int, Parameter(help="Seed of the first sample, and of every other draw.")] = 1_000_000,
    features: Annotated[
        str, Parameter(help="efficientnet-lite0, classifier (of the data's labels), or Inception-v3's weights file.")
    ] = "efficientnet-lite0",
    steps: Annotated[int | None, Parameter(help="Steps of the solver; the model's default.")] = None,
    solver: Annotated[str | None, Parameter(help="ddpm, ddim, heun, dpm2m, unipc or ipndm.")] = None,
    guidance: Annotated[float | None, Parameter(help="How strictly to follow conditions; 1 is none.")] = None,
    autoguidance: Annotated[float | None, Parameter(help="How far from its weak early self; 1 is none.")] = None,
    likelihood: Annotated[
        bool, Parameter(negative="--no-likelihood", help="Bits per dimension, and the bound by noise level.")
    ] = True,
    curve: Annotated[
        int, Parameter(help="Samples for each solver and number of steps of the step curve; 0 is no curve, 300 usual.")
    ] = 0,
    set_default: Annotated[
        bool, Parameter(show_default=False, help="Save the cheapest setting within noise of the best into the model.")
    ] = False,
    choose_ema: Annotated[
        bool, Parameter(show_default=False, help="Save the average of weights that is best on held-out pictures.")
    ] = False,
    beside: Annotated[list[Path] | None, Parameter(help="An earlier evaluation's folder, to show beside.")] = None,
    trained_on: Annotated[str | None, Parameter(help="The training pictures, where nothing else says.")] = None,
    labels: Labels = None,
    out: Annotated[Path | None, Parameter(["--out", "-o"], help="New folder; runs/evaluate-MODEL.")] = None,
    device: Device = "auto",
    json: Json = False,
) -> Outcome:
    if len(models_and_data) < 2:
        raise KakusanError("give a model and the pictures to judge it by: kakusan evaluate MODEL DATA")
    from kakusan.app.command.show import Progress
    from kakusan.app.judge.evaluate import evaluate as work
    from kakusan.app.judge.evaluatewords import lines

    *models, data = models_and_data
    with Progress() as progress:
        done = work(
            models, data, count=count, seed=seed, features=features, steps=steps, solver=solver, guidance=guidance,
            autoguidance=autoguidance, likelihood=likelihood, curve=curve, set_default=set_default,
            choose_ema=choose_ema, beside=beside or [], trained_on=trained_on, labels=labels, out=out, device=device,
            progress=progress,
        )  # fmt: skip
    if done.interrupted:
        return Outcome({"path": str(done.path), "report": None, "interrupted": True}, path=done.path, code=130)
    said = {"path": str(done.report), "report": str(done.report), "interrupted": False, **done.result}
    return Outcome(said, text=table(lines(done.result)), path=done.report)


def compare(
    data: Annotated[str, Parameter(help="A folder of pictures, zip, IDX file, .npz or .npy.")],
    /,
    *overrides: Annotated[str, Parameter(help="Recipe settings of every arm, as training.batch=32.")],
    minutes: Annotated[float | None, Parameter(help="Training time of each arm and seed; 10 by default.")] = None,
    steps: Annotated[int | None, Parameter(help="Steps of training, in place of minutes.")] = None,
    seeds: Annotated[int, Parameter(help="How often each arm is trained.")] = 3,
    arms: Annotated[
        list[str] | None, Parameter(help="Diffusion recipes to compare: schedule=linear,cosine,flow or NAME=A,B.")
    ] = None,
    gan: Annotated[list[str] | None, Parameter(help="r3, classic or none; r3 and classic by default.")] = None,
    out: Annotated[Path | None, Parameter(["--out", "-o"], help="The comparison's folder; runs/compare-DATA.")] = None,
    count: Annotated[int, Parameter(["--count", "-n"], help="Samples of each model that are judged.")] = 1000,
    features: Annotated[str, Parameter(help="Feature network by name, or a weights file.")] = "efficientnet-lite0",
    labels: Labels = None,
    size: Annotated[int | None, Parameter(help="Side of the pictures in pixels.")] = None,
    device: Device = "auto",
    clock: Annotated[str, Parameter(help="wall, or processor: minutes that other work does not shorten.")] = "wall",
    json: Json = False,
) -> Outcome:
    from kakusan.app.command.show import Progress
    from kakusan.app.judge.compare import compare as work

    with Progress() as progress:
        done = work(
            data, minutes=minutes, steps=steps, seeds=seeds, arms=arms or [], gan=gan or ["r3", "classic"], out=out,
            count=count, features=features, overrides=list(overrides), labels=labels, size=size, device=device,
            clock=clock, progress=progress,
        )  # fmt: skip
    if done.interrupted:
        return Outcome({"path": str(done.path), "report": None, "interrupted": True}, path=done.path, code=130)
    said = {"path": str(done.report), "report": str(done.report), "interrupted": False, **done.result}
    return Outcome(said, text="\n".join(done.result["words"]["answer"]), path=done.report)


def bench(
    model: Model,
    /,
    *,
    batch: Annotated[list[int] | None, Parameter(help="Samples at once; may be repeated; 1 and 64 by default.")] = None,
    size: Annotated[int | None, Parameter(help="Side in pixels; the model's own.")] = None,
    compile: Annotated[bool, Parameter(show_default=False, help="Also torch.compile, which takes a minute.")] = False,
    json: Json = False,
) -> Outcome:
    for each in batch or []:
        positive("--batch", each)
    positive("--size", size)
    from kakusan.app.command.show import Progress
    from kakusan.app.deploy import bench as work

    with Progress() as progress:
        found = work.bench(model, batch=batch, size=size, compile=compile, progress=progress)
    return Outcome(found.dict(), text=printed(lambda console: work.show(found, console)))
