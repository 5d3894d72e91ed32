"""What distillation made, and a student's report: teacher and student in one plot, and which of them to take."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kakusan.app.command.show import Progress
from kakusan.app.deploy import fewsteps
from kakusan.app.deploy.fewsteps import Judge, Point, verdict
from kakusan.app.deploy.fewstepspage import write_page
from kakusan.app.deploy.tuned import tuned
from kakusan.app.draw import sampler
from kakusan.app.draw.loaded import Loaded, load
from kakusan.app.train.project import Project
from kakusan.app.train.rundir import RunDir
from kakusan.distillation.imitation import DENOISING
from kakusan.files import write_json
from kakusan.part import KakusanError
from kakusan.training.stop import Stop

__all__ = ["Distilled", "report", "where"]

RIVAL = 60.0  # seconds, at most, that the teacher is tuned to stand beside its student
Tree = dict[str, Any]


@dataclass(frozen=True)
class Distilled:
    """What was made: the model's file (None when interrupted, or where nothing was gained), its run and the figures."""

    run: Path
    path: Path | None
    report: Path | None
    interrupted: bool
    result: Tree = field(default_factory=dict)

    def load(self, device: str = "auto") -> Loaded:
        """The model with its few steps, ready to sample."""
        if self.path is None:
            raise KakusanError(f"{self.run}: no model was made there: {self.result.get('words', 'interrupted')}")
        return load(self.path, device)


def where(project: Project | None) -> str | None:
    """The path of the data, as a report records it."""
    return None if project is None else str(project.settings["path"])


def report(teacher: Loaded, project: Project, distilled: Tree, run: RunDir, shown: Progress) -> Distilled:
    """Teacher and student in one plot, and what to use: the student, or the teacher with a tuned solver; ``distilled``
    is what its file says about it."""
    steps, count = int(distilled["steps"]), int(distilled["count"])
    result: Tree = {"kakusan": 1, "method": distilled["method"], "steps": steps, "teacher": str(teacher.path)}
    if not count:
        return Distilled(run.path, run.model, None, False, result)
    made = load(run.model, str(teacher.device))
    with Stop() as stop:
        points = _points(teacher, made, project, distilled, shown, stop)
    if points is None:
        shown.note(f"stopped: {run.model} is finished; for its report: kakusan resume {run.path}")
        return Distilled(run.path, run.model, None, True, result)
    own = next(p for p in points if p.series == "student" and p.steps == steps)
    budget = max(1, int(own.cost + 1e-6))
    others = [p for p in points if p.series != "student"]
    found = verdict(own, others)
    notes = [({True: "good", False: "warning", None: "note"}[found["better"]], found["words"], "")]
    if found["better"] is False:
        fix = f"kakusan distill {teacher.path} {project.settings['path']} --method tune --steps {max(2, budget)}"
        notes[0] = ("warning", f"{found['words']}. The tuned solver is recommended.", fix)
        shown.warn(f"{found['words']}; recommended instead: {fix}")
    else:
        shown.note(found["words"])
    if distilled["method"] == "guidance":
        shown.note(f"for fewer steps of it: kakusan distill {run.path} --method tune --steps 5")
    result |= {
        "data": where(project), "verdict": found, "words": found["words"], "points": [p.as_dict() for p in points],
    }  # fmt: skip
    write_json(run.path / "few-steps.json", result)
    page = {
        "title": f"{run.path.name}, {steps} step{'s' * (steps > 1)}",
        "subtitle": f"a student of {teacher.path}; {count:,} samples a point",
        "figures": {
            "Fréchet distance": own.frechet, "evaluations": own.evaluations, "ms a sample": 1000 * own.seconds,
        },
        "notes": notes,
    }  # fmt: skip
    path = write_page(run.path / "few-steps.html", page, points)
    return Distilled(run.path, run.model, path, False, result)


def _points(
    teacher: Loaded, made: Loaded, project: Project, distilled: Tree, shown: Progress, stop: Stop
) -> list[Point] | None:
    """The student at 1, 2, 4 and its own steps (one that denoises at its own and half of them); the teacher at its own,
    and tuned at no more evaluations than cost as much."""
    steps, count = int(distilled["steps"]), int(distilled["count"])
    judge = Judge(teacher, project, count, shown, stop)
    size = _parameters(made) / _parameters(teacher)
    budget = max(1, int(steps * size + 1e-6))
    few = {steps, max(1, steps // 2)} if distilled["method"] in DENOISING else {1, 2, 4, steps}
    plain = {"guidance": 1.0} | ({"autoguidance": 1.0} if teacher.model.weak is not None else {})
    each = fewsteps.branches(teacher.model)
    ways: list[tuple[Loaded, str, Tree]] = [(made, "student", {"steps": n}) for n in sorted(few)]
    ways += [(teacher, "teacher", {"steps": n}) for n in sorted({4, int(sampler.defaults(teacher.model)["steps"])})]
    ways.append((teacher, "teacher, unguided" if each > 1 else "teacher", {"steps": budget, **plain}))
    for name, settings, n in (("unguided, tuned", plain, budget), ("tuned", {}, budget // each)):
        if n >= 2 and (each > 1 or name == "tuned"):
            found = tuned(teacher, n, RIVAL, shown, stop, **settings)
            if found is None:
                return None
            if found.grid is not None and found.solver is not None:
                learned = {"steps": n, "grid": found.grid.spec(), "solver": found.solver.spec()}
                ways.append((teacher, f"teacher, {name}", settings | learned))
    points = []
    for loaded, series, settings in ways:
        point = judge.point(loaded, series, **settings)
        if point is None:
            return None
        points.append(replace(point, size=size) if loaded is made else point)
    return points


def _parameters(loaded: Loaded) -> int:
    """Of the network that is evaluated at every step."""
    return sum(p.numel() for p in loaded.model.denoiser.net.parameters())
