"""Project: from a path to data ready for training: source, domain, cache, split, batches, facts for the plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from kakusan.app.command.show import Progress
from kakusan.app.train import paired, spatial, styled, suiting
from kakusan.catalog import build, find
from kakusan.conditions.prompt import escape
from kakusan.conditions.words import counted, learn
from kakusan.core.batch import Batch
from kakusan.core.model import Model
from kakusan.domains.augment import Affine
from kakusan.domains.domain import Domain
from kakusan.domains.image import Image
from kakusan.domains.latent import Latent, seen
from kakusan.part import KakusanError, Spec
from kakusan.training import enlarging
from kakusan.training.cache import Cache, build_cache
from kakusan.training.captions import PROMPT, Captions
from kakusan.training.data import Batches, Dataset
from kakusan.training.feed import on_device
from kakusan.training.latents import Latents
from kakusan.training.maps import beside
from kakusan.training.pairs import Pairs
from kakusan.training.plan import Facts
from kakusan.training.source import Source
from kakusan.training.watch import HeldOut

__all__ = ["DATA", "SMALL", "Project", "open_project", "project_of"]

SMALL = 5000  # pictures; below this they are augmented
HELD = 1024  # pictures kept aside, at most
READ = 100_000  # pictures whose captions the vocabulary is learnt from, at most
DATA: dict[str, Any] = {  # the [data] section of a recipe and its defaults
    "path": "",
    "labels": "auto",
    "classes": None,
    "fields": None,
    "captions": "auto",
    "fit": "crop",
    "flip": False,
    "size": None,
    "held_out": None,
    "augment": None,
    "upscale": None,
    "masks": False,
    "control": None,
    "pairs": None,
    "style_image": None,
    "crop": None,
    "prompt": None,
    "label": None,
    "keep": None,
}


@dataclass(frozen=True)
class Project:
    """Everything about the data of a run."""

    settings: dict[str, Any]  # the [data] section, complete
    source: Source
    domain: Image
    cache: Cache
    train: Dataset
    held: Dataset | None
    augment: Affine | None
    latents: Latents | None = None  # where it is trained in an autoencoder's latent

    @property
    def diffused(self) -> Image | Latent:
        """The domain that a model of these data has: the pictures', or the latent they are seen through."""
        return self.domain if self.latents is None else self.latents.latent

    @cached_property
    def facts(self) -> Facts:
        return Facts(
            count=len(self.train),
            shape=self.diffused.blank(1)[0],
            sigma_data=self.diffused.sigma_data,
            domain=self.diffused.spec(),
            level=enlarging.LEVEL if self.settings["upscale"] else self.diffused.level,
            classes=list(self.train.classes) if self.train.labels is not None else [],
            called=self.source.called,
            augment=Affine.parameters if self.augment else 0,
            fields={name: column.spec() for name, column in self.train.fields.items()},
            vocabulary=self._vocabulary(),
            spatial=spatial.specs(self.settings, self.domain, self.train.maps, self.diffused.blank(1)[0][0]),
            upscale=int(self.settings["upscale"] or 0),
        )

    @property
    def crop(self) -> int:
        """The side of the pieces that are trained on, 0 = whole pictures."""
        return int(self.settings["crop"] or 0)

    def _vocabulary(self) -> str:
        return "" if self.train.texts is None else learn(self._said())

    def _said(self) -> Iterator[str]:
        """The captions trained on; so many of them, where they are more."""
        texts = self.train.texts
        if texts is not None and len(captioned := texts.captioned()):
            for i in captioned[_spread(len(captioned), READ)]:
                yield from texts.all(int(i))

    def worded(self, tree: dict[str, Any]) -> dict[str, Any]:
        """A recipe whose encoder of words, where it is of a kind that lists words in its own way, has those of the
        captions."""
        encoder: Spec | None = tree["model"].get("encoders", {}).get(PROMPT)
        listed = None if encoder is None else getattr(find(encoder["kind"], f"encoders.{PROMPT}"), "listed", None)
        if listed is not None:
            tree["model"]["encoders"][PROMPT] = listed(encoder, self._words, self.facts.vocabulary)
        return tree

    @cached_property
    def _words(self) -> dict[str, int]:
        return counted(self._said())

    def captions(self, model: Model) -> Captions | None:
        """The captions as the model reads them; None where either has none."""
        texts = self.train.texts
        if texts is None or PROMPT not in model.encoders:
            return None
        return Captions(texts.names, model.encoder(PROMPT))

    @property
    def shown(self) -> Dataset:
        """The part whose conditions samples are drawn by: what is kept aside, where that has captions."""
        return self.train if self.held is None or _bare(self.held) else self.held

    def captioned(self, count: int) -> np.ndarray:
        """``count`` rows of that part that have a caption, spread over it, some twice where they are fewer."""
        assert self.shown.texts is not None
        rows = self.shown.texts.captioned()
        return rows[_spread(len(rows), count)][np.arange(count) % min(len(rows), count)]

    def asked(self, count: int) -> dict[str, list[Any]]:
        """Conditions to draw ``count`` samples by: the captions of pictures kept aside (where none are, of those
        trained on) with their labels; without captions the classes in turn."""
        part = self.shown
        if part.texts is None or _bare(part):
            return {"label": [i % len(part.classes) for i in range(count)]} if part.labels is not None else {}
        rows = self.captioned(count)
        cond: dict[str, list[Any]] = {PROMPT: [escape(str(part.texts[int(i)])) for i in rows]}
        if part.labels is not None:
            cond["label"] = [int(n) if n >= 0 else None for n in part.labels[rows]]
        return cond

    def batches(
        self,
        batch: int,
        seed: int,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
        reference: int = 0,
        captions: Captions | None = None,
    ) -> Batches:
        """The training batches of a run on its device, or one process's blocks of them."""
        device = torch.device(device)
        # a second thread on a CPU takes its time from the training itself (0.7 times the speed, measured);
        # for other devices it reads and pins the next batches while they work
        ahead = 0 if device.type == "cpu" else 2
        flip = bool(self.settings["flip"])
        return Batches(
            self.train, self.domain, batch, seed, flip, self.augment, device=device, rank=rank, world=world,
            ahead=ahead, reference=reference, captions=captions, latents=self.latents, crop=self.crop,
        )  # fmt: skip

    def held_out(
        self, batch: int, seed: int, rank: int = 0, world: int = 1, captions: Captions | None = None
    ) -> HeldOut | None:
        """Pictures kept aside, and as many of those trained on, as the training loop watches them."""
        if self.held is None:
            return None
        size = max(1, min(batch, len(self.held)) // world) * world
        twins = self.train.subset(_spread(len(self.train), len(self.held)))
        made = [
            Batches(
                part,
                self.domain,
                size,
                seed,
                rank=rank,
                world=world,
                ahead=0,
                captions=captions,
                latents=self.latents,
                crop=self.crop,
            )
            for part in (self.held, twins)
        ]
        return HeldOut(made[0], made[1], max(1, len(self.held) // size))

    def some(self, count: int, held: bool = False) -> torch.Tensor:
        """Up to ``count`` pictures, spread over the data, as the model sees them: (n, C, H, W)."""
        part = self.held if held and self.held is not None else self.train
        return self.domain.floats(part.rows(_spread(len(part), count)))

    def sample_batch(self, batch: int, device: torch.device, model: Model | None = None) -> Batch:
        """One training batch for a model on the device, for timing; without one, of pictures alone."""
        batches = self.batches(batch, 0, device, captions=None if model is None else self.captions(model))
        try:
            return on_device(batches.at(0), device)
        finally:
            batches.close()

    def sheet(self) -> dict[str, Any]:
        """What the report says about the data."""
        found = self.source.describe()
        return {
            "path": found["path"],
            "kind": found["kind"],
            "pictures": len(self.cache),
            "trained on": len(self.train),
            "held out": 0 if self.held is None else len(self.held),
            "size": f"{self.domain.width} x {self.domain.height} pixels, {self.domain.mode}, {self.domain.depth} bits",
            "classes": len(self.train.classes) if self.train.labels is not None else 0,
            "left out": len(self.cache.broken),
            "fingerprint": self.cache.fingerprint[:16],
        }


def _spread(total: int, count: int) -> np.ndarray:
    """Row numbers spread evenly over a data set."""
    return np.unique(np.linspace(0, total - 1, min(total, count)).astype(np.int64))


def open_project(
    settings: dict[str, Any],
    progress: Progress,
    domain: dict[str, Any] | None = None,
    latent: Latent | None = None,
    encoders: dict[str, Spec] | None = None,
    alone: bool = False,
) -> Project:
    """Read the data of a run; ``domain`` (a spec) is used instead of one fitted to the data, as in resume.

    ``latent``: what the pictures are seen through; they have to be of its kind, and of its size unless another is
    asked for. ``encoders``: those of the model that is trained on, which classes and captions are to suit; ``alone``:
    it gets no others.
    """
    chosen = DATA | settings
    unknown = sorted(set(chosen) - set(DATA))
    if unknown:
        raise KakusanError(f"[data] {unknown[0]}: not known; it takes {', '.join(DATA)}")
    if chosen["captions"] not in ("auto", "none"):
        raise KakusanError(f"--captions {chosen['captions']}: auto (read them where there are any) or none")
    chosen = spatial.settled(chosen)
    source, pairs = paired.opened(chosen)
    styles = styled.groups(source, chosen)
    if chosen["captions"] == "none":
        source.texts = None
    suiting.name_classes(source, chosen["classes"] or (), progress.once)
    if encoders is not None:
        suiting.suit(source, chosen, encoders, alone, progress.once)
    for note in source.notes:
        progress.once(note)
    _tell_captions(source, progress)
    if domain is None:
        size = chosen["size"] or (spatial.size(source.sample(64), chosen) if chosen["upscale"] else None)
        fitted = Image.fit(source.sample(512), size=size, fit=chosen["fit"])
        if latent is not None:
            latent = _fitting(latent, fitted, chosen)
            fitted = _pictures(latent)
    else:
        built = _pictures(latent) if latent is not None else build(domain, "model.domain")
        if isinstance(built, Latent):
            raise KakusanError("model.domain is an autoencoder's latent: name its file, --latent RUN_OR_FILE")
        if not isinstance(built, Image):
            raise KakusanError(f"model.domain is {built.kind!r}; this version trains pictures (domain/image)")
        fitted = built
    if encoders is not None:
        suiting.as_drawn(source, fitted, progress.once)
    chosen["crop"] = spatial.crop(chosen, fitted)
    cache = _cached(source, fitted, progress)
    if pairs is not None:
        return _of_pairs(pairs, chosen, source, fitted, paired.pinned(cache, pairs), latent, progress)
    data = Dataset.of(source, cache)
    if chosen["control"] not in (None, spatial.EDGES):
        data = replace(data, maps=beside(source, cache, str(chosen["control"]), fitted))
    if styles is not None:
        data = styled.paired(data, styles[np.asarray(cache.rows)], chosen, fitted, progress)
    train, held = _split(data, chosen["held_out"])
    small = len(train) < SMALL if chosen["augment"] is None else bool(chosen["augment"])
    augment = Affine(transparent=fitted.mode == "RGBA") if small else None
    latents = None
    if latent is not None:
        latents = Latents(latent, fitted, cache.pixels, bool(chosen["flip"]), keep=augment is None)
    return Project(chosen, source, fitted, cache, train, held, augment, latents)


def _of_pairs(
    pairs: Pairs, chosen: dict[str, Any], source: Source, domain: Image, cache: Cache, latent: Latent | None,
    progress: Progress,
) -> Project:  # fmt: skip
    latents = None if latent is None else Latents(latent, domain, cache.pixels, bool(chosen["flip"]))
    train, held = paired.parts(pairs, chosen, cache, domain, latents, progress)
    if held is not None:
        held = held.subset(_spread(len(held), HELD))
    else:
        train, held = _split(train, chosen["held_out"])
    return Project(chosen, source, domain, cache, train, held, None, latents)


def project_of(domain: Domain, settings: dict[str, Any], progress: Progress) -> Project:
    """The data as a model of this domain has them."""
    return open_project(settings, progress, seen(domain).spec(), domain if isinstance(domain, Latent) else None)


def _pictures(latent: Latent) -> Image:
    """The pictures that a latent is of."""
    if not isinstance(latent.domain, Image):
        raise KakusanError(f"the autoencoder is one of {latent.domain.kind}; this version trains pictures")
    return latent.domain


def _fitting(latent: Latent, fitted: Image, chosen: dict[str, Any]) -> Latent:
    """The latent for the data at hand; refused where it was trained on pictures of another kind or size."""
    own = _pictures(latent)
    if (own.mode, own.channels, own.depth) != (fitted.mode, fitted.channels, fitted.depth):
        raise KakusanError(
            f"--latent: that autoencoder is of {own.mode} pictures ({own.channels} channels, {own.depth} bits), the "
            f"data are {fitted.mode} ({fitted.channels}, {fitted.depth}): train one on them with --autoencoder"
        )
    if fitted.size != own.size and chosen["size"] is None:
        theirs, ours = (f"{d.width} x {d.height}" for d in (fitted, own))
        raise KakusanError(
            f"--latent: that autoencoder is of pictures of {ours}, the data are {theirs}: bring them to its size with "
            f"--size {min(own.size)}, or train one on them with --autoencoder"
        )
    return latent.replace(domain=own.replace(size=list(fitted.size), fit=chosen["fit"]))


def _tell_captions(source: Source, progress: Progress) -> None:
    """What does not fit together; all of it: kakusan data check."""
    for (count, names), words in (
        (source.uncaptioned(), "pictures have no caption and teach what is drawn without a prompt"),
        (source.astray, "captions belong to no picture and are left out"),
    ):
        if count:
            progress.once(f"{count:,} {words}, first {names[0]!r}")


def _bare(part: Dataset) -> bool:
    """Whether no picture of a part has a caption."""
    return part.texts is None or not len(part.texts.captioned())


def _cached(source: Source, domain: Image, progress: Progress) -> Cache:
    total = len(source)
    if total > 2000:
        progress.start(total, "reading", "picture")
    cache = build_cache(source, domain, progress=lambda done, of, broken: progress.update(done, of))
    progress.stop()
    for name, reason in cache.broken[:5]:
        progress.warn(f"left out: {name}: {reason}")
    if len(cache.broken) > 5:
        progress.warn(
            f"left out: {len(cache.broken)} pictures in all; the whole list: kakusan data check {source.path}"
        )
    return cache


def _split(data: Dataset, share: float | None) -> tuple[Dataset, Dataset | None]:
    """5% of a small set, at most 1,024 pictures of a large one, are kept aside."""
    if share is None:
        share = min(0.05, HELD / len(data))
    if share == 0 or len(data) < 20:
        return data, None
    train, held = data.split(float(share))
    return train, held
