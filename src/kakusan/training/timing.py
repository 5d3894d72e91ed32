"""timing: how training is computed on this machine, precision and convolutions, as a few timed steps say."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from kakusan.catalog import build
from kakusan.core.batch import Batch
from kakusan.core.model import Model
from kakusan.core.objective import Objective
from kakusan.core.rng import Rng
from kakusan.nets import winograd
from kakusan.training.machine import autocast, wait
from kakusan.training.optim import Optim

__all__ = ["convolution", "precision", "settle", "time_steps", "timed", "unsettled"]

FASTER = 1.1  # bf16 is taken where it is this much faster
QUICKER = 1.05  # and Winograd's filtering where that is
Tree = dict[str, Any]
Sample = Callable[[int, Model], Batch]  # so many rows for that model


def time_steps(
    model: Model,
    objective: Objective,
    optim: Optim,
    batch: Batch,
    precision: str = "auto",
    rounds: int = 3,
    teacher: Model | None = None,
) -> float:
    """Least seconds of a training step after the first, which pays for set-up; the weights are spoilt by it.

    The least, since what else the machine does can only lengthen a step.
    """
    model.train()
    optimiser = optim.build(model)
    rng = Rng(range(len(batch.x0)), batch.x0.device)
    cast = autocast(batch.x0.device, precision)
    taken = []
    for step in range(rounds + 1):
        begun = time.perf_counter()
        with cast():
            loss = objective.loss(model, batch, rng, step, teacher).mean()
        loss.backward()
        with cast():
            optimiser.step()
        optimiser.zero_grad()
        wait(batch.x0.device)
        taken.append(time.perf_counter() - begun)
    return min(taken[1:])


def timed(
    tree: Tree, sample: Sample, device: torch.device, precision: str, teacher: Model | None = None
) -> tuple[float, int]:
    """Seconds a step and number of parameters of a candidate; those of encoders, most of them words that a picture
    does not have, do not ask for more pictures."""
    with torch.random.fork_rng(devices=[]):
        model = build(tree["model"], "model")
    objective = build(tree["training"]["objective"], "training.objective")
    optim = build(tree["training"]["optim"], "training.optim")
    assert isinstance(model, Model) and isinstance(objective, Objective) and isinstance(optim, Optim)
    model.to(device).to(memory_format=torch.channels_last)
    parameters = sum(p.numel() for p in model.denoiser.parameters())
    if tree["training"].get("convolution") == "winograd":
        winograd.install(model.denoiser.net)
        teacher = None if teacher is None else winograd.install(copy.deepcopy(teacher))
    batch = sample(int(tree["training"]["batch"]), model)
    seconds = time_steps(model, objective, optim, batch, precision, teacher=teacher)
    return seconds, parameters


def precision(tree: Tree, sample: Sample, device: torch.device, teacher: Model | None = None) -> str:
    """bf16 autocast where this CPU is clearly faster with it, twice in turns; "auto" elsewhere.

    Without the instructions oneDNN emulates it slowly, and with them it can still be slower than fp32; one disturbed
    timing could make it look fast.
    """
    if device.type != "cpu":
        return "auto"
    if not _knows_half():
        return "fp32"
    for _ in range(2):
        plain, half = (timed(tree, sample, device, p, teacher)[0] for p in ("fp32", "bf16"))
        if half * FASTER >= plain:
            return "fp32"
    return "bf16"


def convolution(tree: Tree, sample: Sample, device: torch.device, direct: float, teacher: Model | None = None) -> float:
    """Seconds a step as the convolutions of a candidate are faster, ``direct`` or by Winograd's filtering (not timed
    where no layer is wide enough); written into the tree."""
    tree["training"]["convolution"] = "direct"
    if not _wide(tree):
        return direct
    other = {"model": tree["model"], "training": tree["training"] | {"convolution": "winograd"}}
    seconds = timed(other, sample, device, tree["training"]["precision"], teacher)[0]
    if seconds * QUICKER >= direct:
        return direct
    tree["training"]["convolution"] = "winograd"
    return seconds


def unsettled(tree: Tree, device: torch.device) -> bool:
    """Whether the recipe leaves open how 3x3 convolutions are computed, and there is a choice."""
    training = tree["training"]
    return "convolution" not in training and device.type == "cpu" and training.get("precision") != "bf16"


def settle(
    tree: Tree, sample: Sample, device: torch.device, teacher: Model, say: Callable[[str], None] = lambda words: None
) -> None:
    """Write into a student's recipe how it and its teacher are computed on a CPU, where it does not say: in bf16, and
    3x3 convolutions by Winograd's filtering, if a few steps are faster so."""
    if device.type != "cpu":
        return
    training, filters = tree["training"], unsettled(tree, device) and _wide(tree)
    if filters or ("precision" not in training and _knows_half()):
        say(f"timing a few steps on {device} ...")
    if "precision" not in training:
        training["precision"] = precision(tree, sample, device, teacher)
    if filters and unsettled(tree, device):
        convolution(tree, sample, device, timed(tree, sample, device, training["precision"], teacher)[0], teacher)


def _knows_half() -> bool:
    """Whether oneDNN has bf16 for this CPU."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _wide(tree: Tree) -> bool:
    """Whether the network has a layer that Winograd's filtering is for."""
    with torch.device("meta"):
        net = build(tree["model"]["denoiser"]["net"], "model.denoiser.net")
    assert isinstance(net, nn.Module)
    return bool(winograd.layers(net))
