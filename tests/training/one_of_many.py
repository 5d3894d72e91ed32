"""One process of a training of a small U-Net that may be shared by several; started by test_ranks.py.

``python one_of_many.py FOLDER '[["name", {"steps": 20, ...}], ...]'`` trains in FOLDER/name, one after the other, and
prints a line of JSON for each; process R leaves its weights of run N in FOLDER/name/N-R.safetensors.
A third argument: the seconds that a step may take.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kakusan.conditions.label import Label
from kakusan.core.batch import Batch, Cond
from kakusan.core.denoiser import Denoiser
from kakusan.core.model import Model
from kakusan.core.objective import EDM, Denoising, LogNormal
from kakusan.core.param import Karras
from kakusan.core.process import VE
from kakusan.core.space import Flat
from kakusan.domains.image import Image
from kakusan.nets.unet import UNet
from kakusan.part import KakusanError
from kakusan.training import ranks as module
from kakusan.training.data import Batches, Dataset
from kakusan.training.hooks import Hooks, Result
from kakusan.training.loop import run
from kakusan.training.optim import AdamW, Muon
from kakusan.training.ranks import ALONE, Lost, Ranks, join
from kakusan.training.settings import Training
from kakusan.training.watch import HeldOut

CLASSES = ("a", "b", "c")
DOMAIN = Image([8, 8], "L")


class Watched(Label):
    """A label that also notes which classes it has seen lately, as encoders of pictures note their statistics."""

    kind = "condition/label-watched"

    def __init__(self, classes: list[str], dim: int) -> None:
        super().__init__(classes, dim)
        self.lately = nn.Parameter(torch.zeros(()), requires_grad=False)

    def followed(self) -> list[Tensor]:
        return [self.lately]

    def forward(self, inputs: dict[str, Tensor], keep: Tensor) -> Cond:
        if self.training:
            with torch.no_grad():
                self.lately.lerp_(inputs["index"].float().mean(), 0.1)
        return super().forward(inputs, keep)


class Hurt(Batches):
    """Batches whose process comes to harm at a step: a signal, or a picture that is not finite."""

    harm: tuple[str, int] = ("", -1)

    def at(self, step: int) -> Batch:
        made, (kind, when) = super().at(step), self.harm
        if step == when and kind == "nan":
            made.x0[0] = torch.nan
        elif step == when and kind:
            os.kill(os.getpid(), getattr(signal, kind))
            time.sleep(0.05)
        return made


def pictures(count: int, seed: int) -> Dataset:
    draw = np.random.default_rng(seed)
    small = draw.uniform(0, 255, (count, 4, 4, 1))
    return Dataset.arrays(np.kron(small, np.ones((1, 2, 2, 1))).astype(np.uint8), draw.integers(0, 3, count), CLASSES)


def model(dropout: float) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        net = UNet(1, width=16, mults=[1, 2], blocks=1, attention=[1], vector=16, dropout=dropout)
        return Model(Denoiser(net, VE(), Karras(0.5), Flat()), DOMAIN, {"label": Watched(list(CLASSES), dim=16)})


def train(folder: Path, wish: dict[str, Any], ranks: Ranks = ALONE, hooks: Hooks | None = None) -> Result:
    """A training as ``wish`` says; "harm": [rank, kind, step]."""
    optim = {"muon": Muon(lr=0.01, lr_rest=0.007), "adamw": AdamW()}[wish.get("optim", "muon")]
    length = {"minutes": wish["minutes"]} if "minutes" in wish else {"steps": wish.get("steps", 20)}
    settings = Training(
        Denoising(LogNormal(), EDM(0.5), dropout=0.1), optim, batch=16, log_every=wish.get("every", 1),
        previews=3, evaluations=3, precision="fp32", warmup=wish.get("warmup", 20), **length,
    )  # fmt: skip

    def batches(data: Dataset, seed: int = 0, size: int = 16) -> Hurt:
        return Hurt(data, DOMAIN, size, seed, flip=True, ahead=0, rank=ranks.rank, world=ranks.world)

    data, who = batches(pictures(200, 1)), wish.get("harm")
    if who and who[0] == ranks.rank:
        data.harm = (who[1], who[2])
    held = HeldOut(batches(pictures(16, 2)), batches(pictures(16, 1)), 1)
    net = model(wish.get("dropout", 0.0))
    if ranks.rank:
        with torch.no_grad():
            for p in net.parameters():
                p.add_(1.0)  # of no account: the first process's weights are the ones
    return run(net, data, settings, folder, hooks=hooks, held_out=held, resume=wish.get("resume", False), ranks=ranks)


def main() -> None:
    folder, jobs = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(1)
    if len(sys.argv) > 3:
        module.STEP = timedelta(seconds=float(sys.argv[3]))
    try:
        with join() as ranks:
            for number, (name, wish) in enumerate(jobs):
                print(json.dumps(report(folder / name, wish, ranks, number)), flush=True)
    except Lost as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def report(folder: Path, wish: dict[str, Any], ranks: Ranks, number: int) -> dict[str, Any]:
    try:
        result = train(folder, wish, ranks)
    except Lost:
        raise
    except KakusanError as error:
        return {"error": str(error), "told": getattr(error, "told", False)}
    weights = {n: t.contiguous() for n, t in result.model.state_dict().items()}
    save_file(weights, folder / f"{number}-{ranks.rank}.safetensors")
    return {"interrupted": result.interrupted, "step": result.step, "loss": result.loss}


if __name__ == "__main__":
    main()
