"""evaluate: how good a model is, class by class, how probable it finds data, and whether it copies; with intervals.

Everything goes to one new folder: result.json (figures with their protocol stamps), report.html and grid-NAME.png.
Figures of several models stand side by side exactly when their stamps agree.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kakusan.app.command.show import Progress
from kakusan.app.draw.shipped import own
from kakusan.app.judge import evaluatepage, stepcurve
from kakusan.app.judge.ground import Task
from kakusan.app.judge.judged import comparable, judge, title
from kakusan.app.judge.reference import Features
from kakusan.app.train import rundir
from kakusan.evaluation.stamp import Stamp
from kakusan.files import write_json
from kakusan.part import KakusanError
from kakusan.training.stop import Stop

__all__ = ["Evaluated", "evaluate"]

LEAST = 50  # samples below which no figure means anything
Tree = dict[str, Any]


@dataclass(frozen=True)
class Evaluated:
    """What was found: ``result`` as result.json has it; ``report`` None when it was interrupted."""

    path: Path
    report: Path | None
    interrupted: bool
    result: Tree = field(default_factory=dict)


def evaluate(
    models: str | Path | Sequence[str | Path],
    data: str | Path,
    *,
    count: int = 1000,
    seed: int = 1_000_000,
    features: Features = "efficientnet-lite0",
    steps: int | None = None,
    solver: str | None = None,
    guidance: float | None = None,
    autoguidance: float | None = None,
    likelihood: bool = True,
    curve: int = 0,
    set_default: bool = False,
    choose_ema: bool = False,
    beside: Sequence[str | Path] = (),
    trained_on: str | Path | None = None,
    labels: str | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Evaluated:
    """Figures of ``count`` samples of each model against real pictures, with 95% intervals, and a report.

    ``features``: "efficientnet-lite0", "classifier" (trained on the data's own labels), a file of Inception-v3's
    weights, or a function from pictures (N, H, W, C) to numbers (N, D). ``curve``: so many samples for each solver and
    number of steps; ``set_default`` writes the cheapest setting within the best's interval into the model's file,
    ``choose_ema`` the length of the average with the least loss on held-out pictures. ``beside``: folders of earlier
    evaluations to show too. ``trained_on``: the training pictures, where ``data`` is not they and no run says so.
    """
    if count < LEAST:
        raise KakusanError(f"-n {count}: too few samples to judge a model by; give at least {LEAST} (1000 is usual)")
    if curve and curve < LEAST:
        raise KakusanError(f"--curve {curve}: too few samples for a point; give at least {LEAST} (300 is usual)")
    names = [models] if isinstance(models, (str, Path)) else list(models)
    if not names:
        raise KakusanError("no model to evaluate: kakusan evaluate MODEL DATA")
    if (set_default or choose_ema) and len(names) > 1:
        raise KakusanError("--set-default and --choose-ema write into a model's file: give one model")
    earlier = [row for path in beside for row in _earlier(path)]
    for row in earlier[1:]:
        comparable(Stamp.from_dict(row["stamp"]), row["model"]["path"], earlier[0])
    task = Task(
        str(data), count, seed, features,
        {"steps": steps, "solver": solver, "guidance": guidance, "autoguidance": autoguidance},
        likelihood, curve or (stepcurve.COUNT if set_default else 0), set_default, choose_ema,
        None if trained_on is None else str(trained_on), labels or "auto", device,
    )  # fmt: skip
    files = [rundir.find_model(name) for name in names]
    if set_default or choose_ema:
        own(files[0], "--set-default" if set_default else "--choose-ema")
    with progress or Progress() as shown, Stop() as stop:
        folder = _folder(out, files[0])
        found, panels = [], []
        for file in files:
            made = judge(file, task, folder, shown, stop, [*found, *earlier])
            if made is None:
                shown.note("stopped; the real pictures' features are kept, the same command begins again")
                return Evaluated(folder, None, True)
            found.append(made[0])
            panels.append(made[1])
        found += earlier
        result = {"kakusan": 1, "data": str(data), "models": found}
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "result.json", result)
        report = evaluatepage.write_report(folder / "report.html", result, panels)
        return Evaluated(folder, report, False, result)


def _folder(out: str | Path | None, model: Path) -> Path:
    """``out``, which must not hold anything yet, or runs/evaluate-NAME, -2, -3, ..."""
    if out is not None:
        return rundir.fresh(out, model).path
    base, number = Path("runs") / f"evaluate-{title(model)}", 1
    path = base
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def _earlier(path: str | Path) -> list[Tree]:
    """The models in the result.json of an earlier evaluation."""
    file = Path(path) / "result.json" if Path(path).is_dir() else Path(path)
    try:
        found = json.loads(file.read_text("utf-8"))["models"]
        for row in found:
            Stamp.from_dict(row["stamp"])
    except OSError as error:
        raise KakusanError(f"--beside {path}: no evaluation there ({error.strerror}); give its folder") from error
    except (ValueError, KeyError, TypeError) as error:
        raise KakusanError(f"--beside {path}: not a result of kakusan evaluate, or damaged") from error
    return list(found)
