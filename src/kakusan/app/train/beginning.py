"""What a training begins with, where it starts from a model: that model's weights, and samples of its own to keep."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from kakusan.app.command.show import Progress
from kakusan.app.draw.loaded import load
from kakusan.app.train import keeping, rundir
from kakusan.app.train.columns import pasted
from kakusan.app.train.finetune import Base
from kakusan.app.train.project import Project
from kakusan.app.train.rundir import RunDir
from kakusan.checkpoint import load_model
from kakusan.core.model import Model
from kakusan.nets.lora import LoRA
from kakusan.part import KakusanError
from kakusan.training.stop import Stop

__all__ = ["base_of", "keep", "take_weights"]


def base_of(run: RunDir, start: str | Path | None, lora: LoRA | None) -> dict[str, str]:
    """What adapters are trained from, which has to be what the run began with; empty without adapters."""
    if lora is None:
        return {}
    if start is None:
        raise KakusanError("training.adapters: are trained beside a model: name it with --from MODEL")
    began = json.loads(run.environment.read_text("utf-8")).get("base") if run.environment.is_file() else None
    found = Base.read(start).origin()
    if began and began["hash"] != found["hash"]:
        raise KakusanError(f"{start}: is no longer the model that {run.path} began with; put it back as it was")
    return dict(began or found)


def keep(
    run: RunDir, project: Project, start: str | Path | None, seed: int, device: torch.device, shown: Progress,
    stop: Stop,
) -> bool:  # fmt: skip
    """Samples of the model that is started from, drawn once where they are asked for; False when stopped there."""
    words = project.settings["keep"]
    if not words or run.kept.is_file():
        return True
    if start is None:
        raise KakusanError(f"data.keep={words}: is for training that starts from a model: add --from MODEL")
    shown.start(0, "drawing what is kept", "sample")
    base = load(start, str(device))
    done = keeping.draw(run, base, words, seed, project.domain.size, lambda made, of: shown.update(made, of), stop)
    shown.stop()
    if not done:
        shown.note(f"stopped before training began. Go on with: kakusan resume {run.path}")
    return done


def take_weights(model: Model, start: str | Path, shown: Progress, whole: bool = False) -> None:
    """Start from another model's weights: all that fit by name and shape; what is new stays at its beginning.

    ``whole``: adapters are trained beside them, and nothing may be new.
    """
    source, _ = load_model(rundir.find_model(start))
    own, fitting = model.state_dict(), pasted(model, source)
    if not fitting:
        raise KakusanError(f"--from {start}: none of its weights fits this network; leave the network to --from")
    if whole and (odd := sorted(own.keys() - fitting.keys())):
        raise KakusanError(f"--from {start}: adapters need its very network, and {odd[0]} is new; add --lora 0")
    model.load_state_dict(fitting, strict=False)
    if len(fitting) < len(own):
        shown.note(f"started from {start}: {len(fitting)} of {len(own)} tensors; the others are new")
    else:
        shown.note(f"started from {start}")
