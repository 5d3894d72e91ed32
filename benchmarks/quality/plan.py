"""Runs: the five systems, the name of a run, and the list of runs of a plan file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SYSTEMS", "Run", "read_plan"]

SYSTEMS = ("kakusan", "kakusan-classes", "diffusers-tuned", "diffusers", "ddpm-pytorch")


@dataclass(frozen=True)
class Run:
    """One system, trained once."""

    system: str
    data: str
    minutes: float
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.data}-{self.system}-{self.minutes:g}min-seed{self.seed}"


def read_plan(file: Path) -> list[Run]:
    """The runs of a plan, the first seed of all of them before the second."""
    runs = []
    for block in tomllib.loads(file.read_text("utf-8")).get("runs", []):
        unknown = [s for s in block["systems"] if s not in SYSTEMS]
        if unknown:
            raise SystemExit(f"{file}: no system {unknown[0]!r}; it is one of {', '.join(SYSTEMS)}")
        runs += [
            Run(system, block["data"], float(block["minutes"]), int(seed))
            for seed in block["seeds"]
            for system in block["systems"]
        ]
    if len(set(runs)) < len(runs):
        raise SystemExit(f"{file}: a run is named twice")
    return sorted(runs, key=lambda run: run.seed)
