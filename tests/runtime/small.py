"""A model that is small and wholly random, so that every layer and condition matters; 9 x 11 pixels."""

from __future__ import annotations

import torch

from kakusan.catalog import build
from kakusan.core.model import Model

LABEL = {"kind": "condition/label", "classes": ["cat", "dog"], "dim": 4}
NUMBERS = {"kind": "condition/vector", "size": 5, "dim": 4}
AUGMENT = {"kind": "condition/vector", "size": 3, "dim": 4, "null": "zero"}


def model(net: str = "net/unet", encoders: dict | None = None, weak: bool = False, seed: int = 0, **settings) -> Model:
    """Labels, five numbers and augmentation's parameters, unless ``encoders`` says otherwise."""
    known = {"label": LABEL, "numbers": NUMBERS, "augment": AUGMENT} if encoders is None else encoders
    own = {"kind": net, "channels": 1, "width": 16, "heads": 2, "vector": sum(e["dim"] for e in known.values())}
    sizes = {"mults": [1, 2], "blocks": 1, "attention": [1], "unshuffle": 2} if net == "net/unet" else {"depth": 1}
    denoiser = {
        "kind": "denoiser", "net": own | sizes | settings, "process": {"kind": "process/vp", "schedule": "cosine"},
        "param": {"kind": "param/karras"}, "space": {"kind": "space/flat"},
    }  # fmt: skip
    tree = {
        "kind": "model", "denoiser": denoiser, "domain": {"kind": "domain/image", "size": [9, 11], "mode": "L"},
        "encoders": known, "defaults": {"guidance": 2.0, "steps": 10, "autoguidance": 1.5},
    }  # fmt: skip
    if weak:
        tree["weak"] = {"kind": "model", "denoiser": denoiser, "encoders": known}
    torch.manual_seed(seed)
    made = build(tree)
    assert isinstance(made, Model)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return made.eval()
