"""distill: fewer evaluations with the same network (tune), a student that needs few (consistency, mean-flow,
progressive), or one that needs one a step (guidance, shrink).

Everything goes to one new folder: model.safetensors, few-steps.html and few-steps.json. The teacher's file stays as it
is, unless asked.
"""

from __future__ import annotations

import difflib
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kakusan.app.command.show import Progress
from kakusan.app.deploy import fewsteps, student
from kakusan.app.deploy.distilled import Distilled, report, where
from kakusan.app.deploy.fewsteps import Judge, Point
from kakusan.app.deploy.fewstepspage import write_page
from kakusan.app.deploy.rounds import Wish
from kakusan.app.deploy.tuned import merged, tuned
from kakusan.app.draw import sampler
from kakusan.app.draw.branches import MOST_WEIGHT
from kakusan.app.draw.loaded import Loaded, load
from kakusan.app.draw.shipped import own
from kakusan.app.judge.reference import judgeable
from kakusan.app.train import rundir
from kakusan.app.train.project import Project
from kakusan.app.train.rundir import RunDir
from kakusan.checkpoint import set_defaults
from kakusan.distillation.tune import Tuned
from kakusan.files import write_json
from kakusan.part import KakusanError
from kakusan.training.schedule import readings
from kakusan.training.stop import Stop

__all__ = ["METHODS", "Distilled", "distill"]

METHODS = {  # steps that a student is made for, 0: the teacher's own
    "mean-flow": 4,
    "consistency": 2,
    "progressive": 4,
    "guidance": 0,
    "shrink": 0,
    "tune": 5,
}
SIZE = 0.25  # of a student that is only to be smaller
TUNING = 3.0  # minutes, for tuning
Tree = dict[str, Any]


