"""Prior preservation: what a model drew before it was trained on goes on being trained, beside the new pictures.

Ruiz et al. 2023 (DreamBooth, arXiv 2208.12242), equation 2 with lambda = 1: every batch is of new pictures and as many
of the model's own samples, so that the two losses count alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kakusan.core.batch import Batch, Inputs
from kakusan.core.model import Encoder, Model
from kakusan.core.rng import Rng, mix
from kakusan.training.captions import PROMPT
from kakusan.training.data import Batches

__all__ = ["Kept", "Mixed"]


@dataclass(frozen=True)
class Kept:
    """Samples x0 (N, C, *S) as the model diffuses them, and what each was asked to be: a value a condition."""

    x0: Tensor
    cond: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.x0)


class Mixed:
    """A training's own batches, each with as many kept samples behind it; a pure function of (seed, step) as they are.

    The kept ones come in turn. A condition that only one half has is unsaid in the other.
    """

    def __init__(self, own: Batches, kept: Kept, model: Model) -> None:
        self.own, self.kept = own, kept
        self.batch = 2 * own.batch
        self._encoders = {name: model.encoder(name) for name in model.encoders}
        self._rows = {name: [_prepared(self._encoders[name], name, v) for v in kept.cond[name]] for name in kept.cond}

    def rows(self, step: int) -> Any:
        """The own rows of a step, which tell its order apart."""
        return self.own.rows(step)

    def rng(self, step: int) -> Rng:
        """The draws of the own rows, then of the kept ones."""
        own = self.own.rng(step)
        more = [mix(self.own.seed, "kept", step, int(row)) for row in self.own.global_rows]
        return Rng([*own.seeds, *more], self.own.device)

    def at(self, step: int) -> Batch:
        """The batch of a step."""
        own = self.own.at(step)
        at = [(step * self.own.batch + int(row)) % len(self.kept) for row in self.own.global_rows]
        x0 = torch.cat([own.x0, self.kept.x0[at].to(own.x0)])
        inputs: Inputs = {}
        for name in [n for n in self._encoders if n in own.inputs or n in self._rows]:
            encoder = self._encoders[name]
            first = own.inputs[name] if name in own.inputs else _unsaid(encoder, name, len(at))
            rows = [self._rows[name][i] for i in at] if name in self._rows else [_unsaid(encoder, name, len(at))]
            device = own.x0.device
            parts = [{k: v.to(device) for k, v in each.items()} for each in (first, encoder.stack(rows))]
            inputs[name] = encoder.stack(parts)
        stratum = None if own.stratum is None else torch.cat([own.stratum, own.stratum])
        return Batch(x0.contiguous(memory_format=torch.channels_last), inputs=inputs, stratum=stratum)

    def close(self) -> None:
        """Stop preparing batches."""
        self.own.close()


def _prepared(encoder: Encoder, name: str, value: Any) -> dict[str, Tensor]:
    """One value as training data have it."""
    return encoder.caption(value) if name == PROMPT else encoder.prepare([value])


def _unsaid(encoder: Encoder, name: str, count: int) -> dict[str, Tensor]:
    """A condition without a value, ``count`` times."""
    rows: Sequence[dict[str, Tensor]] = [_prepared(encoder, name, None)] * count
    return encoder.stack(rows)
