"""Guidance at high weights: what keeps it from burning pictures out; each works at one noise level and stores nothing.

The momentum of APG's paper is left out: it is memory across steps, which neither a guide nor a solver's repeated
evaluations within a step (Heun), nor climbs, leave a right place for.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kakusan.core.guide import Guide, Plain
from kakusan.part import KakusanError

__all__ = ["APG", "Rescaled", "Thresholded"]


class APG(Guide):
    """Adaptive projected guidance: ``D = D_c + sum_i (w_i - 1) (o_i + parallel p_i)`` over branches (all but 1, all but
    2, ..., c = all), where o_i and p_i are the parts of ``D_c - D_i`` orthogonal and parallel to D_c (Sadat et al.
    2024, arXiv 2410.02416, algorithm 1, without momentum).

    The parallel part mostly adds contrast and saturation. ``limit`` bounds each difference's root mean square before
    it is projected (the paper's r is limit sqrt(numbers a sample)); 0 = no bound. parallel = 1 without a limit is
    ``Apart``.
    """

    kind = "guide/apg"

    def __init__(self, weights: list[float], parallel: float = 0.0, limit: float = 0.0) -> None:
        if not weights:
            raise KakusanError("weights=[]: need one weight a condition")
        if not limit >= 0:
            raise KakusanError(f"limit={limit}: need a number >= 0 (0 = no bound)")
        self.weights, self.parallel, self.limit = [float(w) for w in weights], float(parallel), float(limit)
        self.branches = len(weights) + 1

    def combine(self, estimates: tuple[Tensor, ...], t: Tensor) -> Tensor:
        last = out = estimates[-1]
        along = last / last.square().flatten(1).sum(1).clamp(min=1e-30).sqrt().reshape(-1, *[1] * (last.ndim - 1))
        for w, without in zip(self.weights, estimates, strict=False):
            change = self._limited(last - without)
            share = (change * along).flatten(1).sum(1).reshape(-1, *[1] * (last.ndim - 1)) * along
            out = out + (w - 1) * (change + (self.parallel - 1) * share)
        return out

    def _limited(self, change: Tensor) -> Tensor:
        if not self.limit:
            return change
        size = change.square().flatten(1).mean(1).sqrt().clamp(min=1e-30)
        return change * (self.limit / size).clamp(max=1).reshape(-1, *[1] * (change.ndim - 1))


class Rescaled(Guide):
    """Another guide whose result G is brought back to the spread of the conditioned estimate:
    ``D = amount G std(D_c)/std(G) + (1 - amount) G``, the standard deviation that of each sample's own numbers
    (Lin et al. 2024, eq. 15 and 16; on x0 here, whatever the network predicts). amount = 0 is that guide.
    """

    kind = "guide/rescaled"

    def __init__(self, guide: Guide, amount: float = 0.7) -> None:
        if not 0 <= amount <= 1:
            raise KakusanError(f"amount={amount}: need a number between 0 (none) and 1 (whole)")
        self.guide, self.amount, self.branches = guide, float(amount), guide.branches

    def needs(self, t: Tensor) -> tuple[int, ...]:
        return self.guide.needs(t)

    def combine(self, estimates: tuple[Tensor, ...], t: Tensor) -> Tensor:
        end, last = self.guide.combine(estimates, t), estimates[-1]
        spread, own = (v.flatten(1).std(1, correction=0) for v in (last, end))
        factor = self.amount * spread / own.clamp(min=1e-12) + 1 - self.amount
        return end * factor.reshape(-1, *[1] * (end.ndim - 1))


class Thresholded(Guide):
    """Dynamic thresholding, for data in [-1, 1]: ``D = clip(G, -s, s)/s``, s the ``share`` quantile of |G| in each
    sample, at least 1 (Saharia et al. 2022, section 2.3).

    ``guide`` is what makes G: any guide, or nothing for a plain denoiser.
    """

    kind = "guide/thresholded"

    def __init__(self, guide: Guide | None = None, share: float = 0.995) -> None:
        if not 0 < share <= 1:
            raise KakusanError(f"share={share}: need a share of the numbers, above 0 and at most 1 (0.995 is usual)")
        self.guide, self.share = guide or Plain(), float(share)
        self.branches = self.guide.branches

    def needs(self, t: Tensor) -> tuple[int, ...]:
        return self.guide.needs(t)

    def combine(self, estimates: tuple[Tensor, ...], t: Tensor) -> Tensor:
        end = self.guide.combine(estimates, t)
        sizes = end.abs().flatten(1)
        rank = max(1, math.ceil(self.share * sizes.shape[1]))  # not torch.quantile, which takes 16 million numbers
        top = torch.kthvalue(sizes, rank, 1).values.clamp(min=1).reshape(-1, *[1] * (end.ndim - 1))
        return torch.minimum(torch.maximum(end, -top), top) / top
