"""A small model with every kind of part, to be written to files."""

from __future__ import annotations

import torch

from kakusan.conditions.label import Label
from kakusan.core.denoiser import Denoiser
from kakusan.core.model import Model
from kakusan.core.param import Karras
from kakusan.core.process import VE
from kakusan.core.space import Flat
from kakusan.nets.unet import UNet


def small(seed: int = 0) -> Model:
    """A U-Net of a few thousand weights with two classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = UNet(1, width=8, mults=[1, 2], blocks=1, attention=[1], heads=2, vector=4)
        return Model(Denoiser(net, VE(), Karras(), Flat()), None, {"label": Label(["a", "b"], 4)}, {"steps": 7})
