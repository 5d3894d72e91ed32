"""plan: from the data, the time and the machine to a network and the settings of a run that ends complete in that time.

A few candidate networks are timed on this machine for a few steps; the largest one that still sees enough pictures in
the time is taken. The rules and their constants are measured, see docs/explanation/planning.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from kakusan.catalog import build
from kakusan.core.batch import Batch
from kakusan.core.model import Model
from kakusan.part import Spec
from kakusan.training import enlarging, instructing, timing
from kakusan.training.captions import PROMPT
from kakusan.training.pairs import SOURCE
from kakusan.training.references import STYLE

__all__ = ["Facts", "Plan", "make"]

NEED = 120_000  # pictures that a network should see for each million of its parameters
ROUGH = 12_000  # fewer than this and shapes stay loose, whatever the network
BATCH = 64
AUTOGUIDANCE = 2.0  # away from the average at a quarter of the run: fewer broken shapes for twice the evaluations
REFERENCE = 4096  # pictures that stable targets are means of ...
NUMBERS = 8 << 20  # ... of so many numbers in all, at most
GUIDANCE = 2.0  # of models with classes or captions: short training learns them weakly, and this makes up for it
USED = 0.9  # of the time asked goes into steps, the rest into planning, previews, checks and the report


@dataclass(frozen=True)
class Facts:
    """What the plan depends on."""

    count: int  # pictures to train on
    shape: tuple[int, ...]  # (C, H, W)
    sigma_data: float
    domain: Spec
    classes: list[str] = field(default_factory=list)
    called: str = "label"  # what the classes are of
    augment: int = 0  # numbers that say how a picture was augmented; 0 = not at all
    fields: dict[str, Spec] = field(default_factory=dict)  # encoders of the data's numbers and tags, by name
    vocabulary: str = ""  # of the captions; empty = there are none
    spatial: dict[str, Spec] = field(default_factory=dict)  # encoders of pictures as conditions, by name
    level: float | None = None  # mean of ln(sigma/alpha) to train at, where the data know it
    upscale: int = 0  # times that the model enlarges small pictures; 0 = it draws

    @property
    def vector(self) -> int:
        """Width of the network's vector port."""
        own = sum(int(spec["dim"]) for spec in self.fields.values()) + (TEXT if self.vocabulary else 0)
        own += sum(int(spec.get("dim", 0)) for spec in self.spatial.values())
        return (LABEL if self.classes else 0) + own + (AUGMENT if self.augment else 0)

    @property
    def instructed(self) -> bool:
        """Whether the model changes a picture as it is told."""
        return SOURCE in self.spatial

    @property
    def rows(self) -> str:
        """What the rows of the data are called."""
        return "pairs" if self.instructed else "pictures"

    @property
    def guided(self) -> bool:
        """Whether there is a condition that one weight of guidance is for."""
        return bool(self.classes or self.fields or self.vocabulary) or STYLE in self.spatial

    @property
    def tokens(self) -> int:
        """Width of the network's port for tokens."""
        return TOKENS if self.vocabulary else 0


LABEL, AUGMENT, TEXT = 64, 32, 64  # widths of the vector conditions
TOKENS = 128  # width of each word


@dataclass(frozen=True)
class Plan:
    """The tree to train (sections model and training of a recipe) and what to expect of it."""

    model: Spec
    training: Spec
    timings: list[dict[str, Any]]  # the candidates: parameters, seconds a step
    figures: dict[str, Any]
    warnings: list[str]


def networks(facts: Facts, device: torch.device) -> list[Spec]:
    """Candidates, the smallest first: the picture is folded to 16 or so pixels a side where the trunk works."""
    side = max(facts.shape[1:])
    unshuffle = 1 if side <= 16 else 2 if side <= 64 else 4 if side <= 128 else 8
    base = math.ceil(side / unshuffle)
    mults, attention = ([1, 1, 1], [2]) if base <= 16 else ([1, 1, 1, 1], [2, 3])
    widths = [32, 48, 64, 80, 96, 128, 160]
    if device.type != "cpu":
        widths = [w * 2 for w in widths]
    found: list[Spec] = [
        {
            "kind": "net/unet",
            "channels": facts.shape[0],
            "width": width,
            "mults": mults,
            "blocks": 2,
            "attention": attention,
            "unshuffle": unshuffle,
            "vector": facts.vector,
            "tokens": facts.tokens,
            "activations": 1,
        }
        for width in widths
    ]
    return enlarging.networks(found, facts.upscale) if facts.upscale else found


def model_spec(facts: Facts, net: Spec) -> Spec:
    """The whole model around a network: variance-exploding noise, Karras's parametrisation, labels and captions if
    there are any."""
    encoders: dict[str, Spec] = {}
    if facts.classes:
        encoders["label"] = {"kind": "condition/label", "classes": facts.classes, "dim": LABEL, "called": facts.called}
    encoders |= facts.fields | facts.spatial
    if facts.vocabulary:
        text = {"vocabulary": facts.vocabulary, "tokens": TOKENS, "dim": TEXT}
        encoders[PROMPT] = {"kind": "condition/text", **text}
    if facts.augment:
        encoders["augment"] = {"kind": "condition/vector", "size": facts.augment, "dim": AUGMENT, "null": "zero"}
    defaults: Spec = {
        "solver": {"kind": "solver/dpm2m"},
        "grid": {"kind": "grid/karras", "k_min": 0.01, "k_max": 80.0},
        "steps": 20,
        "guidance": GUIDANCE if facts.guided else 1.0,
        "autoguidance": AUTOGUIDANCE,
        "eta": 0.0,
    }
    defaults = enlarging.settings(defaults) if facts.upscale else defaults
    return {
        "kind": "model",
        "denoiser": {
            "kind": "denoiser",
            "net": net,
            "process": {"kind": "process/ve"},
            "param": {"kind": "param/karras", "sigma_data": facts.sigma_data},
            "space": {"kind": "space/flat"},
        },
        "domain": facts.domain,
        "encoders": encoders,
        "defaults": instructing.settings(defaults) if facts.instructed else defaults,
    }


