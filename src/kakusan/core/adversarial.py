"""What a generator and a discriminator are trained to: losses of their scores, and zero-centred gradient penalties.

Scores are the discriminator's outputs before any squashing, (B,); f(t) = -log(1 + exp(-t)) throughout.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kakusan.core.rng import Rng

__all__ = ["LOSSES", "losses", "moved", "penalties"]

LOSSES = ("relativistic", "non-saturating")


def losses(kind: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """The discriminator's and the generator's loss of each pair, both to be lowered, (B,) each.

    "relativistic": softplus(-(D(x) - D(G(z)))) and softplus(D(x) - D(G(z))), each generated picture against its own
    real one (Jolicoeur-Martineau 2018; Huang et al. 2024, eq. 2). "non-saturating": softplus(-D(x)) + softplus(D(G(z)))
    and softplus(-D(G(z))) (Goodfellow et al. 2014, section 3).
    """
    if kind == "relativistic":
        return F.softplus(fake - real), F.softplus(real - fake)
    return F.softplus(-real) + F.softplus(fake), F.softplus(-fake)


def penalties(scores: Tensor, x: Tensor) -> Tensor:
    """|grad_x D(x)|^2 of each picture, (B,), to be differentiated again: R1 of real pictures, R2 of generated ones.

    The penalty of a loss is gamma/2 times it (Mescheder et al. 2018, eqs. 9 and 10). ``scores`` must depend on each
    picture alone.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return gradient.float().square().flatten(1).sum(1)


def moved(x: Tensor, rng: Rng, step: int = 0) -> Tensor:
    """Pictures (B, C, H, W) moved by up to an eighth of each side and with a square of half the sides cut out, where 0
    comes in (DiffAugment's translation and cutout; Zhao et al. 2020). What the discriminator sees of small sets.
    """
    batch, _, height, width = x.shape
    draws = rng.uniform("moved", step, 4).to(x.device)
    kept = torch.ones(batch, height, width, dtype=torch.bool, device=x.device)
    at = []
    for axis, size in enumerate((height, width)):
        reach = size // 8
        by = (draws[:, axis] * (2 * reach + 1)).floor().long() - reach
        index = torch.arange(size, device=x.device) - by[:, None]
        centre = (draws[:, 2 + axis] * size).floor().long()[:, None]
        gap = (torch.arange(size, device=x.device) - centre).abs() <= size // 4
        inside = (index >= 0) & (index < size)
        at.append((index.clamp(0, size - 1), inside, gap))
    (rows, rows_in, rows_gap), (columns, columns_in, columns_gap) = at
    kept &= rows_in[:, :, None] & columns_in[:, None, :] & ~(rows_gap[:, :, None] & columns_gap[:, None, :])
    row = torch.arange(batch, device=x.device)[:, None, None]
    picked = x.permute(0, 2, 3, 1)[row, rows[:, :, None], columns[:, None, :]]
    return (picked * kept[..., None]).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
