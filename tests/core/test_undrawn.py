"""undrawn: modules of the same shapes without a draw, on the device ``meta`` without torch's compiler."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn

from kakusan.core.undrawn import undrawn

META = """
import sys, torch
from kakusan.conditions.table import TextTable
from kakusan.conditions.label import Label
from kakusan.conditions.spatial import LowResolution
from kakusan.core.undrawn import undrawn
from kakusan.nets.autoencoder import ConvAutoencoder
from kakusan.nets.dit import DiT
from kakusan.nets.unet import UNet
with torch.device("meta"), undrawn():
    TextTable("_a _red b", 2, width=8, tokens=8, dim=4), Label(["x"], 4), LowResolution(2, 3, dim=4), ConvAutoencoder(4)
    UNet(3, width=8, mults=[1, 2], attention=[1], tokens=8, vector=4), DiT(3, width=16, depth=1, heads=2, tokens=8)
assert "torch._dynamo" not in sys.modules, "it takes longer to import than a model to load"
"""


class Odd(nn.Module):
    """What constructors do: layers with draws of their own, others in place, and numbers that are no draw."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 4), nn.Conv2d(2, 3, 3), nn.Embedding(5, 4), nn.LayerNorm(4)])
        nn.init.xavier_uniform_(self.layers[0].weight)
        nn.init.zeros_(self.layers[0].bias)
        self.start = nn.Parameter(torch.randn(6).mul_(0.02))
        self.register_buffer("octaves", 2.0 ** torch.arange(4), persistent=False)


def test_nothing_is_drawn_and_what_is_no_draw_is_as_ever():
    drawn = Odd()
    before = torch.get_rng_state()
    with undrawn():
        bare = Odd()
    assert torch.equal(torch.get_rng_state(), before)
    assert {k: (v.shape, v.dtype) for k, v in bare.state_dict().items()} == {
        k: (v.shape, v.dtype) for k, v in drawn.state_dict().items()
    }
    assert torch.equal(bare.octaves, drawn.octaves) and not bare.layers[0].bias.any()
    assert torch.equal(bare.layers[3].weight, torch.ones(4))
    bare.load_state_dict(drawn.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(bare.parameters(), drawn.parameters()))
    torch.manual_seed(0)
    after = Odd()
    torch.manual_seed(0)
    assert torch.equal(after.start, Odd().start) and after.start.std() > 0, "outside the block it draws again"


def test_networks_and_conditions_are_built_on_meta_without_the_compiler():
    done = subprocess.run([sys.executable, "-c", META], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
