"""Longer: the state of a finished training, made that of one under way which lasts longer.

Nothing begins anew: weights, optimiser, averages, the weak model, random draws and the clock go on from where they
were. The learning rate is what it would be at this step of a run of the whole length: a short addition begins low in
the cool-down, a long one at the full rate. (Started from the finished weights at the full rate, with fresh averages, 4%
more steps made samples much worse than they were: docs/how-to/resume.md.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from kakusan.training import state as disk
from kakusan.training.moments import PREVIEW_POWER, evaluation_points
from kakusan.training.schedule import Schedule, passed
from kakusan.training.settings import Training

__all__ = ["lengthened", "read"]


def read(folder: Path, say: Callable[[str], None]) -> disk.Saved | None:
    """The end of a finished training in ``folder``; None where its state is gone."""
    saved = disk.load(folder / "state", say)
    return saved if saved is not None and saved.meta["finished"] is not None else None


def lengthened(saved: disk.Saved, settings: Training, seconds: float, files: dict[str, int]) -> disk.Saved:
    """The state from which a run of ``settings`` goes on for about ``seconds`` more than ``saved`` took.

    ``files``: how long its "log" and "events" are. The clock decides the rest, as in any run of so many minutes.
    """
    meta, step = saved.meta, saved.step
    total = step + max(1, round(seconds * step / max(meta["elapsed"], 1e-9)))
    cool = round(total * (1 - settings.cooldown))
    schedule = replace(
        Schedule.timed(settings.warmup, settings.cooldown, settings.shape),
        total=total, cool=cool, since=cool, next=step + 3,
    )  # fmt: skip
    changed: dict[str, Any] = {
        "schedule": schedule.state(),
        "finished": None,
        "logged_at": [step, meta["elapsed"]],
        "previews": passed(step, total, settings.previews, PREVIEW_POWER),
        "evaluations": passed(step, total, evaluation_points(settings, total)),
        **files,
    }
    groups = dict(saved.groups)
    if step < settings.weak * total:  # what was early is now too early: it is set aside again when its share has gone
        groups["weak"], changed["weak_at"] = {}, None
    return replace(saved, meta=meta | changed, groups=groups)
