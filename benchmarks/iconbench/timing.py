"""Timing: seconds from the command to four pictures on disk, and seconds a picture in a process that is warm."""

from __future__ import annotations

import os
import sys
import tempfile
import time
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
    kept.row("cold", lambda: _row(_cold(bench, repeats)))
    kept.row("warm", lambda: _row(_warm(bench, repeats)))
    return kept.rows


def _cold(bench: Bench, repeats: int) -> list[float]:
    run = pictures_on_disk(command(bench), COUNT)
    with tempfile.TemporaryDirectory() as name:
        return [run(Path(name) / f"{i}") for i in range(repeats)]


def _warm(bench: Bench, repeats: int) -> list[float]:
    seconds = []
    for i in range(repeats + 1):
        begun = time.perf_counter()
        bench.model.sample(COUNT, prompt=PROMPT, seed=COUNT * i, **bench.settings)
        seconds.append((time.perf_counter() - begun) / COUNT)
    return seconds[1:]


def _row(seconds: list[float]) -> Row:
    return {"median": median(seconds), "all": [round(s, 3) for s in seconds]}


def table(rows: dict[str, Row]) -> str:
    names = {"cold": "cold: four pictures on disk", "warm": "warm: a picture"}
    lines = ["| | seconds, median | all | goal |", "|---|---|---|---|"]
    for name, r in rows.items():
        each = " ".join(f"{s:.2f}" for s in r["all"])
        lines.append(f"| {names[name]} | {r['median']:.2f} | {each} | under {GOALS[name]:g} |")
    return "\n".join(lines)
