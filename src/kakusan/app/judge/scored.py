"""What a comparison's finished trainings are worth: their figures, at the end, with few steps, and on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from kakusan.app.command.show import Progress
from kakusan.app.judge import arms as trainings
from kakusan.app.judge import comparewords
from kakusan.app.judge.arms import Arm, Painter, run_folder
from kakusan.app.judge.scores import Judge
from kakusan.app.train.runpage import rows
from kakusan.files import write_json
from kakusan.training.stop import Stop

__all__ = ["scored"]

CURVE = 6  # snapshots of a run that are scored
CURVE_COUNT, CURVE_STEPS = 250, 12  # pictures of each, at most; sampling steps of diffusion models there
FEW = (4, 8)  # steps of the diffusion models' short sampling
FIRST = 1_000_000  # seed of the first picture that is judged; the same ones for every model
SHOWN = 32  # pictures of a model on the page

Tree = dict[str, Any]


def scored(
    folder: Path, arms: list[Arm], seeds: int, count: int, judge: Judge, device: str, shown: Progress, stop: Stop
) -> list[Tree] | None:
    """Every arm with its scored runs; None when interrupted. A run's score is kept beside it."""
    out = []
    for arm in arms:
        runs = []
        for seed in range(seeds):
            run = run_folder(folder, arm, seed)
            file = run / "score.json"
            key = {"stamp": judge.stamp, "count": count, "version": 2}
            found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
            if found.get("key") != key:
                shown.note(f"scoring {arm.name}, seed {seed} ...")
                made = score_run(run, arm, count, judge, device, stop)
                if made is None:
                    return None
                found = {"key": key, **made}
                write_json(file, found)
            del found["key"]
            runs.append({"seed": seed, "folder": str(run.relative_to(folder)), **found})
        for each in runs:
            each["state"] = comparewords.state(each)
        out.append({**arm.as_dict(), "runs": runs})
    return out


def score_run(run: Path, arm: Arm, count: int, judge: Judge, device: str, stop: Stop) -> Tree | None:
    """The finished model, its snapshots, and for diffusion models few steps; None when asked to stop on the way."""
    painter = Painter(arm, run / "model.safetensors", device)
    drawn = painter.draw(count, FIRST, stop=stop)
    if stop():
        return None
    found: Tree = {"summary": trainings.summary(run), "score": judge.score(drawn, interval=True), "few": {}}
    np.savez_compressed(run / "shown.npz", pictures=drawn.pictures[:SHOWN], labels=np.array(drawn.labels or [])[:SHOWN])
    for steps in () if arm.gan else FEW:
        few = painter.draw(count, FIRST, steps, stop=stop)
        if stop():
            return None
        found["few"][str(steps)] = judge.score(few)
    curve = _curve(run, arm, min(count, CURVE_COUNT), judge, device, stop, painter)
    return None if curve is None else found | {"curve": curve}


def _curve(run: Path, arm: Arm, count: int, judge: Judge, device: str, stop: Stop, last: Painter) -> list[Tree] | None:
    """Figures of snapshots over the minutes of training; the last point is the finished model, drawn as they were."""
    kind = "adversarial" if arm.gan else "train"
    times = [(row["step"], row["seconds"]) for row in rows(run / "log.jsonl", kind)] or [(1, 0.0)]
    final = int(trainings.summary(run)["steps"])
    found = []
    for step, file in [*trainings.snapshots(run, CURVE), (final, None)]:
        painter = last if file is None else Painter(arm, file, device)
        drawn = painter.draw(count, FIRST, CURVE_STEPS, plain=True, stop=stop)
        if stop():
            return None
        score = judge.score(drawn)
        seconds = float(np.interp(step, [t[0] for t in times], [t[1] for t in times]))
        names = ("kernel", "frechet", "precision", "recall", "spread", "finite")
        found.append({"step": step, "minutes": seconds / 60, "count": count, **{n: score[n] for n in names}})
    return found
