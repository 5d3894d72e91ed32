"""Export: a model with its sampler in another runtime's format, verified on the spot or not kept at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kakusan.core.guide import Guide
from kakusan.core.model import Model
from kakusan.core.solver import Solver
from kakusan.domains.latent import Latent
from kakusan.files import write_json
from kakusan.part import KakusanError
from kakusan.runtime import engines, int8
from kakusan.runtime.bundle import seal
from kakusan.runtime.engines import Run
from kakusan.runtime.formats import FORMATS
from kakusan.runtime.graph import COEFFICIENTS, Condition, Decoder, Graph
from kakusan.runtime.table import Row, rows
from kakusan.runtime.verify import Checked, verify

__all__ = ["FORMATS", "Branch", "Exported", "Sampling", "export", "table"]

DECODER = "decoder"
_HOW = [
    "x = start * N(0, 1), of shape (batch, *shape). Then for every entry of steps, in order:",
    "x0 = sum over branches of weights[j] * network(x, coefficients, conditions), but for weights of 0;",
    "past = [x0, *past]; x = a * x + sum of b[i] * past[i] (+ noise * N(0, 1) where noise is not 0).",
    "Every one of a step's coefficients goes into the network as (batch,) equal numbers; conditions named in a "
    "branch's none, and those that nobody asks for, get the value none. After the last step x is the sample; where "
    "there is a decoder, decoder(z = x) is, of shape (batch, *pictures).",
]


@dataclass(frozen=True)
class Branch:
    """One estimate that guidance weighs: by the model or its weak earlier self, with some conditions left out."""

    network: str = "model"  # or "weak"
    none: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sampling:
    """How to sample: what the table is made of. ``settings`` are recorded as they stand."""

    solver: Solver
    times: Tensor
    guide: Guide
    branches: tuple[Branch, ...] = (Branch(),)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def networks(self) -> list[str]:
        """The networks that are used: "model" first, and "weak" where a branch asks for it."""
        return sorted({branch.network for branch in self.branches})


@dataclass(frozen=True)
class Exported:
    """What was written, and how far it is from PyTorch (or another ``peer``)."""

    path: Path
    files: dict[str, str]  # name -> SHA-256
    checked: Checked
    peer: str = "PyTorch"
    int8: Mapping[str, Any] | None = None  # where networks were rounded: distances, layers, speed

    def words(self) -> str:
        """What was checked, a line each."""
        return "\n".join([self.checked.words(self.peer), *([int8.words(self.int8)] if self.int8 else [])])


def table(model: Model, sampling: Sampling, shape: tuple[int, ...], files: Mapping[str, str]) -> dict[str, Any]:
    """Everything that a host needs beside the networks, as plain data."""
    found = rows(model.denoiser, sampling.solver, sampling.times, sampling.guide)
    conditions = Graph(model).conditions
    timed = [c for c in conditions if c.timed]
    steps = [row.dict() | _landing(model, timed, row) for row in found]
    return {
        "format": 1,
        "how": _HOW,
        "shape": list(shape),
        "pictures": list(_pictures(model, shape)),
        "decoder": DECODER if DECODER in files else None,
        "start": float(model.denoiser.process.scales(sampling.times[0])[1]),
        "coefficients": [*COEFFICIENTS, *(name for c in timed for name in c.keys)],
        "memory": max(len(row["b"]) for row in steps),
        "networks": dict(files),
        "branches": [{"network": b.network, "none": list(b.none)} for b in sampling.branches],
        "conditions": {c.name: c.dict() for c in conditions if not c.timed},
        "steps": steps,
        "settings": dict(sampling.settings),
        "domain": model.domain.spec() if model.domain is not None else None,
    }


def export(
    model: Model,
    sampling: Sampling,
    shape: tuple[int, ...],
    kind: str,
    out: Path,
    ledger: Path,
    about: Mapping[str, Any],
    say: Callable[[str], None] = lambda words: None,
    threads: int = 0,
    rounded: int8.Judge | None = None,
) -> Exported:
    """Write ``out``: the networks as ``kind`` (a key of ``FORMATS``), table.json and manifest.json; new or not at all.

    Everything is written beside its place and checked there against PyTorch: one evaluation and a whole sample. What
    fails is deleted. With ``rounded``, the judge of it, the networks are then rounded to int8.
    """
    if out.exists():
        raise KakusanError(f"--out {out}: exists already, and exports overwrite nothing; choose another name")
    chosen = FORMATS[kind]
    chosen.check(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        graphs = {name: Graph(model if name == "model" else _weak(model)) for name in sampling.networks}
        runs: dict[str, Run] = {}
        for name, graph in graphs.items():
            say(f"writing {name} as {kind} ...")
            runs[name] = chosen.write(graph, shape, temporary / f"{name}{chosen.suffix}", threads)
        truth = {name: engines.pytorch(graph) for name, graph in graphs.items()}
        if isinstance(model.domain, Latent):
            say(f"writing {DECODER} as {kind} ...")
            decoder = Decoder(model.domain).eval()
            runs[DECODER] = chosen.write(decoder, shape, temporary / f"{DECODER}{chosen.suffix}", threads)
            truth[DECODER] = engines.pytorch(decoder)
        made = table(model, sampling, shape, {name: f"{name}{chosen.suffix}" for name in runs})
        say("comparing with PyTorch: one evaluation, one whole sample ...")
        checked = verify(made, truth, runs, model, sampling)
        found = None
        if rounded is not None:
            nets = {name: graph.model.denoiser.net for name, graph in graphs.items()}
            found = int8.replace(temporary, made, nets, runs, rounded, say, threads)
        write_json(temporary / "table.json", made)
        told = dict(about) | {"format": 1, "kind": kind, "checked": checked.dict()}
        files = seal(temporary, told | ({"int8": found} if found else {}), ledger)
        temporary.chmod(0o755)
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return Exported(out, files, checked, int8=found)


def _landing(model: Model, timed: Sequence[Condition], row: Row) -> dict[str, float]:
    """What a step tells the conditions that have to know where it lands, by the names of the graph's inputs."""
    lam, end = (model.denoiser.process.logsnr(torch.tensor([at], dtype=torch.float64)) for at in (row.t, row.s))
    found = {}
    for condition in timed:
        told = model.encoder(condition.name).between(lam, end)
        found |= {name: float(told[key]) for name, key in condition.keys.items()}
    return found


def _pictures(model: Model, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what is drawn: that of the noise, or what the decoder makes of it."""
    if not isinstance(model.domain, Latent):
        return shape
    autoencoder = model.domain.autoencoder
    return (autoencoder.channels, *(n * autoencoder.factor for n in shape[1:]))


def _weak(model: Model) -> Model:
    if model.weak is None:
        raise KakusanError("this model has no weak model beside it: export without autoguidance")
    return model.weak
