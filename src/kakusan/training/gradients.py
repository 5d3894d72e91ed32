"""Gradients: their mean over the processes of a training, while the backward pass still runs.

Buckets of parameters, the last ones first, are sent as soon as they are full. Not torch's DDP: it lays its buckets out
anew after the first step, so that with three or more processes a resumed run would add up in another order than one
that never stopped; it looks for parameters without a gradient only with a warning in every process; and it wraps
``forward``, which the objective does not call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kakusan.training.ranks import Ranks

__all__ = ["Gradients"]

BUCKET = 25_000_000  # bytes: large enough for the network's speed, small enough to begin early


class Gradients:
    """After ``loss.backward()``, ``finish()`` leaves the processes' mean gradient in every parameter.

    A parameter without a gradient counts as one with zeros: a condition may be absent from one process's block. Their
    mean is that of the whole batch where each process's loss is the mean over a block of the same size.
    """

    def __init__(self, params: Sequence[Tensor], ranks: Ranks) -> None:
        self.ranks = ranks
        self.buckets = _buckets(params) if ranks.world > 1 else []
        self._home = {id(p): number for number, bucket in enumerate(self.buckets) for p in bucket}
        self._absent = [len(bucket) for bucket in self.buckets]
        self._sent: list[tuple[Tensor, Any]] = []
        for bucket in self.buckets:
            for p in bucket:
                p.register_post_accumulate_grad_hook(self._ready)

    def _ready(self, param: Tensor) -> None:
        """One more gradient is there; buckets leave in their order, which is the same in every process."""
        self._absent[self._home[id(param)]] -= 1
        while len(self._sent) < len(self.buckets) and self._absent[len(self._sent)] == 0:
            self._send()

    def _send(self) -> None:
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.buckets[len(self._sent)]]
        flat = torch.cat([g.reshape(-1) for g in grads]).div_(self.ranks.world)
        self._sent.append((flat, self.ranks.begin_total(flat)))

    @torch.no_grad()
    def finish(self) -> None:
        """Wait for the means and put them in place."""
        while len(self._sent) < len(self.buckets):
            self._send()
        for bucket, (flat, work) in zip(self.buckets, self._sent):
            work.wait()
            for p, mean in zip(bucket, flat.split([p.numel() for p in bucket])):
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
                p.grad.copy_(mean.view(p.shape))
        self._sent = []
        self._absent = [len(bucket) for bucket in self.buckets]


def _buckets(params: Sequence[Tensor]) -> list[list[Tensor]]:
    """Trained parameters of one dtype each, the last ones first: about the order in which gradients come."""
    out: list[list[Tensor]] = []
    filled = BUCKET
    for p in reversed([p for p in params if p.requires_grad]):
        if filled >= BUCKET or out[-1][0].dtype != p.dtype:
            out.append([])
            filled = 0
        out[-1].append(p)
        filled += p.numel() * p.element_size()
    return out
