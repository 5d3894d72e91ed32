"""Feed: batches brought to the device, ahead of time where that helps."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor

from kakusan.core.batch import Batch
from kakusan.core.rng import Rng, mix
from kakusan.training.watch import Batches

__all__ = ["Feed", "on_device"]


class Feed:
    """Batches on the device; where it is not the CPU, the next one is made and pinned while this one trains."""

    def __init__(self, batches: Batches, device: torch.device) -> None:
        self.batches, self.device, self.batch = batches, device, batches.batch
        self._pool = None if device.type == "cpu" else ThreadPoolExecutor(1)
        self._next: tuple[int, Future[Batch]] | None = None

    def at(self, step: int) -> tuple[Batch, Rng]:
        """The batch of a step on the device, and its rows' draws."""
        rng = Rng(self.batches.rng(step).seeds, self.device)
        if self._pool is None:
            return on_device(self.batches.at(step), self.device), rng
        ready = self._next[1].result() if self._next and self._next[0] == step else self._made(step)
        self._next = (step + 1, self._pool.submit(self._made, step + 1))
        return on_device(ready, self.device), rng

    def fingerprint(self, step: int) -> int:
        """A number that is the same only when data order, batch and seed are."""
        return mix(*self.batches.rng(step).seeds)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _made(self, step: int) -> Batch:
        batch = self.batches.at(step)
        return _map(batch, Tensor.pin_memory) if self.device.type == "cuda" else batch


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch's tensors on a device, pictures in channels-last order; the strata stay on the CPU, where times are drawn."""
    moved = _map(batch, lambda t: t.to(device, non_blocking=True))
    if moved.x0.ndim == 4:
        moved = replace(moved, x0=moved.x0.contiguous(memory_format=torch.channels_last))
    return replace(moved, stratum=batch.stratum)


def _map(batch: Batch, f: Callable[[Tensor], Tensor]) -> Batch:
    inputs = {name: {k: f(v) for k, v in given.items()} for name, given in batch.inputs.items()}
    return replace(batch, x0=f(batch.x0), mask=None if batch.mask is None else f(batch.mask), inputs=inputs)
