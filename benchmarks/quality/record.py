"""What one run leaves: samples.npz and row.json; and the clock that gives every system the same minutes.

The second environment imports this file too: nothing of kakusan here.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "SAMPLES",
    "Budget",
    "Facts",
    "batches",
    "machine",
    "read_rows",
    "save_samples",
    "shares",
    "tensor",
    "to_uint8",
    "write",
]

SAMPLES = 1000  # of every run


class Budget:
    """A wall clock of so many minutes, started when it is made; data are in memory by then, nothing else is.

    With ``steps``, which those minutes gave once on the quiet machine, steps are counted instead: the run is the same
    whatever else the machine is doing.
    """

    def __init__(self, minutes: float, steps: int | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.fixed, self.done = 60 * minutes, steps, 0
        self._now, self._begun = now, now()

    def elapsed(self) -> float:
        """Seconds used."""
        return self._now() - self._begun

    def gone(self) -> float:
        """Share of the time used, at most 1."""
        return min(1.0, self.done / self.fixed if self.fixed else self.elapsed() / self.seconds)

    def steps(self) -> Iterator[int]:
        """Step numbers, 0 in any case, for as long as one more step like the longest recent one still ends in time."""
        longest, last = 0.0, self.elapsed()
        while self.done == 0 or (self.done < self.fixed if self.fixed else last + longest <= self.seconds):
            yield self.done
            now = self.elapsed()
            longest = max(now - last, 0.9 * longest)
            self.done, last = self.done + 1, now


@dataclass
class Facts:
    """What a system says about its own run."""

    parameters: int
    steps: int
    pictures: int  # seen in training, repeats counted
    seconds: float  # of training, everything in it
    sampler: str
    sampler_steps: int
    samples: int
    sample_seconds: float  # for all the samples
    settings: str
    versions: dict[str, str]


def write(out: Path, facts: Facts, **run: Any) -> dict[str, Any]:
    """Write row.json, which makes the run complete."""
    row = run | asdict(facts) | {"machine": machine()}
    part = out / "row.json.part"
    part.write_text(json.dumps(row, indent=1, ensure_ascii=False) + "\n", "utf-8")
    part.replace(out / "row.json")
    return row


def read_rows(out: Path) -> dict[str, dict[str, Any]]:
    """The finished runs in a folder, by name."""
    return {f.parent.name: json.loads(f.read_text("utf-8")) for f in sorted(out.glob("*/row.json"))}


def save_samples(out: Path, images: np.ndarray) -> None:
    """Store the samples (N, H, W, C) uint8 of a run."""
    if images.dtype != np.uint8 or images.ndim != 4:
        raise SystemExit(f"samples are {images.shape} {images.dtype}: need (N, H, W, C) uint8")
    np.savez_compressed(out / "samples.npz", images=images)


def tensor(images: np.ndarray) -> Tensor:
    """Pictures (N, H, W, C) uint8 as a tensor (N, C, H, W) uint8."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).contiguous()


def to_uint8(x: Tensor) -> np.ndarray:
    """Samples (N, C, H, W) in [-1, 1] as pictures (N, H, W, C) uint8."""
    x = torch.nan_to_num(x.float(), nan=0.0, posinf=1.0, neginf=-1.0)  # a diverged run is scored too, as what it drew
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def batches(x: Tensor, size: int) -> Iterator[Tensor]:
    """Endless batches of uint8 pictures, every epoch in another order; the last, smaller batch is left out."""
    while True:
        order = torch.randperm(len(x))
        for i in range(0, len(x) - size + 1, size):
            yield x[order[i : i + size]]


def shares(count: int, most: int = 100) -> list[int]:
    """``count`` samples as batches of at most ``most``."""
    return [min(most, count - i) for i in range(0, count, most)]


def versions(names: Sequence[str]) -> dict[str, str]:
    """Installed versions by package name."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """The processor and how much of it torch uses."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return {"cpu": name, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "system": platform.system()}
