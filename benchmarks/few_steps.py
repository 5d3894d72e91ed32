"""What few steps cost in quality, for runs that are there: tuned solvers, and students of a quarter of the time.

    python benchmarks/few_steps.py MODEL DATA [MODEL DATA ...] --out OUT [--minutes 15] [--count 1000] [--seeds 3]
        [--set training.clock=processor training.precision=bf16]

For every teacher: its Fréchet distance at 50, 20, 8 and 5 steps, and at 2, 4, 5, 6 and 8 with learned times and weights
(tuning takes the minutes that it takes by default); then a student of each method, trained for a quarter of
``--minutes`` (the teacher's own, where its file says them): one with the guidance inside, where the teacher has any,
at the teacher's steps and tuned, the others at 1, 2 and 4 steps. The same seeds and pictures for all: --seeds sets of
--count samples, whose distances are averaged. OUT/NAME/few-steps.json grows by one row a way; what is there is not
measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import kakusan
from kakusan.app.command.show import Progress
from kakusan.app.deploy.fewsteps import SEED, Judge, branches
from kakusan.app.deploy.student import opened
from kakusan.app.draw.loaded import Loaded
from kakusan.app.judge.reference import pictures_of
from kakusan.evaluation.frechet import frechet_interval
from kakusan.files import write_json

Row = dict[str, Any]
TEACHER, TUNED = (50, 20, 8, 5), (2, 4, 5, 6, 8)  # steps
STUDENT = (1, 2, 4)  # evaluations
APART = 100_000  # seeds between two sets of samples


def floor(judge: Judge, project: Any, count: int) -> Row:
    """Training pictures, as many as samples, against the reference: what no model can be below."""
    rows = np.random.Generator(np.random.Philox(key=SEED)).permutation(len(project.train))[:count]
    found = frechet_interval(judge.features, judge.extract(pictures_of(project, project.train, np.sort(rows))))
    return {
        "series": "floor",
        "steps": 0,
        "evaluations": 0,
        "frechet": found.value,
        "low": found.low,
        "high": found.high,
    }


def ways(
    teacher: Path, data: Path, folder: Path, minutes: float, changed: list[str], only: list[str]
) -> Iterator[tuple[str, Path, Row]]:
    """Name, the model's file, and the settings it is drawn with; what has to be made is made in ``folder`` first.

    ``only``: what the names of the ways begin with, all where there is none.
    """

    def wanted(name: str) -> bool:
        return not only or name.startswith(tuple(only))

    def drawn(name: str, model: Path, counts: Iterable[int]) -> Iterator[tuple[str, Path, Row]]:
        for steps in counts:
            if wanted(f"{name}, {steps} steps"):
                yield f"{name}, {steps} steps", model, {"steps": steps}

    def tuned(name: str, model: Path) -> Iterator[tuple[str, Path, Row]]:
        for steps in TUNED:
            out = folder / f"{name}-{steps}"
            if wanted(f"{name}, {steps} steps"):
                if not (out / "few-steps.json").is_file():
                    kakusan.distill(model, method="tune", steps=steps, out=out)
                if (out / "model.safetensors").is_file():
                    yield f"{name}, {steps} steps", out / "model.safetensors", {"steps": steps}

    def student(method: str, asked: int | None) -> Path:
        out = folder / method
        if not (out / "model.safetensors").is_file():
            if (out / "recipe.toml").is_file():
                kakusan.resume(out)
            else:
                settings: Row = {"method": method, "steps": asked, "minutes": minutes / 4, "count": 0}
                kakusan.distill(teacher, data, out=out, overrides=changed, **settings)
        return out / "model.safetensors"

    yield from drawn("teacher", teacher, TEACHER)
    yield from tuned("tuned", teacher)
    names = [f"guidance, {n} steps" for n in TEACHER] + [f"guidance-tuned, {n} steps" for n in TUNED]
    if branches(kakusan.load(teacher).model) > 1 and any(wanted(name) for name in names):
        yield from drawn("guidance", student("guidance", None), TEACHER)
        yield from tuned("guidance-tuned", folder / "guidance" / "model.safetensors")
    for method in ("consistency", "mean-flow"):
        if any(wanted(f"{method}, {n} steps") for n in STUDENT):
            yield from drawn(method, student(method, 2), STUDENT)


def averaged(points: list[Row]) -> Row:
    """One row of the same way with several sets of seeds: the means, and each distance."""
    means = {key: float(np.mean([p[key] for p in points])) for key in ("frechet", "low", "high", "seconds")}
    return points[0] | means | {"sets": [p["frechet"] for p in points]}


def measure(
    teacher: Path,
    data: Path,
    out: Path,
    minutes: float | None,
    changed: list[str],
    only: list[str],
    count: int,
    seeds: int,
) -> None:
    """One teacher's rows, in OUT/NAME/few-steps.json."""
    loaded = kakusan.load(teacher)
    assert loaded.path is not None
    folder = out / (loaded.path.parent.name if loaded.path.stem == "model" else loaded.path.stem)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "few-steps.json"
    rows: dict[str, Row] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    spent = minutes or float(loaded.info()["training"]["minutes"])
    shown = Progress()
    project = opened(loaded, str(data), None, shown)
    judge = Judge(loaded, project, count, shown, lambda: False)
    if "floor" not in rows:
        rows["floor"] = floor(judge, project, count)
    models: dict[Path, Loaded] = {}
    for name, path, settings in ways(loaded.path, data, folder, spent, changed, only):
        if name not in rows:
            model = models.setdefault(path, kakusan.load(path))
            points = [judge.point(model, name, SEED + i * APART, **settings) for i in range(seeds)]
            rows[name] = averaged([point.as_dict() for point in points if point is not None])
            write_json(file, rows)
    said(folder.name, rows)


def said(name: str, rows: dict[str, Row]) -> None:
    """The table, with what issue 6 asks of it: distances beside the teacher's at 50 steps, and how far they are above
    the floor beside the least of the teacher's own."""
    least = rows["floor"]["frechet"]
    teachers = {way: row["frechet"] for way, row in rows.items() if way.startswith("teacher")}
    usual, best = teachers.get("teacher, 50 steps", float("nan")), min(teachers.values(), default=least) - least
    heads = f"{'way':<22}{'evaluations':>12}{'distance':>10}{'of 50 steps':>13}{'excess':>9}{'of best':>9}  sets"
    print(f"\n{name}: floor {least:.1f}\n{heads}")
    for way, row in rows.items():
        if way != "floor":
            value, over = row["frechet"], row["frechet"] - least
            share = f"{over / best:.2f}x" if best > 0 else "-"  # with few samples a teacher may be below the floor
            cells = f"{row['evaluations']:>12}{value:>10.1f}{value / usual:>12.2f}x{over:>9.1f}{share:>9}"
            print(f"{way:<22}{cells}  {', '.join(f'{each:.1f}' for each in row['sets'])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pairs", nargs="+", type=Path, metavar="MODEL DATA")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, help="of the teacher's training; what its file says by default")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of the students' training")
    parser.add_argument("--only", nargs="+", default=[], metavar="WAY", help='ways that begin so: "teacher" "tuned, 5"')
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3, help="sets of as many samples")
    asked = parser.parse_args()
    if len(asked.pairs) % 2:
        parser.error("give MODEL DATA in pairs")
    for teacher, data in zip(asked.pairs[::2], asked.pairs[1::2]):
        measure(teacher, data, asked.out, asked.minutes, asked.set, asked.only, asked.count, asked.seeds)


if __name__ == "__main__":
    main()