def distill(
    model: str | Path,
    data: str | Path | None = None,
    *,
    method: str = "mean-flow",
    steps: int | None = None,
    minutes: float | None = None,
    guidance: float | None = None,
    autoguidance: float | None = None,
    guidance_range: Sequence[float] | None = None,
    student_size: float | None = None,
    overrides: Sequence[str] = (),
    labels: str | None = None,
    count: int = 256,
    set_default: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Distilled:
    """From a trained model to one that needs few evaluations, within ``minutes``; the teacher is never replaced.

    ``method``: "mean-flow" trains a student for ``steps`` (4) jumps by its mean velocity, with the teacher's guidance
    inside (10 minutes); "consistency" one for ``steps`` (2) evaluations with fresh noise between them; "progressive"
    one for ``steps`` (4), by halving the teacher's steps again and again; "guidance" one that answers in one evaluation
    a step as the guided teacher does in two or three; "shrink" a smaller one that does; "tune" learns times and solver
    weights for ``steps`` (5) steps and leaves the network as it is (3 minutes, no pictures needed). ``student_size``:
    the student's share of the teacher's parameters (0.25 for "shrink"); students of few steps are shrunk first.
    ``count``: samples of each point of the report, drawn after the minutes; 0 = none.
    ``guidance_range``: (low, high), to make the weight of guidance an input of the student instead of a fixed one.
    ``set_default``: also write what tuning found into the teacher's own file.
    """
    chosen = _method(method)
    wanted = METHODS[chosen] if steps is None else steps
    _checked(chosen, data, wanted if steps is not None else wanted or 1, minutes, count, set_default)
    share = _share(chosen, student_size)
    weights = None if guidance_range is None else _range(guidance_range, chosen)
    begun = readings()
    with progress or Progress() as shown:
        file = rundir.find_model(model)
        teacher = load(own(file, "--set-default") if set_default else file, device)
        wanted = wanted or int(sampler.defaults(teacher.model)["steps"])
        project = None if data is None else student.opened(teacher, str(data), labels, shown)
        if project is not None and count:
            judgeable(project, "distill")
        run = _folder(out, teacher, chosen, wanted)
        with rundir.tidied(run, out is None):
            settings = {"guidance": guidance, "autoguidance": autoguidance}
            if chosen == "tune":
                seconds = 60 * (TUNING if minutes is None else minutes)
                return _tuning(teacher, project, wanted, seconds, settings, count, set_default, run, shown)
            assert project is not None
            wish = Wish(chosen, wanted, minutes, guidance, autoguidance, overrides, seed, count, share, weights)
            done = student.train_student(teacher, project, wish, run, shown, begun)
            if done.path is None or done.interrupted:
                return Distilled(run.path, done.path, None, True)
            about = {"method": chosen, "steps": wanted, "count": count}
            return report(teacher, project, about, run, shown)


def _method(method: str) -> str:
    if method in METHODS:
        return method
    close = difflib.get_close_matches(method, METHODS, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"choose one of: {', '.join(METHODS)}"
    raise KakusanError(f"--method {method!r} is not known; {hint}")


def _checked(
    method: str, data: str | Path | None, steps: int, minutes: float | None, count: int, set_default: bool
) -> None:
    """Refusals before anything is read."""
    least = 2 if method == "tune" else 1
    if not least <= steps <= 100:
        raise KakusanError(f"--steps {steps}: --method {method} makes models of {least} to 100 steps")
    if minutes is not None and not minutes > 0:
        raise KakusanError(f"--minutes {minutes:g}: must be greater than 0")
    if data is None and method != "tune":
        raise KakusanError(
            "no data: a student learns from pictures: kakusan distill MODEL DATA; only --method tune needs none"
        )
    if count and count < fewsteps.LEAST:
        raise KakusanError(f"-n {count}: too few samples for a point; give at least {fewsteps.LEAST}, or 0 for none")
    if set_default and method != "tune":
        raise KakusanError("--set-default: a student has a file of its own; only --method tune can write into MODEL")


def _share(method: str, size: float | None) -> float | None:
    """The student's share of the teacher's parameters; None = all."""
    if size is not None and not 0.01 <= size < 1:
        raise KakusanError(
            f"--student-size {size:g}: it is a share of the teacher, from 0.01 to below 1 (0.25 is usual)"
        )
    if size is not None and method == "tune":
        raise KakusanError(f"--student-size {size:g}: --method tune leaves the network as it is; use --method shrink")
    if size is not None and method == "guidance":
        raise KakusanError(f"--student-size {size:g}: --method guidance keeps the network's size; use --method shrink")
    return SIZE if size is None and method == "shrink" else size


def _range(weights: Sequence[float], method: str) -> tuple[float, float]:
    """Two weights of guidance, the lesser first."""
    try:
        low, high = (float(w) for w in weights)
    except (TypeError, ValueError):
        low = high = math.nan
    if not -MOST_WEIGHT <= low < high <= MOST_WEIGHT:
        shown = ",".join(map(str, weights)) if isinstance(weights, (list, tuple)) else weights
        raise KakusanError(f"--guidance-range {shown}: need LOW,HIGH, as 1,4")
    if method == "tune":
        raise KakusanError(f"--guidance-range {low:g},{high:g}: only a student has the weight as an input")
    return low, high


def _folder(out: str | Path | None, teacher: Loaded, method: str, steps: int) -> RunDir:
    """``out``, or runs/TEACHER-METHOD-STEPS, -2, -3, ..."""
    assert teacher.path is not None
    if out is not None:
        return rundir.fresh(out, teacher.path)
    name = teacher.path.parent.name if teacher.path.stem == "model" else teacher.path.stem
    base, number = Path("runs") / f"{name}-{method}-{steps}", 1
    path = base
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return rundir.fresh(path, teacher.path)


def _tuning(
    teacher: Loaded, project: Project | None, steps: int, seconds: float, settings: Tree, count: int,
    set_default: bool, run: RunDir, shown: Progress,
) -> Distilled:  # fmt: skip
    """Tune, measure, and write a copy of the model with what was found, if it is a gain."""
    assert teacher.path is not None
    with Stop() as stop:
        found = tuned(teacher, steps, seconds, shown, stop, **settings)
        points = [] if found is None else _tuned_points(teacher, project, found, settings, count, shown, stop)
        if found is None or points is None:
            shown.note("stopped: nothing was written; the same command begins again")
            return Distilled(run.path, None, None, True)
    said = _tuned_words(found, points)
    result = {
        "kakusan": 1, "method": "tune", "steps": steps, "teacher": str(teacher.path), "data": where(project),
        "kept": said["kept"], "words": said["words"], "before": found.before, "started": found.started,
        "after": found.after, "best_known": found.name, "points": [p.as_dict() for p in points],
    }  # fmt: skip
    path = None
    if said["kept"]:
        defaults = merged(sampler.defaults(teacher.model), found) | _given(settings)
        shutil.copyfile(teacher.path, run.model)
        set_defaults(run.model, defaults)
        if set_default:
            set_defaults(teacher.path, defaults)
        path = run.model
    (shown.note if said["kept"] else shown.warn)(said["words"])
    page = _tuned_page(found, result, teacher, said)
    write_json(run.path / "few-steps.json", result)
    page_file = write_page(run.path / "few-steps.html", page, points)
    return Distilled(run.path, path, page_file, False, result)


def _given(settings: Tree) -> Tree:
    """Settings that were asked for become the model's own: the weights were learned with them."""
    return {name: float(value) for name, value in settings.items() if value is not None}


def _tuned_points(
    teacher: Loaded, project: Project | None, found: Tuned, settings: Tree, count: int, shown: Progress, stop: Stop
) -> list[Point] | None:
    """The model's own way at its own and at the tuned number of steps, and the tuned way."""
    if project is None or not count:
        return []
    judge = Judge(teacher, project, count, shown, stop)
    ways: list[tuple[str, Tree]] = [("the model's own way", {"steps": found.steps}), ("the model's own way", {})]
    if found.grid is not None and found.solver is not None:
        learned = {"steps": found.steps, "grid": found.grid.spec(), "solver": found.solver.spec()}
        ways.insert(1, ("tuned", learned))
    points = []
    for series, way in ways:
        point = judge.point(teacher, series, **(settings | way))
        if point is None:
            return None
        points.append(point)
    return points


def _tuned_words(found: Tuned, points: list[Point]) -> Tree:
    """Whether the tuned way is kept, and why."""
    if found.grid is None:
        return {
            "kept": False,
            "words": f"no gain: on seeds that were not tuned on, the end points are {found.before:.4g} off as before; "
            "nothing was changed. Give more --minutes or another number of --steps",
        }
    words = (
        f"{found.steps} steps end {found.after:.4g} from where the teacher ends, {found.before:.4g} before "
        f"(best known: {found.name}, {found.started:.4g}), on seeds that were not tuned on"
    )
    if len(points) > 1:
        own, made = points[0], points[1]
        compared = f"Fréchet distance {made.frechet:.4g} ({made.low:.4g} to {made.high:.4g}), {own.frechet:.4g} before"
        if made.low > own.high:
            return {"kept": False, "words": f"no gain: {words}; but {compared}: nothing was changed"}
        words += f"; {compared}"
    else:
        words += "; nearer ends are not always better pictures: with DATA the Fréchet distance decides too"
    return {"kept": True, "words": words}


def _tuned_page(found: Tuned, result: Tree, teacher: Loaded, said: Tree) -> Tree:
    kind = "good" if said["kept"] else "warning"
    learned = {
        "before": found.before, "started": found.started, "after": found.after, "name": found.name,
        "curve": found.curve, "lams": [] if found.grid is None else found.grid.lams,
        "weights": [] if found.solver is None else found.solver.weights,
    }  # fmt: skip
    return {
        "title": f"{found.steps} steps, tuned",
        "subtitle": f"times and solver weights for {teacher.path}, the network as it is",
        "figures": {"steps": found.steps, "error before": found.before, "error now": found.after},
        "notes": [(kind, said["words"], "")],
        "learned": learned,
    }
