"""Run directories: where each file of a run lies, and what a MODEL on the command line means."""

from __future__ import annotations

import difflib
import os
import platform
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kakusan.part import KakusanError

__all__ = ["RunDir", "environment", "find_model", "fresh", "shipped"]

DIFFUSERS = ("model_index.json", "config.json", "unet/config.json")  # what a folder of that library has, any of them
MODELS = Path(__file__).resolve().parent.parent / "models"


@dataclass(frozen=True)
class RunDir:
    """The files of one run."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.toml"

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def autoencoder(self) -> Path:
        """Of a run in a latent: the autoencoder that it began with."""
        return self.path / "autoencoder.safetensors"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"


def fresh(out: str | Path | None, data: str | Path) -> RunDir:
    """A new run directory: ``out``, or runs/NAME-TIME; one that holds anything is never overwritten."""
    if out is None:
        name = Path(str(data).split(":")[0]).stem or "run"
        out = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    path = Path(out)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        hint = f"kakusan resume {path}" if (path / "recipe.toml").exists() else "choose another --out"
        raise KakusanError(f"--out {path}: exists and is never overwritten; to go on with it: {hint}")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KakusanError(f"--out {path}: cannot be made ({error.strerror})") from error
    return RunDir(path)


def existing(run: str | Path) -> RunDir:
    """A run directory that can be resumed."""
    path = Path(run)
    if not (path / "recipe.toml").is_file():
        what = "no such folder" if not path.exists() else "not a run (it has no recipe.toml)"
        raise KakusanError(f"{path}: {what}; runs are made by: kakusan train DATA --out {path}")
    return RunDir(path)


def shipped() -> dict[str, Path]:
    """Models that come with the package, by name."""
    return {p.stem: p for p in sorted(MODELS.glob("*.safetensors"))}


def find_model(model: str | Path) -> Path:
    """The model file that a run, a file, a folder of Diffusers or the name of a model that ships means."""
    path = Path(model)
    if path.is_dir():
        file = path / "model.safetensors"
        if file.is_file():
            return file
        if (path / "recipe.toml").is_file():
            raise KakusanError(f"{path}: this run has no finished model yet; finish it with: kakusan resume {path}")
        if any((path / name).is_file() for name in DIFFUSERS):
            from kakusan.app.adopted import adopted

            return adopted(path)
        raise KakusanError(
            f"{path}: a folder without model.safetensors; give a run, a model file or a shipped model's name"
        )
    if path.is_file():
        return path
    names = shipped()
    if str(model) in names:
        return names[str(model)]
    nearby = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(str(path), [*names, *nearby], n=1, cutoff=0.6)
    hint = f"did you mean {close[0]!r}?" if close else "give a run, a model file or the name of a model that ships"
    raise KakusanError(f"{model}: no such model; {hint}")


def environment() -> dict[str, Any]:
    """What a run ran on: the versions, threads and machine that bit-identical resume depends on."""
    import torch

    found = {}
    for name in ("kakusan", "torch", "numpy", "pillow", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return {
        "versions": found,
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
