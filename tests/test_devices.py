"""Nothing assumes a CPU. On the "meta" device tensors have no values, so that whatever fetches one, and so makes
the host wait for a GPU, raises: the hot loops of training and sampling are run there whole."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from torch import nn

from kakusan.conditions.label import Label
from kakusan.conditions.scalar import Vector
from kakusan.core import grid, guide
from kakusan.core.batch import Batch
from kakusan.core.denoiser import Denoiser
from kakusan.core.model import Model
from kakusan.core.objective import EDM, Denoising, LogNormal
from kakusan.core.param import Karras
from kakusan.core.process import VE
from kakusan.core.rng import Rng
from kakusan.core.sample import run, sample, start
from kakusan.core.solver import DDIM, DPM2M, IPNDM, Heun, UniPC
from kakusan.core.space import Flat
from kakusan.nets.dit import DiT
from kakusan.nets.unet import UNet
from kakusan.training.ema import PowerEma
from kakusan.training.optim import AdamW, Muon
from kakusan.training.watch import Meter

SOURCE = Path(__file__).parents[1] / "src" / "kakusan"
UNET = {"width": 8, "mults": [1, 2], "blocks": 1, "attention": [1], "heads": 2}
DIT = {"patch": 2, "width": 16, "depth": 2, "heads": 2}
META = torch.device("meta")


def model_on_meta(net: str) -> Model:
    built = UNet(3, **UNET, vector=8, dropout=0.1) if net == "unet" else DiT(3, **DIT, vector=8, dropout=0.1)
    encoders = {"label": Label(["a", "b"], 4), "augment": Vector(2, 4, null="zero")}
    return Model(Denoiser(built, VE(), Karras(), Flat()), None, encoders).to(META)


@pytest.mark.parametrize("optim", [Muon(), AdamW()], ids=["muon", "adamw"])
@pytest.mark.parametrize("net", ["unet", "dit"])
def test_a_training_step_never_waits_for_the_device(net, optim):
    model = model_on_meta(net)
    optimiser, ema, meter = optim.build(model), PowerEma(model, [0.05, 0.1]), Meter(META)
    inputs = {
        "label": {"index": torch.zeros(4, dtype=torch.long, device=META)},
        "augment": {"value": torch.zeros(4, 2, device=META)},
    }
    x0 = torch.zeros(4, 3, 12, 12, device=META).contiguous(memory_format=torch.channels_last)
    stratum = torch.arange(4, dtype=torch.float64) / 4
    for step in range(2):
        rng = Rng(range(4), META)
        loss, lam = Denoising(LogNormal(), EDM()).terms(model, Batch(x0, None, inputs, stratum), rng, step)
        assert loss.device == META and lam.device.type == "cpu"
        loss.mean().backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        meter.add(loss, lam, torch.isfinite(norm))
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        ema.update(step + 1)


@pytest.mark.parametrize("solver", [DDIM(), Heun(), DPM2M(), UniPC(), IPNDM()], ids=lambda s: s.kind)
def test_sampling_never_waits_for_the_device(solver):
    model = model_on_meta("unet").eval()
    rng, process = Rng(range(3), META), model.denoiser.process
    times = grid.climb(grid.Karras().times(4, process), process, 0.5)
    shapes = [(3, 10, 10)] * 3
    label = model.encoder("label").prepare(["a", "b", None])
    conds = [model.cond({}, {}, 3), model.cond({"label": label}, {}, 3)]
    denoise = guide.ClassifierFree(2.0)(model.branches(conds))
    x = start(times, process, Flat(), shapes, rng)
    with torch.no_grad():
        x = run(sample(denoise, x, times, solver, process, Flat(), rng, shapes))
    assert x.device == META and x.shape == (3, 3, 10, 10)


FETCHES = {"cpu", "item", "numpy", "tolist", "cuda"}
ALLOWED = {  # (file, method): where waiting is the point, or the tensor lives on the CPU
    ("core/space.py", "tolist"),  # lengths of masked samples, to draw each at its own shape
    ("core/process.py", "numpy"),
    ("training/loop.py", "tolist"),  # once every log_every steps
    ("training/watch.py", "tolist"),
}


@pytest.mark.parametrize("package", ["core", "nets", "conditions"])
def test_no_stray_transfers_in_the_source(package):
    found = set()
    files = [
        *(SOURCE / package).glob("*.py"),
        *(SOURCE / "training" / f"{n}.py" for n in ("loop", "running", "moments", "watch", "ema", "optim")),
    ]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FETCHES:
                found.add((str(path.relative_to(SOURCE)), node.func.attr))
    assert found <= ALLOWED, f"new transfers to the host: {sorted(found - ALLOWED)}"
