"""Feed: the batches of a run on its device, with their draws and a fingerprint of both."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kakusan.core.batch import Batch
from kakusan.core.rng import Rng, mix
from kakusan.part import KakusanError
from kakusan.training.ranks import ALONE, Ranks
from kakusan.training.watch import Batches

__all__ = ["Feed", "on_device"]


class Feed:
    """Batches on the device (those that are there already are not copied) and their rows' draws."""

    def __init__(self, batches: Batches, device: torch.device, ranks: Ranks = ALONE) -> None:
        self.batches, self.device, self.batch, self.ranks = batches, device, batches.batch, ranks
        mine = len(batches.rng(0))
        if mine * ranks.world != self.batch:
            raise KakusanError(
                f"process {ranks.rank} of {ranks.world} makes {mine} pictures of a batch of {self.batch}: "
                f"build its batches with rank={ranks.rank}, world={ranks.world}"
            )

    def at(self, step: int) -> tuple[Batch, Rng]:
        """The batch of a step, and its draws."""
        return on_device(self.batches.at(step), self.device), Rng(self.batches.rng(step).seeds, self.device)

    def fingerprint(self, step: int) -> int:
        """A number that is the same only when seed, batch size and order of the data (where it tells: ``rows``) are.

        It is of the whole batch, whatever the number of processes that share it.
        """
        rows = getattr(self.batches, "rows", None)
        picked = [int(row) for row in rows(step)] if callable(rows) else []
        blocks = self.ranks.gather([self.batches.rng(step).seeds, picked])
        return mix(*(seed for b in blocks for seed in b[0]), "rows", *(row for b in blocks for row in b[1]))


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device, pictures in channels-last order; strata stay on the CPU, where times are drawn."""

    def move(value: Tensor) -> Tensor:
        return value.to(device, non_blocking=True)

    x0, mask = move(batch.x0), None if batch.mask is None else move(batch.mask)
    if x0.ndim == 4:
        x0 = x0.contiguous(memory_format=torch.channels_last)
    inputs = {name: {k: move(v) for k, v in given.items()} for name, given in batch.inputs.items()}
    return replace(batch, x0=x0, mask=mask, inputs=inputs)
