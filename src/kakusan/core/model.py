"""Encoder and Model: the root of the spec tree; a denoiser with the conditions it understands and its data's domain."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kakusan.core.batch import Batch, Cond, Inputs, joined
from kakusan.core.denoiser import Denoiser
from kakusan.core.guide import Branches
from kakusan.core.rng import Rng
from kakusan.part import KakusanError, Part

__all__ = ["Encoder", "Model"]


class Encoder(Part, nn.Module, abc.ABC):
    """One condition: users' values to tensors once, and those to a ``Cond`` at every step. It owns its learned null."""

    droppable = True  # whether training replaces it by its null at times; False where null means something of its own
    drawn = False  # whether training makes it of the pictures themselves (``draw``): batches bring nothing of it
    guided = True  # whether one weight for all conditions is its weight too; else it is in all branches, or has its own
    leading = False  # whether guidance goes by it first, from nothing, and from it to the others (``guide/chain``)
    needed = False  # whether there is nothing to sample without it
    timed = False  # whether it says where a step lands: told anew at every evaluation (``between``), by no user

    @abc.abstractmethod
    def prepare(self, values: list[Any]) -> dict[str, Tensor]:
        """One value a sample (a label, a caption; None = none) to tensors (B, ...), without parameters."""

    def caption(self, text: str | None) -> dict[str, Tensor]:
        """A caption of training data (None = none) to tensors (1, ...), as ``prepare`` does what users say."""
        return self.prepare([text])

    def overlong(self, text: str) -> bool:
        """Whether ``caption`` leaves the end of a text out."""
        return False

    def stack(self, rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Prepared inputs of single samples as those of a batch."""
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    def widened(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Prepared inputs at the one length that an exported network takes; the same, where all are of one shape."""
        return inputs

    def remarks(self, value: Any) -> list[str]:
        """What is worth saying about a user's value before it is drawn, one line each; nothing, by default."""
        return []

    def draw(self, x0: Tensor, inputs: dict[str, Tensor], rng: Rng) -> dict[str, Tensor]:
        """What is random about this condition in training (masks, low resolution, its noise); nothing, by default."""
        return inputs

    def same(self, inputs: dict[str, Tensor], others: dict[str, Tensor]) -> Tensor | None:
        """Which of the others' (R) conditions equal each row's (B), (B, R) bool; None where equality says nothing."""
        return None

    def between(self, lam_t: Tensor, lam_s: Tensor) -> dict[str, Tensor]:
        """What a timed condition is told of falls from log-SNR lam_t to lam_s, (B,) each; nothing, by default."""
        return {}

    def followed(self) -> list[Tensor]:
        """What is no gradient's but follows the batches, as running means: processes that share a training take the
        mean of theirs after every step. Nothing, by default."""
        return []

    @abc.abstractmethod
    def forward(self, inputs: dict[str, Tensor], keep: Tensor) -> Cond:
        """Prepared inputs (B, ...); keep (B,) bool, False = the learned null in that row's place."""

    def null(self, batch: int) -> dict[str, Tensor]:
        """Inputs of ``batch`` samples without this condition."""
        return self.prepare([None] * batch)


class Model(Part, nn.Module):
    """Everything needed to sample: denoiser, domain, encoders by name and the sampling defaults.

    ``domain`` is any part (the core knows no modality). ``defaults`` are the sampling settings used where none is
    asked for: ``{"solver": spec, "grid": spec, "steps": int, "guidance": float, ...}``. ``weak``: an earlier state of
    the same model, with a denoiser and encoders of its own, that autoguidance leads away from.
    """

    kind = "model"

    def __init__(
        self,
        denoiser: Denoiser,
        domain: Part | None = None,
        encoders: Mapping[str, Encoder] | None = None,
        defaults: Mapping[str, Any] | None = None,
        weak: Model | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.domain = domain
        given = dict(encoders or {})  # files keep no order of names, and the ports are joined in this one
        self.encoders = nn.ModuleDict({n: given[n] for n in sorted(given, key=lambda n: (given[n].timed, *_place(n)))})
        self.timed = next((name for name in self.encoders if given[name].timed), None)
        self.defaults = dict(defaults or {})
        self.weak = weak

    def beside(self, weak: Model) -> Model:
        """This model with ``weak`` for autoguidance: the same modules, not copies."""
        bare = Model(weak.denoiser, encoders=_encoders(weak))
        return Model(self.denoiser, self.domain, _encoders(self), self.defaults, bare).train(self.training)

    def encoder(self, name: str) -> Encoder:
        """The encoder of a condition, by its name."""
        if name not in self.encoders:
            raise KakusanError(f"this model knows no condition {name!r}; it has: {', '.join(self.encoders) or 'none'}")
        found = self.encoders[name]
        assert isinstance(found, Encoder)
        return found

    def cond(self, inputs: Inputs, keep: Mapping[str, Tensor], batch: int, mask: Tensor | None = None) -> Cond:
        """All conditions of a batch as one ``Cond``; an encoder without inputs, or with keep False, gives its null."""
        for name in inputs:
            self.encoder(name)
        conds = []
        device = next(self.parameters()).device if self.encoders else None
        for name in self.encoders:
            encoder = self.encoder(name)
            given = inputs.get(name)
            kept = keep.get(name)
            if given is None:
                given, kept = encoder.null(batch), torch.zeros(batch, dtype=torch.bool)
            elif kept is None:
                kept = torch.ones(batch, dtype=torch.bool)
            given = {k: v.to(device, non_blocking=True) for k, v in given.items()}
            conds.append(encoder(given, kept.to(device, non_blocking=True)))
        return Cond.merge(conds, mask)

    def drawn(self, batch: Batch, rng: Rng) -> Batch:
        """The batch with what is random about its conditions drawn; those made of the pictures themselves are added."""
        given: Inputs = {name: {} for name in self.encoders if self.encoder(name).drawn} | batch.inputs
        return replace(batch, inputs={n: self.encoder(n).draw(batch.x0, value, rng) for n, value in given.items()})

    def branches(self, conds: list[Cond]) -> Branches:
        """One batched evaluation of all condition branches: ``branches(x, t, s)`` gives one estimate of x0 for each;
        ``which`` evaluates some of them only."""
        joint = {tuple(range(len(conds))): _stack(conds)}

        def evaluate(x: Tensor, t: Tensor, s: Tensor, which: tuple[int, ...] | None = None) -> tuple[Tensor, ...]:
            chosen = tuple(range(len(conds))) if which is None else which
            if chosen not in joint:
                joint[chosen] = _stack([conds[i] for i in chosen])
            count = len(chosen)
            repeated = x if count == 1 else x.repeat(count, *[1] * (x.ndim - 1))
            time = t.repeat(count) if t.ndim else t
            cond = self.landing(joint[chosen], time, s.repeat(count) if s.ndim else s)
            return tuple(self.denoiser(repeated, time, cond).chunk(count))

        return evaluate

    def landing(self, cond: Cond, t: Tensor, s: Tensor) -> Cond:
        """``cond`` told that this step falls from t to s, () or (B,), where the model has a timed condition, of which
        the vector's last columns are; else as it is."""
        if self.timed is None or cond.vector is None:
            return cond
        encoder, vector = self.encoder(self.timed), cond.vector
        lams = [self.denoiser.process.logsnr(v).expand(len(vector)) for v in (t, s)]
        told = {k: v.to(vector.device, non_blocking=True) for k, v in encoder.between(*lams).items()}
        own = encoder(told, torch.ones(len(vector), dtype=torch.bool, device=vector.device)).vector
        assert own is not None
        return replace(cond, vector=torch.cat([vector[:, : -own.shape[1]], own.to(vector.dtype)], 1))


def _place(name: str) -> tuple[bool, str]:
    """By name, augmentation last (as models were trained before an order was fixed); what is timed comes after it."""
    return name == "augment", name


def _encoders(model: Model) -> dict[str, Encoder]:
    return {name: model.encoder(name) for name in model.encoders}


def _stack(conds: list[Cond]) -> Cond:
    """Conditions of several branches along the batch dimension; they use the same ports."""
    if len(conds) == 1:
        return conds[0]
    longest = max((c.tokens.shape[1] for c in conds if c.tokens is not None), default=0)
    conds = [c.lengthened(longest) for c in conds]
    names = ("vector", "tokens", "tokens_mask", "field", "mask")
    ports: dict[str, Tensor | None] = {}
    for name in names:
        values = [getattr(c, name) for c in conds]
        used = [v for v in values if v is not None]
        if used and len(used) != len(conds):
            raise KakusanError(
                f"guidance branches disagree: port {name!r} is used by {len(used)} of {len(conds)} of them"
            )
        ports[name] = None if not used else joined(used, 0) if name == "field" else torch.cat(used)
    return Cond(**ports)
