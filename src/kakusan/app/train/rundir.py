"""Run directories: where each file of a run lies, and what a MODEL on the command line means."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kakusan.app.deploy import adopted
from kakusan.app.draw.shipped import named, shipped
from kakusan.part import KakusanError

__all__ = ["RunDir", "environment", "find_model", "fresh", "tidied"]

OWN = ("model.safetensors", "recipe.toml")  # what a run has, either of them


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
    def lora(self) -> Path:
        """Of a run that trained adapters: what it leaves in place of a model."""
        return self.path / "lora.safetensors"

    @property
    def kept(self) -> Path:
        """Of a run with ``--keep``: what the model drew before it was trained on."""
        return self.path / "kept.safetensors"

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

    def about(self) -> dict[str, Any]:
        """What the run was begun on; an empty table where that is not known."""
        try:
            found = json.loads(self.environment.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


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


@contextlib.contextmanager
def tidied(run: RunDir, ours: bool) -> Iterator[None]:
    """Takes the run's folder away again where nothing was begun in it, and the one around it where we made that."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # folders that hold something stay
            run.path.rmdir()
            if ours:
                run.path.parent.rmdir()
        raise


def existing(run: str | Path) -> RunDir:
    """A run directory that can be resumed."""
    path = Path(run)
    if not (path / "recipe.toml").is_file():
        what = "no such folder" if not path.exists() else "not a run (it has no recipe.toml)"
        raise KakusanError(f"{path}: {what}; runs are made by: kakusan train DATA --out {path}")
    return RunDir(path)


def find_model(model: str | Path) -> Path:
    """The model file that MODEL means: a run, a file, a folder of Diffusers, or the name of a model that ships.

    A bare name (no folder before it, no ending) is a path where a run or a file of that name is there.
    """
    path, said = Path(model), str(model)
    bare = said == path.name and not path.suffix
    folder = path.is_dir() and (any((path / file).is_file() for file in OWN) or adopted.recognised(path))
    if bare and not folder and not path.is_file() and said in shipped():
        return shipped()[said]
    if path.is_dir():
        file = path / "model.safetensors"
        if file.is_file():
            return file
        if (path / "lora.safetensors").is_file():
            raise KakusanError(
                f"{path}: holds adapters, no whole model; it draws (kakusan sample {path}), and for the rest name the "
                "model that they were trained from"
            )
        if (path / "recipe.toml").is_file():
            raise KakusanError(f"{path}: this run has no finished model yet; finish it with: kakusan resume {path}")
        if adopted.recognised(path):
            return adopted.adopted(path)
        other = "a shipped model's name" if not bare else f"the name of a model that ships, which {said!r} is not"
        raise KakusanError(f"{path}: a folder without model.safetensors; give a run, a model file or {other}")
    if path.is_file():
        return path
    raise KakusanError(f"{model}: no such model; {_hint(path, bare)}")


def _hint(path: Path, bare: bool) -> str:
    """What may have been meant by a model that is not there."""
    near = {name: name for name in shipped()} if bare else {}
    for folder in (path.parent, Path("runs")):
        for file in _models(folder):
            near.setdefault(str(file), str(file))
            if bare:
                near.setdefault(file.name, str(file))
    close = difflib.get_close_matches(str(path), near, n=1, cutoff=0.6)
    if close:
        return f"did you mean {near[close[0]]!r}?"
    if bare:
        return f"there is no run or file of this name, and none that ships has it ({named()[2:] or 'none ships yet'})"
    return f"give a run, a model file or the name of a model that ships{named()}"


def _models(folder: Path) -> list[Path]:
    """Runs and model files in a folder."""
    try:
        return [p for p in folder.iterdir() if p.suffix == ".safetensors" or (p / "recipe.toml").is_file()]
    except OSError:
        return []


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
