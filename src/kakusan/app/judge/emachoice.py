"""The length of the weights' average, chosen after training by pictures that were held out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kakusan.app.train import recipe as recipes
from kakusan.app.train.project import Project
from kakusan.catalog import build
from kakusan.checkpoint import load_model, save_model
from kakusan.core.model import Model
from kakusan.part import KakusanError
from kakusan.training import state
from kakusan.training.settings import Training

__all__ = ["Lengths", "choose", "lengths"]

SHIPPED = "as it is"
BATCH = 64
DRAWS = 4  # noise levels a picture


@dataclass(frozen=True)
class Lengths:
    """Held-out losses by length of the average; ``better``: each one's loss minus the shipped one's, +- its error."""

    losses: dict[str, float]
    better: dict[str, tuple[float, float]]
    chosen: str
    count: int
    states: dict[str, dict[str, Tensor]]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"losses": self.losses, "better": self.better, "chosen": self.chosen, "count": self.count}


def lengths(file: Path, project: Project, say: Callable[[str], None], stop: Callable[[], bool]) -> Lengths | None:
    """The loss on held-out pictures of every average that the run beside ``file`` kept, on the same noise for all.

    The model's own weights are among them. None when asked to stop on the way. Raises KakusanError where there is no
    run with a state, or nothing held out.
    """
    run = file.parent
    saved = state.load(run / "state", say) if (run / "state").is_dir() and (run / "recipe.toml").is_file() else None
    if saved is None:
        raise KakusanError(f"--choose-ema {file}: needs the run that made it, with its state/ folder beside the file")
    if project.held is None:
        raise KakusanError("--choose-ema: no pictures are held out; the data has fewer than 20, or held_out is 0")
    training = build(recipes.read(run / "recipe.toml")["training"], "training")
    assert isinstance(training, Training)
    model, _ = load_model(file)
    own = {n: p.detach() for n, p in model.named_parameters() if not n.startswith("weak.")}
    states = {SHIPPED: own}
    for name, tensor in saved.groups["ema"].items():
        width, _, parameter = name.partition("/")
        states.setdefault(f"{float(width):g}", {})[parameter] = tensor
    for width, tensors in states.items():
        if tensors.keys() != own.keys():
            raise KakusanError(f"--choose-ema {file}: the run's average {width} is of another network than this file's")
    held = project.held_out(BATCH, training.seed, captions=project.captions(model))
    assert held is not None
    bare = copy.deepcopy(model)
    bare.weak = None
    losses = {}
    for width, tensors in states.items():
        bare.load_state_dict(tensors, strict=False)
        found = _losses(bare, training, held.held, held.count, stop)
        if found is None:
            return None
        losses[width] = found
    means = {w: float(v.mean()) for w, v in losses.items()}
    better = {}
    for width, each in losses.items():
        apart = each - losses[SHIPPED]
        better[width] = (float(apart.mean()), float(apart.std() / len(apart) ** 0.5))
    chosen = min(means, key=lambda w: (means[w], w != SHIPPED))
    return Lengths(means, better, chosen, held.count * min(BATCH, len(project.held)), states)


@torch.inference_mode()
def _losses(model: Model, training: Training, batches: Any, count: int, stop: Callable[[], bool]) -> Tensor | None:
    """The loss of each draw, on fixed pictures and noise."""
    model.eval()
    found = []
    for draw in range(DRAWS):
        for i in range(count):
            if stop():
                return None
            terms, _ = training.objective.terms(model, batches.at(i), batches.rng(i), i + draw * count)
            found.append(terms.double())
    return torch.cat(found)


def choose(file: Path, found: Lengths) -> bool:
    """Writes the chosen average into the model's file, atomically; False where the file has it already."""
    if found.chosen == SHIPPED:
        return False
    own, mine = found.states[SHIPPED], found.states[found.chosen]
    if all(torch.equal(own[n], mine[n].to(own[n])) for n in own):
        return False
    model, info = load_model(file)
    model.load_state_dict(mine, strict=False)
    known = {k: v for k, v in info.items() if k not in ("hash", "parameters")}
    known["training"] = dict(known.get("training") or {}) | {"ema_width": float(found.chosen)}
    save_model(file, model, known)
    return True
