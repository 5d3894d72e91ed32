"""Does the model copy its training pictures? Distances to the nearest ones, compared with those of held-out pictures.

A sample counts as a copy when it is nearer to a training picture than held-out pictures are (its 5% quantile), and
also nearer than that picture's rivals by as much (nearest distance over the mean of the next ten; Yoon et al. 2023 and
Carlini et al. 2023 use such ratios): a merely smooth sample is near to many pictures, a copy to one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kakusan.part import KakusanError

__all__ = ["Copying", "Pair", "copies"]

SIDE = 16  # pictures are compared at this size
RIVALS = 10
LEVEL = 0.05  # share of honest samples that may fall below each threshold


@dataclass(frozen=True)
class Pair:
    """A sample and the training picture nearest to it (indices), their distance, and that over the next ten's mean."""

    sample: int
    train: int
    distance: float
    ratio: float
    copy: bool


@dataclass(frozen=True)
class Copying:
    """What was found: ``share`` of copies; ``ratio`` of median nearest distances, samples : held out."""

    share: float
    ratio: float
    pairs: list[Pair]  # nearest first
    verdict: str  # "original", "some copies", "copying" or "unknown"
    message: str


def copies(
    samples: Tensor, train: Tensor | Iterable[Tensor], held_out: Tensor, chunk: int = 4096, mirror: bool = False
) -> Copying:
    """Compare samples with training and held-out pictures, all (B, C, *S) in [-1, 1]; ``train`` may come in pieces.

    ``mirror`` also compares with the sample mirrored (training with flips teaches both). Needs 20 held-out pictures.
    """
    queries = torch.cat([samples, held_out])
    both = [_feature(queries)] + ([_feature(queries.flip(-1))] if mirror else [])
    distances, indices = _nearest(both, [train] if isinstance(train, Tensor) else train, chunk)
    nearest = distances[:, 0]
    ratio = nearest / distances[:, 1:].mean(1).clamp_min(1e-8)
    n, honest = len(samples), len(held_out)
    if honest < 20:
        pairs = _pairs(nearest[:n], indices[:n], ratio[:n], torch.zeros(n, dtype=torch.bool))
        words = f"only {honest} held-out pictures: too few to tell copies from chance (20 are needed)"
        return Copying(0.0, float("nan"), pairs, "unknown", words)
    below = [v[:n] < torch.quantile(v[n:], LEVEL) for v in (nearest, ratio)]
    copied = below[0] & below[1]
    share = float(copied.float().mean())
    relative = float(nearest[:n].median() / nearest[n:].median().clamp_min(1e-8))
    verdict = _verdict(int(copied.sum()), n)
    return Copying(
        share,
        relative,
        _pairs(nearest, indices, ratio, copied),
        verdict,
        _words(verdict, int(copied.sum()), n, relative),
    )


def _verdict(copied: int, n: int) -> str:
    """Chance explains up to the level plus three deviations; half of the samples are past doubt."""
    chance = n * LEVEL + 3 * (n * LEVEL * (1 - LEVEL)) ** 0.5
    if copied <= max(chance, 1):
        return "original"
    return "copying" if copied >= 0.5 * n else "some copies"


def _words(verdict: str, copied: int, n: int, ratio: float) -> str:
    if verdict == "original":
        far = f"samples are {ratio:.2f} times as far from the nearest training picture as held-out pictures are"
        return f"no more copies than chance makes ({copied} of {n}); {far}"
    near = "nearer to one training picture than 95% of held-out pictures are to any"
    return f"{copied} of {n} samples are {near} (median distance {ratio:.2f} times that of held-out pictures)"


def _pairs(nearest: Tensor, indices: Tensor, ratio: Tensor, copied: Tensor) -> list[Pair]:
    n = len(copied)
    rows = zip(indices[:n].tolist(), nearest[:n].tolist(), ratio[:n].tolist(), copied.tolist())
    return sorted((Pair(i, *row) for i, row in enumerate(rows)), key=lambda p: (not p.copy, p.ratio))


def _feature(x: Tensor) -> Tensor:
    """(B, D): low resolution, each channel's mean and the picture's contrast taken out."""
    if x.ndim < 3:
        raise KakusanError(f"pictures have shape {tuple(x.shape)}: pass (batch, channels, *sizes)")
    x = x.float()
    pool = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[x.ndim - 2]
    small = pool(x, [min(SIDE, s) for s in x.shape[2:]] if x.ndim > 3 else min(SIDE, x.shape[2]))
    centred = small - small.mean(tuple(range(2, x.ndim)), keepdim=True)
    flat = centred.flatten(1)
    return flat / (flat.square().mean(1, keepdim=True).sqrt() + 0.05) / flat.shape[1] ** 0.5


def _nearest(queries: list[Tensor], train: Iterable[Tensor], chunk: int) -> tuple[Tensor, Tensor]:
    """Distances (Q, k) to the nearest training pictures, k = RIVALS + 1, best of mirror images; the first's index."""
    best: Tensor | None = None
    where: Tensor | None = None
    start = 0
    for piece in train:
        for part in piece.split(chunk):
            feature = _feature(part)
            if feature.shape[1] != queries[0].shape[1]:
                raise KakusanError(
                    f"training pictures {tuple(part.shape[1:])} and samples differ in shape: they cannot be compared"
                )
            rough = torch.stack([torch.cdist(q, feature) for q in queries]).amin(0)
            i = rough.topk(min(RIVALS + 1, rough.shape[1]), dim=1, largest=False).indices
            # cdist is fast and off by up to 1e-3, as much as a copy differs: what counts is computed again
            d = torch.stack([(q[:, None] - feature[i]).square().sum(2).sqrt() for q in queries]).amin(0)
            i = i + start
            if best is not None and where is not None:
                d, i = torch.cat([best, d], 1), torch.cat([where, i], 1)
            best, order = d.topk(min(RIVALS + 1, d.shape[1]), dim=1, largest=False)
            where = i.gather(1, order)
            start += len(part)
    if best is None or where is None or best.shape[1] < 2:
        raise KakusanError(f"{start} training pictures: at least 2 are needed to look for copies")
    return best, where[:, 0]
