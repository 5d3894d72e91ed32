"""The verbs that make a model quick or take it elsewhere: distill, export (loaded when typed, ``cli.VERBS``)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kakusan.app.command.options import Device, Json, Labels, Model, numbers, positive
from kakusan.app.command.outcome import Outcome

__all__ = ["distill", "export"]


def distill(
    model: Model,
    data: Annotated[str | None, Parameter(help="The teacher's training pictures; --method tune works without.")] = None,
    /,
    *overrides: Annotated[str, Parameter(help="Recipe settings of a student, as objective.q=64.")],
    method: Annotated[
        str,
        Parameter(
            help="mean-flow: a student of 1 to 4 steps, by its mean velocity; consistency: by noise; progressive: by "
            "halving the teacher's steps; guidance: guidance inside, the steps as they are; shrink: a smaller network; "
            "tune: learned times and solver weights."
        ),
    ] = "mean-flow",
    steps: Annotated[
        int | None,
        Parameter(help="Steps it is made for: 4; consistency 2, tune 5, guidance and shrink the teacher's."),
    ] = None,
    minutes: Annotated[float | None, Parameter(help="Time it may take: 10 for a student, 3 for tune.")] = None,
    guidance: Annotated[float | None, Parameter(help="Guidance that goes inside; the teacher's own.")] = None,
    autoguidance: Annotated[float | None, Parameter(help="The same for autoguidance.")] = None,
    guidance_range: Annotated[
        str | None, Parameter(help="LOW,HIGH: the student takes the weight as an input, as --guidance of sample.")
    ] = None,
    student_size: Annotated[
        float | None, Parameter(help="The student's share of the teacher's parameters; 0.25 for shrink, else all.")
    ] = None,
    count: Annotated[int, Parameter(["--count", "-n"], help="Samples of each point of the report; 0 is none.")] = 256,
    set_default: Annotated[
        bool, Parameter(show_default=False, help="tune: also write what was found into MODEL itself.")
    ] = False,
    seed: Annotated[int, Parameter(help="Seed of a student's training.")] = 0,
    labels: Labels = None,
    out: Annotated[Path | None, Parameter(["--out", "-o"], help="New folder; runs/MODEL-METHOD-STEPS.")] = None,
    device: Device = "auto",
    json: Json = False,
) -> Outcome:
    from kakusan.app.command.show import Progress
    from kakusan.app.deploy.distil import distill as work

    with Progress() as progress:
        done = work(
            model, data, method=method, steps=steps, minutes=minutes, guidance=guidance, autoguidance=autoguidance,
            guidance_range=numbers(guidance_range), student_size=student_size, overrides=list(overrides), labels=labels,
            count=count, set_default=set_default, seed=seed, out=out, device=device, progress=progress,
        )  # fmt: skip
        if done.report:
            progress.note(f"report: {done.report}")
    said = {
        "path": str(done.path) if done.path else None, "run": str(done.run), "interrupted": done.interrupted,
        "report": str(done.report) if done.report else None, **done.result,
    }  # fmt: skip
    return Outcome(said, path=done.path or done.run, code=130 if done.interrupted else 0)


def export(
    model: Model,
    /,
    *,
    format: Annotated[str, Parameter(help="onnx, openvino, tf or diffusers.")] = "onnx",
    out: Annotated[Path | None, Parameter(["--out", "-o"], help="New folder; MODEL-FORMAT.")] = None,
    size: Annotated[int | None, Parameter(help="Side in pixels; an export has one size.")] = None,
    steps: Annotated[int | None, Parameter(help="Steps of the solver; the model's default.")] = None,
    solver: Annotated[str | None, Parameter(help="ddpm, ddim, heun, dpm2m, unipc or ipndm.")] = None,
    guidance: Annotated[float | None, Parameter(help="How strictly to follow conditions; 1 is none.")] = None,
    autoguidance: Annotated[float | None, Parameter(help="How far from its weak early self; 1 is none.")] = None,
    eta: Annotated[float | None, Parameter(help="Fresh noise on the way: 0 none, 1 as DDPM.")] = None,
    int8: Annotated[
        bool, Parameter(show_default=False, help="onnx: 8-bit convolutions, if as good; with --data.")
    ] = False,
    data: Annotated[Path | None, Parameter(help="Real pictures that --int8 is judged by.")] = None,
    count: Annotated[int, Parameter(["--count", "-n"], help="Samples that --int8 is judged by.")] = 256,
    labels: Labels = None,
    json: Json = False,
) -> Outcome:
    positive("--steps", steps)
    positive("--size", size)
    from kakusan.app.command.show import Progress
    from kakusan.app.deploy.export import export as work

    with Progress() as progress:
        done = work(
            model, format=format, out=out, size=size, steps=steps, solver=solver, guidance=guidance,
            autoguidance=autoguidance, eta=eta, int8=int8, data=data, count=count, labels=labels or "auto",
            progress=progress,
        )  # fmt: skip
    said = {"path": str(done.path), "files": done.files, "checked": done.checked.dict()}
    said |= {"int8": dict(done.int8)} if done.int8 else {}
    return Outcome(said, text=done.words(), path=done.path)
