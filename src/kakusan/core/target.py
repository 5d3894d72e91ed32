"""Stable targets: in place of the one clean picture, the mean of all pictures that the noisy one may have come from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from kakusan.core.batch import Batch
from kakusan.core.model import Model
from kakusan.core.process import cast

__all__ = ["matches", "stable"]

NOISY = -0.7  # lam below which it is worth it (sigma > 2 alpha): above, the picture itself has all the weight


def stable(
    x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, reference: Tensor, match: Tensor | None = None
) -> Tensor:
    """``sum_j w_j r_j`` over x0 itself and the reference pictures, ``w_j`` in proportion to
    ``exp(-|x_t - alpha r_j|^2 / (2 sigma^2))``: the posterior mean of x0 (Xu et al. 2023, arXiv 2302.00670, eq. 6).

    x0 and x_t (B, C, *S); alpha, sigma (B,); reference (R, C, *S); ``match`` (B, R) bool: which references have the
    row's condition. The expected target, and so what is learned, stays the same as R grows; at high noise its
    variance, which most of the gradient's noise is there, goes away. float32; a row without a match keeps x0.
    """
    q, r, own = x_t.flatten(1).float(), reference.flatten(1).float(), x0.flatten(1).float()
    a, s = cast(alpha, q).reshape(-1, 1), cast(sigma, q).reshape(-1, 1)
    with _exact(x0):
        far = q.square().sum(1, keepdim=True) - 2 * a * (q @ r.T) + a**2 * r.square().sum(1)
        if match is not None:
            far = far.masked_fill(~match, torch.inf)
        near = (q - a * own).square().sum(1, keepdim=True)
        weights = torch.softmax(torch.cat([near, far], 1) / (-2 * s**2), 1)
        mean = weights[:, :1] * own + weights[:, 1:] @ r
    return mean.reshape(x0.shape).to(x0.dtype)


def _exact(x: Tensor) -> AbstractContextManager[Any]:
    """No autocast: squared distances need all of float32's digits."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def matches(model: Model, batch: Batch, reference: Batch, keep: Mapping[str, Tensor]) -> Tensor | None:
    """(B, R) bool: the references with the row's conditions, those left out of the row aside; None = all of them."""
    match: Tensor | None = None
    for name, given in batch.inputs.items():
        encoder, theirs = model.encoder(name), reference.inputs.get(name)
        same = None if theirs is None else encoder.same(given, theirs)
        if same is None:
            same = torch.zeros(len(batch.x0), len(reference.x0), dtype=torch.bool, device=batch.x0.device)
        if name in keep:
            same = same | ~keep[name].to(same.device, non_blocking=True)[:, None]
        match = same if match is None else match & same
    return match
