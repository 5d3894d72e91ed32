"""Timing: seconds from the command to four pictures on disk, and seconds a picture in a process that is warm."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from cold_start import pictures_on_disk

from iconbench.bench import Bench
from iconbench.kept import Row

__all__ = ["command", "measure", "table"]

PROMPT = "a red apple"
COUNT = 4
GOALS = {"cold": 6.0, "warm": 1.0}


def command(bench: Bench) -> list[str]:
    """``kakusan sample MODEL "a red apple" -n 4`` at the settings."""
    asked = [w for name, value in bench.settings.items() if value is not None for w in (f"--{name}", f"{value:g}")]
    return [sys.executable, "-m", "kakusan", "sample", str(bench.model.path), PROMPT, "-n", str(COUNT), *asked]


def measure(bench: Bench, repeats: int) -> dict[str, Row]:
    """Two rows: cold, each in a fresh process, and warm. Files are in the page cache from the second cold run on."""
    kept = bench.kept("time", repeats=repeats, threads=torch.get_num_threads(), cores=os.cpu_count())
    kept.row("cold", lambda: _cold(bench, repeats))
    kept.row("warm", lambda: _warm(bench, repeats))
    return {name: kept.rows[name] for name in GOALS}


def _cold(bench: Bench, repeats: int) -> Row:
    run = pictures_on_disk(command(bench), COUNT)
    with tempfile.TemporaryDirectory() as name:
        return _row(lambda i: run(Path(name) / f"{i}"), repeats, resource.RUSAGE_CHILDREN)


def _warm(bench: Bench, repeats: int) -> Row:
    def run(i: int) -> float:
        begun = time.perf_counter()
        bench.model.sample(COUNT, prompt=PROMPT, seed=COUNT * i, **bench.settings)
        return time.perf_counter() - begun

    run(repeats)
    return _row(run, repeats, resource.RUSAGE_SELF, COUNT)


def _row(run: Callable[[int], float], repeats: int, whose: int, share: int = 1) -> Row:
    """Seconds of the clock and of the processor, which a busy machine changes less (to the end of the process)."""
    seconds, spent = [], []
    for i in range(repeats):
        before = resource.getrusage(whose)
        seconds.append(run(i) / share)
        after = resource.getrusage(whose)
        spent.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / share)
    return {"median": median(seconds), "all": [round(s, 3) for s in seconds], "processor": median(spent)}


def table(rows: dict[str, Row]) -> str:
    names = {"cold": "cold: four pictures on disk", "warm": "warm: a picture"}
    lines = ["| | seconds, median | all | of the processor | goal |", "|---|---|---|---|---|"]
    for name, r in rows.items():
        each = " ".join(f"{s:.2f}" for s in r["all"])
        lines.append(f"| {names[name]} | {r['median']:.2f} | {each} | {r['processor']:.2f} | under {GOALS[name]:g} |")
    return "\n".join(lines)
