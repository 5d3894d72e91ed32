"""Dataset and Batches: which pictures a run sees at which step, as pure functions of its seed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from kakusan.core.batch import Batch, Inputs
from kakusan.core.rng import Rng, mix
from kakusan.domains.augment import Affine
from kakusan.domains.image import Image
from kakusan.part import KakusanError
from kakusan.training.cache import Cache, hash_of
from kakusan.training.captions import PROMPT, Captions
from kakusan.training.fields import Column
from kakusan.training.latents import Latents
from kakusan.training.maps import Maps
from kakusan.training.pairs import Pairs, Sources
from kakusan.training.references import STYLE, References
from kakusan.training.source import Source, Texts

__all__ = ["Batches", "Dataset"]

KEPT = 64  # steps that one set of reference pictures serves


@dataclass(frozen=True)
class Dataset:
    """Rows of a cache with their labels and captions; views share the pixels."""

    pixels: np.ndarray  # (N, H, W, C), memory-mapped
    hashes: np.ndarray  # (N,) uint64 of the pixels
    index: np.ndarray | None = None  # (n,) rows of ``pixels`` in this view, None = all
    labels: np.ndarray | None = None  # (n,) int32, -1 = none
    classes: tuple[str, ...] = ()
    texts: Texts | None = None
    fields: dict[str, Column] = field(default_factory=dict)
    maps: Maps | Sources | None = None
    references: References | None = None

    @classmethod
    def of(cls, source: Source, cache: Cache) -> Dataset:
        """A source's decoded pictures with its labels and captions."""
        whole = len(cache) == len(source)
        rows = np.asarray(cache.rows)
        labels = source.labels if whole or source.labels is None else source.labels[rows]
        texts = source.texts if whole or source.texts is None else source.texts.subset(rows)
        fields = source.fields if whole else {n: column.subset(rows) for n, column in source.fields.items()}
        return cls(cache.pixels, cache.hashes, None, labels, tuple(source.classes), texts, fields)

    @classmethod
    def of_pairs(cls, pairs: Pairs, cache: Cache, domain: Image, latents: Latents | None) -> Dataset:
        """A row a pair: its target with the instructions, and the source as an input."""
        maps = Sources(cache.pixels, pairs.sources, domain, latents)
        return cls(cache.pixels, cache.hashes, pairs.targets, texts=pairs.texts, maps=maps)

    @classmethod
    def arrays(cls, pixels: np.ndarray, labels: np.ndarray | None = None, classes: tuple[str, ...] = ()) -> Dataset:
        """A data set from fitted pictures (N, H, W, C) in memory."""
        rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
        hashes = np.array([hash_of(row) for row in rows], np.uint64)
        return cls(pixels, hashes, None, None if labels is None else labels.astype(np.int32), classes)

    def __len__(self) -> int:
        return len(self.pixels) if self.index is None else len(self.index)

    def places(self, at: np.ndarray) -> np.ndarray:
        """Rows of ``pixels`` that some of the view's rows are."""
        return at if self.index is None else self.index[at]

    def rows(self, at: np.ndarray) -> np.ndarray:
        """Pixels (len(at), H, W, C) of some of the view's rows, copied."""
        return self.pixels[self.places(at)]

    def pieces(self, at: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
        """Squares of some rows, (len(at), side, side, C), from their upper left ``corners`` (len(at), 2) on."""
        found = zip(self.places(at), corners.tolist(), strict=True)
        return np.stack([self.pixels[i, top : top + side, left : left + side] for i, (top, left) in found])

    def subset(self, at: np.ndarray) -> Dataset:
        """A view of some rows."""
        index = at if self.index is None else self.index[at]
        labels = None if self.labels is None else self.labels[at]
        texts = None if self.texts is None else self.texts.subset(at)
        fields = {name: column.subset(at) for name, column in self.fields.items()}
        maps = None if self.maps is None else self.maps.subset(at)
        references = None if self.references is None else self.references.subset(at)
        return replace(
            self, index=np.asarray(index), labels=labels, texts=texts, fields=fields, maps=maps, references=references
        )

    def split(self, held_out: float = 0.05, seed: int = 0) -> tuple[Dataset, Dataset]:
        """(training, held out), by each picture's content and the seed: exact duplicates stay on one side.

        Raises KakusanError when that leaves nothing to train on.
        """
        if not 0 < held_out < 1:
            raise KakusanError(f"held_out is {held_out!r}; it is a share between 0 and 1")
        hashes = np.asarray(self.hashes if self.index is None else self.hashes[self.index])
        with np.errstate(over="ignore"):
            keys = (hashes ^ np.uint64(mix(seed, "held out"))) * np.uint64(0x9E3779B97F4A7C15)
            keys = (keys ^ (keys >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
            keys ^= keys >> np.uint64(32)
        count = max(1, round(len(self) * held_out))
        held = keys <= np.partition(keys, count - 1)[count - 1]
        if held.all():
            raise KakusanError(
                f"all {len(self)} pictures are the same one: nothing can be held out; add other pictures"
            )
        return self.subset(np.flatnonzero(~held)), self.subset(np.flatnonzero(held))


class Batches:
    """Training batches: ``at(step)`` is a pure function of (seed, step), whatever was asked before.

    Every epoch is a permutation from (seed, epoch); step s covers positions [s batch, (s + 1) batch) of the endless
    row of epochs. ``batch`` is the global batch: rank r of ``world`` gets its r-th block of rows. ``flip`` mirrors
    half of the pictures; ``augment`` adds its parameters as the condition "augment". ``ahead`` batches are prepared in
    a thread beside the training. Pixels travel in the cache's own dtype, pinned for CUDA, and become floats there.
    ``reference``: so many other pictures come with every batch, for stable targets; they change every ``KEPT`` steps.
    Augmented pictures have none: each has a condition of its own. ``captions``, prepared, come as the condition
    "prompt": of a row that has several, one is drawn each epoch. ``latents``: the data in an autoencoder's latent,
    where that is what is trained on; each row's is drawn anew at every step. ``crop``: a square of
    that side, anywhere in the picture, in place of the whole.
    """

    def __init__(
        self,
        dataset: Dataset,
        domain: Image,
        batch: int,
        seed: int = 0,
        flip: bool = False,
        augment: Affine | None = None,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
        ahead: int = 2,
        reference: int = 0,
        captions: Captions | None = None,
        latents: Latents | None = None,
        crop: int = 0,
    ) -> None:
        if not len(dataset):
            raise KakusanError("the data set is empty: no batches can be made of it")
        if batch < 1 or batch % world:
            raise KakusanError(f"batch is {batch}; give a positive multiple of the {world} processes")
        self.dataset, self.domain, self.batch, self.seed = dataset, domain, batch, seed
        self.flip, self.augment, self.device, self.ahead = flip, augment, torch.device(device), ahead
        self.reference = 0 if augment or crop else min(reference, len(dataset))
        self.crop = crop
        self.captions = None if dataset.texts is None else captions
        self.latents = latents
        self._kept = latents is not None and latents.kept and augment is None
        share = batch // world
        self.global_rows = np.arange(rank * share, (rank + 1) * share)
        self._stratum = torch.from_numpy(self.global_rows / batch)
        self._orders: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._pending: dict[int, Future[_Host]] = {}
        self._references: tuple[int, Batch | None] = (-1, None)

    def epoch(self, step: int) -> float:
        """Passes over the data before ``step``."""
        return step * self.batch / len(self.dataset)

    def rows(self, step: int) -> np.ndarray:
        """This rank's rows of the data set at a step, (b,) int64."""
        epochs, places = self._places(step)
        out = np.empty(len(places), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            out[here] = self._order(int(epoch))[places[here]]
        return out

    def _places(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The epochs that this rank's rows belong to at a step, and their places in them."""
        at = np.int64(step) * self.batch + self.global_rows
        return at // len(self.dataset), at % len(self.dataset)

    def _order(self, epoch: int) -> np.ndarray:
        with self._lock:
            if epoch not in self._orders:
                key = mix(self.seed, "epoch", epoch)
                order = np.arange(len(self.dataset), dtype=np.uint32)
                np.random.Generator(np.random.Philox(key=key)).shuffle(order)
                self._orders = {e: o for e, o in self._orders.items() if abs(e - epoch) == 1}
                self._orders[epoch] = order
            return self._orders[epoch]

    def rng(self, step: int) -> Rng:
        """The draws of this rank's rows at a step; each belongs to (seed, step, global row)."""
        return Rng([mix(self.seed, "train", step, int(row)) for row in self.global_rows], self.device)

    def at(self, step: int) -> Batch:
        """The batch of a step, on the device, x0 contiguous in channels_last; the next ones are prepared meanwhile."""
        future = self._pending.pop(step, None)
        self._look_ahead(step)
        host = future.result() if future is not None else self._host(step)
        if self.device.type == "cpu":
            return self._made(host, step)
        host.pixels = host.pixels.to(self.device, non_blocking=True)
        return self._made(host, step)

    def __iter__(self) -> Iterator[Batch]:
        step = 0
        while True:
            yield self.at(step)
            step += 1

    def close(self) -> None:
        """Stop preparing batches; ``at`` starts it again."""
        pool, self._pool = self._pool, None
        for future in self._pending.values():
            future.cancel()
        self._pending.clear()
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def _look_ahead(self, step: int) -> None:
        if self.ahead < 1:
            return
        wanted = range(step + 1, step + 1 + self.ahead)
        for gone in [s for s in self._pending if s not in wanted]:
            self._pending.pop(gone).cancel()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        for s in wanted:
            if s not in self._pending:
                self._pending[s] = self._pool.submit(self._host, s)

    def _host(self, step: int) -> _Host:
        """What is prepared in the background: pixels, labels and captions, and on a CPU the finished tensors."""
        rows = self.rows(step)
        prompt = self._prompts(rows, [f"epoch {epoch}" for epoch in self._places(step)[0]])
        read = self._read(rows) if not self.crop else torch.from_numpy(_wide(self._pieces(rows, step)))
        host = _Host(read, self._labels(rows), self._fields(rows) | self._pictures(rows, step), prompt)
        if self.device.type == "cuda":
            host.pixels = host.pixels.pin_memory()
        if self.device.type == "cpu":
            host.done = self._finished(host.pixels, step)
        return host

    def _pieces(self, rows: np.ndarray, step: int) -> np.ndarray:
        room = np.array([n - self.crop + 1 for n in self.domain.size])
        corners = (self.rng(step).uniform("crop", 0, 2).numpy() * room).astype(np.int64)
        return self.dataset.pieces(rows, corners, self.crop)

    def _reference(self, step: int) -> Batch | None:
        """The pictures that come with a step's batch: the same on every rank, a function of (seed, step // KEPT)."""
        block = step // KEPT
        if self.reference and self._references[0] != block:
            key = mix(self.seed, "reference", block)
            rows = np.random.Generator(np.random.Philox(key=key)).integers(len(self.dataset), size=self.reference)
            draws = Rng([mix(self.seed, "reference", block, row) for row in range(len(rows))], self.device)
            x0, _ = self._seen(self._read(rows).to(self.device), draws)
            labels = self._labels(rows)
            inputs: Inputs = {} if labels is None else {"label": {"index": labels.to(self.device)}}
            inputs |= self._moved(self._fields(rows))
            prompt = self._prompts(rows, [f"reference {block} {i}" for i in range(len(rows))])
            if prompt is not None:
                inputs[PROMPT] = {name: value.to(self.device) for name, value in prompt.items()}
            self._references = block, Batch(x0.contiguous(), inputs=inputs)  # rows in one piece, to be multiplied by
        return self._references[1]

    def _fields(self, rows: np.ndarray) -> Inputs:
        return {name: column.inputs(rows) for name, column in self.dataset.fields.items()}

    def _pictures(self, rows: np.ndarray, step: int) -> Inputs:
        maps, references, out = self.dataset.maps, self.dataset.references, Inputs()
        if maps is not None:
            out[maps.name] = maps.inputs(rows, _turned(self.rng(step)) if self.flip else None)
        if references is not None:
            out[STYLE] = references.inputs(rows, self.rng(step))
        return out

    def _moved(self, inputs: Inputs) -> Inputs:
        return {n: {k: v.to(self.device, non_blocking=True) for k, v in i.items()} for n, i in inputs.items()}

    def _labels(self, rows: np.ndarray) -> Tensor | None:
        if self.dataset.labels is None:
            return None
        labels = self.dataset.labels[rows].astype(np.int64)
        return torch.from_numpy(np.where(labels < 0, len(self.dataset.classes), labels))

    def _prompts(self, rows: np.ndarray, when: list[str]) -> dict[str, Tensor] | None:
        """A caption of each row, prepared: of several, one drawn by seed, row and ``when``.

        Whatever varies captions in training (words left out, templates) belongs here, between the drawing and the
        preparing, as a function of the same three.
        """
        texts = self.dataset.texts
        if self.captions is None or texts is None:
            return None
        chosen = []
        for row, occasion in zip(rows, when, strict=True):
            numbers = texts.numbers(int(row))
            at = mix(self.seed, "caption", int(row), occasion) % len(numbers) if len(numbers) > 1 else 0
            chosen.append(int(numbers[at]) if len(numbers) else -1)
        return self.captions.inputs(np.array(chosen))

    def _read(self, rows: np.ndarray) -> Tensor:
        """Pixels (n, H, W, C) of some rows as they are kept, or what is kept of their latents."""
        if self.latents is not None and self._kept:
            return self.latents.rows(self.dataset.places(rows))
        return torch.from_numpy(_wide(self.dataset.rows(rows)))

    def _seen(self, read: Tensor, rng: Rng, augment: Affine | None = None) -> tuple[Tensor, Tensor | None]:
        """What ``_read`` gave as the model sees it, flipped, augmented, drawn; and the parameters of augmentation."""
        turned = _turned(rng) if self.flip else None
        if self.latents is not None and self._kept:
            return self.latents.drawn(read, turned, rng), None
        x0, value = self.domain.unpacked(read), None
        if turned is not None:
            x0 = torch.where(turned.to(x0.device, non_blocking=True)[:, None, None, None], x0.flip(3), x0)
        if augment is not None:
            x0, value = augment.apply(x0, rng)
        return x0 if self.latents is None else self.latents.latent.encode(x0, None, rng), value

    def _finished(self, read: Tensor, step: int) -> tuple[Tensor, Tensor | None]:
        if self.latents is None and not (self.flip or self.augment):
            return self.domain.unpacked(read), None
        x0, value = self._seen(read, self.rng(step), self.augment)
        return x0.contiguous(memory_format=torch.channels_last), value

    def _made(self, host: _Host, step: int) -> Batch:
        x0, value = host.done if host.done is not None else self._finished(host.pixels, step)
        inputs: Inputs = {}
        if host.labels is not None:
            inputs["label"] = {"index": host.labels.to(self.device, non_blocking=True)}
        inputs |= self._moved(host.fields)
        if host.prompt is not None:
            inputs[PROMPT] = {k: v.to(self.device, non_blocking=True) for k, v in host.prompt.items()}
        if value is not None:
            inputs["augment"] = {"value": value.to(self.device, non_blocking=True)}
        return Batch(x0, inputs=inputs, stratum=self._stratum, reference=self._reference(step))


def _wide(pixels: np.ndarray) -> np.ndarray:
    """16-bit pixels as int32, which torch can compute with."""
    return pixels.astype(np.int32) if pixels.dtype == np.uint16 else pixels


def _turned(rng: Rng) -> Tensor:
    """Which pictures are mirrored, (B,) bool on the CPU."""
    return rng.uniform("flip", 0)[:, 0] < 0.5


@dataclass
class _Host:
    pixels: Tensor  # (b, H, W, C) in the cache's dtype (16 bits as int32), or what is kept of latents
    labels: Tensor | None
    fields: Inputs
    prompt: dict[str, Tensor] | None = None  # the prepared captions
    done: tuple[Tensor, Tensor | None] | None = None  # x0 and augmentation, made in the background on a CPU
