"""Fine-tuning: a training that starts from a model, in full or by adapters beside its weights.

The model brings its network, process, conditions, sampling defaults and domain (an autoencoder with it); the data are
fitted to them. How few pictures are trained on, and why adapters are the default there: docs/how-to/fine-tune.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kakusan.app.draw.shipped import shipped
from kakusan.app.train import keeping, rundir
from kakusan.app.train import recipe as recipes
from kakusan.catalog import build
from kakusan.checkpoint import load_model, read_info
from kakusan.conditions.label import Label
from kakusan.distillation.imitation import DENOISING
from kakusan.domains.augment import Affine
from kakusan.domains.domain import Domain
from kakusan.domains.latent import Latent, seen
from kakusan.part import KakusanError, Spec
from kakusan.training import instructing
from kakusan.training.captions import PROMPT
from kakusan.training.plan import Facts
from kakusan.training.source import open_source

__all__ = ["FEW", "STEPS", "Base", "Way", "way"]

FEW = 50  # pictures; of fewer, adapters are trained unless something else is said
RANK = 8
STEPS = 200  # of few pictures, where neither steps nor minutes are said
BATCH = 16  # of few pictures, at most
LR = 1e-3  # of adapters
SPATIAL = ("upscale", "masks", "control", "pairs", "style_image")  # what brings a condition that the model has not
LOWER = {"kind": "optim/muon", "lr": 1e-3, "lr_rest": 7e-4}  # of all weights on few pictures: a tenth of the plan's

Tree = dict[str, Any]


@dataclass(frozen=True)
class Base:
    """The model to start from, as its file describes it."""

    said: str  # by its user
    path: Path
    spec: Spec
    hash: str

    @staticmethod
    def read(start: str | Path) -> Base:
        """Refuses what cannot be gone on from."""
        path = rundir.find_model(start)
        about = read_info(path)
        spec = about["spec"]
        if "denoiser" not in spec:
            raise KakusanError(f"--from {start}: holds a {spec.get('kind')!r}, not a model to go on from")
        student = about["info"].get("distilled") or {}
        if student and student.get("method") not in DENOISING:
            raise KakusanError(f"--from {start}: is a student of few steps; start from {student['teacher']}")
        return Base(str(start), path, spec, str(about["hash"]))

    @property
    def encoders(self) -> dict[str, Spec]:
        return dict(self.spec.get("encoders") or {})

    def origin(self) -> dict[str, str]:
        """What a file of adapters says of it."""
        run = self.path.name == "model.safetensors" and self.path.resolve().parent.name
        known = self.said if self.said in shipped() else None
        name, file = known or run or self.path.stem, known or str(self.path.resolve())
        return {"name": name, "file": file, "hash": self.hash}

    def knows(self, data: Mapping[str, Any]) -> bool:
        """Whether it was trained on these data."""
        file = self.path.parent / "recipe.toml"
        if self.path.name != "model.safetensors" or not file.is_file():
            return False
        own = recipes.read(file).get("data", {}).get("path")
        return own is not None and Path(str(own)).resolve() == Path(str(data["path"])).resolve()

    def domain(self, size: int | None, fit: str | None, device: torch.device) -> tuple[Spec | None, Latent | None]:
        """The pictures' domain, and the autoencoder in whose latent they are diffused where there is one; at another
        size where that is asked for."""
        latent = None
        built = build(self.spec["domain"], "model.domain") if self.spec.get("domain") else None
        if isinstance(built, Latent):
            latent = load_model(self.path, device)[0].domain
            assert isinstance(latent, Latent)
            built = latent
        if not isinstance(built, Domain):
            raise KakusanError(f"--from {self.said}: that model has no domain of pictures to fit the data to")
        pictures = seen(built)
        if size is not None:
            pictures = pictures.resized((size, size))
        if fit is not None and "fit" in pictures.signature().parameters:
            pictures = pictures.replace(fit=fit)
        return pictures.spec(), None if latent is None else latent.replace(domain=pictures)


@dataclass(frozen=True)
class Way:
    """How a model is fine-tuned: ``rank`` of adapters (0: all weights are trained), on ``few`` pictures or many."""

    base: Base
    few: bool
    rank: int
    told: bool = False  # whether it becomes a model that follows instructions
    styled: bool = False  # whether it takes the style from a picture

    @property
    def encoders(self) -> dict[str, Spec]:
        """The conditions that stay; a model that follows instructions takes words and the picture alone, and one that
        takes the style from a picture has it in the place of classes."""
        return {
            name: own
            for name, own in self.base.encoders.items()
            if not (self.told and name != PROMPT) and not (self.styled and own["kind"] == Label.kind)
        }

    def settings(self, data: Tree) -> Tree:
        """The [data] section: what the model decides under what its user said."""
        asked = next((name for name in SPATIAL if data.get(name)), None)
        if self.rank and asked is not None:
            raise KakusanError(
                f"--{asked.replace('_', '-')} is learnt by all weights: with --from {self.base.said} add --lora 0"
            )
        low = next((e for e in self.base.encoders.values() if e["kind"] == "condition/low-resolution"), None)
        if low is not None and not data.get("upscale"):
            raise KakusanError(f"--from {self.base.said}: enlarges pictures: add --upscale {low['factor']} --lora 0")
        if data.get("keep") is not None:
            keeping.check(data["keep"], self.base.encoders)
        given = {k: v for k, v in data.items() if v is not None}
        return self._augment() | ({"held_out": 0.0} if self.few else {}) | given

    def _augment(self) -> Tree:
        """Data are augmented where the model was told of it in its training: else it would leak."""
        known = self.base.encoders.get("augment")
        return {} if known and known["size"] == Affine.parameters else {"augment": False}

    def tree(self, facts: Facts, data: Mapping[str, Any]) -> Tree:
        """What is laid over the plan: the model, its data facts checked, and how it is trained."""
        spec, channels = self.base.spec, self.base.spec["denoiser"]["net"].get("channels")
        if channels != facts.shape[0]:
            raise KakusanError(
                f"--from {self.base.said}: that model has {channels} channels, the data {facts.shape[0]} "
                f"({facts.domain['kind']})"
            )
        mine = self.encoders
        apart = [name for name, own in facts.fields.items() if name in mine and own != mine[name]]
        lost = apart or [name for name in facts.fields if name not in mine]
        if self.rank and lost:
            raise KakusanError(
                f"data.fields={lost[0]}: the model to start from knows no such values; leave it out, or --lora 0"
            )
        encoders = {name: own for name, own in mine.items() if name not in apart}
        defaults = dict(spec.get("defaults") or {})
        defaults = instructing.settings(defaults) if self.told else defaults
        model: Tree = {"denoiser": spec["denoiser"], "encoders": encoders, "defaults": defaults}
        return {"model": model, "training": self._training(facts.count, bool(data.get("keep")))}

    def _training(self, count: int, keeps: bool) -> Tree:
        """Batches of few pictures are small, all of their run's rates lower; kept samples double a batch."""
        batch = min(BATCH if self.few else 64, max(4, count)) * (2 if keeps else 1)
        made: Tree = {"batch": batch} if self.few or keeps else {}
        if keeps or self.few or self.rank:
            made |= {"reference": 0}  # means of few pictures, or of one half of a batch, steady nothing
        if self.few:
            made |= {"optim": dict(LOWER), "previews": 4, "ema": [0.05]}
        if self.rank:
            adapters = {"kind": "adapters/lora", "rank": self.rank, "alpha": float(self.rank)}
            made |= {"optim": {"kind": "optim/adamw", "lr": LR}, "weak": 0.0, "adapters": adapters}
        return made

    def steps(self, minutes: float | None, steps: int | None, recipe: Mapping[str, Any]) -> int | None:
        """How many, where nobody says how long: few pictures are learnt before ten minutes are over."""
        said = minutes is not None or steps is not None or recipe.get("steps") or recipe.get("minutes")
        return STEPS if self.few and not said else steps


def way(start: str | Path, data: Mapping[str, Any], lora: int | None, recipe: Mapping[str, Any]) -> Way:
    """By what is asked and how many pictures there are."""
    if lora is not None and lora < 0:
        raise KakusanError(f"--lora {lora}: a rank of 1 or more; 0 trains all weights")
    base = Base.read(start)
    few = not data.get("pairs") and not base.knows(data)  # else it goes on with what it was doing, or learns another
    few = few and len(open_source(str(data["path"]), labels=str(data.get("labels") or "auto"))) < FEW
    said = recipe.get("adapters")
    spatial = any(data.get(name) for name in SPATIAL)
    rank = lora if lora is not None else int(said["rank"]) if said else RANK if few and not spatial else 0
    if PROMPT not in base.encoders and data.get("prompt") is not None:
        raise KakusanError(f"--prompt {data['prompt']!r}: {start} reads no words; leave it out")
    return Way(base, few, rank, bool(data.get("pairs")), bool(data.get("style_image")))