def noise_level(facts: Facts) -> float:
    """Mean of ln(sigma/alpha) in training: -0.5 at 32 pixels, more noise for larger pictures, whose shapes survive it.

    EDM's -1.2 (for 32 pixels and days of training) leaves shapes and classes to the few noisiest draws: at minutes of
    training they stay loose. ``facts.level`` is where something else is known to be right.
    """
    if facts.level is not None:
        return facts.level
    return round(-0.5 + 0.3 * math.log2(max(facts.shape[1:]) / 32), 2)


def training_spec(facts: Facts, steps: int | None, minutes: float | None, seed: int) -> Spec:
    """The settings that measured best on this project's data sets at minutes to an hour."""
    spec: Spec = {
        "kind": "training",
        "objective": {
            "kind": "objective/denoising",
            "density": {"kind": "density/log-normal", "mean": noise_level(facts), "std": 1.4},
            "weight": {"kind": "weight/edm", "sigma_data": facts.sigma_data},
            "dropout": 0.1,
        },
        "optim": {"kind": "optim/muon", "lr": 0.01, "lr_rest": 0.007},
        "batch": min(BATCH, max(4, facts.count)),
        "reference": 0 if facts.augment or facts.spatial else min(REFERENCE, NUMBERS // math.prod(facts.shape)),
        "steps": steps,
        "minutes": minutes,
        "seed": seed,
    }
    spec = enlarging.training(spec) if facts.upscale else spec
    return instructing.training(spec) if facts.instructed else spec


def make(
    facts: Facts,
    sample: Callable[[int, Model], Batch],
    *,
    minutes: float | None,
    steps: int | None,
    seed: int,
    device: torch.device,
    overlay: Callable[[dict[str, Any]], dict[str, Any]] = lambda tree: tree,
    say: Callable[[str], None] = lambda words: None,
) -> Plan:
    """Time the candidates and choose; ``sample(n, model)`` gives a batch, ``overlay`` lays the user's recipe over a
    tree."""
    timings: list[dict[str, Any]] = []
    chosen: dict[str, Any] | None = None
    precision: str | None = None
    for net in networks(facts, device):
        tree = overlay({"model": model_spec(facts, net), "training": training_spec(facts, steps, minutes, seed)})
        if chosen is not None and tree["model"]["denoiser"]["net"] == chosen["model"]["denoiser"]["net"]:
            break  # the recipe names the network: nothing to choose
        if precision is None:
            build(tree["training"], "training")  # what it refuses, it refuses before anything is timed or written
            precision = tree["training"].get("precision") or timing.precision(tree, sample, device)
        tree["training"]["precision"] = precision
        seconds, parameters = timing.timed(tree, sample, device, precision)
        if timing.unsettled(tree, device):
            seconds = timing.convolution(tree, sample, device, seconds)
        batch = int(tree["training"]["batch"])
        limit = tree["training"].get("minutes")
        seen = 60 * limit * USED / seconds * batch if limit else int(tree["training"].get("steps") or 1) * batch
        fits = seen >= NEED * parameters / 1e6
        row = {"parameters": parameters, "rate": batch / seconds, "seen": int(seen), "fits": fits}
        timings.append(row)
        how = ", convolutions by Winograd" if tree["training"].get("convolution") == "winograd" else ""
        say(f"{parameters / 1e6:.1f}M parameters: {batch / seconds:,.0f} pictures/s in {precision}{how}")
        if chosen is None or fits:
            chosen, figures = tree, row
        if not fits:
            break
    assert chosen is not None
    return Plan(
        chosen["model"], chosen["training"], timings, _figures(facts, chosen, figures), _warnings(facts, figures)
    )


def _figures(facts: Facts, tree: dict[str, Any], timing: dict[str, Any]) -> dict[str, Any]:
    parameters, emas = timing["parameters"], len(tree["training"].get("ema", (0, 0, 0)))
    return {
        "parameters": parameters,
        "pictures_per_second": timing["rate"],
        "pictures_seen": timing["seen"],
        "epochs": timing["seen"] / max(1, facts.count),
        "steps": timing["seen"] // int(tree["training"]["batch"]),
        "disk": (parameters + _beside(tree))
        * 4
        * (2 * (4 + emas) + 2),  # two checkpoints of weights, optimiser, averages, weak self; the model
    }


def _beside(tree: dict[str, Any]) -> int:
    """Parameters of the encoders, and of an autoencoder that the model carries."""
    with torch.device("meta"):
        parts = [build(spec, f"model.encoders.{name}") for name, spec in tree["model"].get("encoders", {}).items()]
        parts.append(build(tree["model"]["domain"], "model.domain"))
    return sum(p.numel() for part in parts if isinstance(part, nn.Module) for p in part.parameters())


def _warnings(facts: Facts, timing: dict[str, Any]) -> list[str]:
    seen, out = timing["seen"], []
    if seen < ROUGH:
        more = math.ceil(ROUGH / max(seen, 1))
        out.append(
            f"the time is short: about {seen:,} pictures will be seen; expect blurred or broken shapes. "
            f"About {more} times as long gives clear ones"
        )
    elif not timing["fits"]:
        out.append(
            f"about {seen:,} pictures will be seen: expect recognisable but rough samples; twice as long helps most"
        )
    if facts.count < 100:
        out.append(f"{facts.count} pictures are very few: the model will mostly copy them. A few hundred are a start")
    return out
