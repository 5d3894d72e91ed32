"""Does the model copy its training pictures? Distances to the nearest ones, held against those of held-out pictures.

The test is a ratio: the distance to the nearest training picture over the mean distance to the nearest three held-out
ones. A sample that is new, however smooth or common, is about as far from both; a copy is near to one training picture
and to nothing held out. (Carlini et al. 2023, arXiv 2301.13188, section 4, divide by the distances to the next training
pictures; but what is copied is mostly what the data repeats, and there these are copies too.) A sample is flagged where
its ratio is below that of all but 1% of the held-out pictures themselves, so held-out data's own rate is known: the
rank is a conformal p-value (Vovk et al. 2005, section 2.2), which holds for any data and any number of pictures.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kakusan.part import KakusanError

__all__ = ["Copying", "Pair", "copies", "copies_by_features"]

SIDE = 16  # pictures are compared at this size, shifted by up to half a cell (one pixel of a small picture) each way
RIVALS = 3  # nearest held-out pictures that a sample's nearest training picture is measured by
CANDIDATES = 8  # nearest by the fast distance, measured again exactly
LEVEL = 0.01  # share of held-out pictures that may be flagged
DOUBT = 1e-3  # probability of as many flagged samples by chance, below which they are called copies
FEWEST = 20  # held-out pictures


@dataclass(frozen=True)
class Pair:
    """A sample and the training picture nearest to it (indices), their distance, and its ratio to held-out ones."""

    sample: int
    train: int
    distance: float
    ratio: float  # 1 where nothing is held out to compare with
    copy: bool


@dataclass(frozen=True)
class Copying:
    """What was found: ``share`` of samples flagged as copies; ``ratio`` of median nearest distances, samples : held
    out; ``expected``: the share of new pictures that the test flags."""

    share: float
    ratio: float
    pairs: list[Pair]  # most suspicious first
    verdict: str  # "original", "some copies", "copying" or "unknown"
    message: str
    expected: float = LEVEL


def copies(
    samples: Tensor, train: Tensor | Iterable[Tensor], held_out: Tensor, chunk: int = 4096, mirror: bool = False
) -> Copying:
    """Compare samples with training and held-out pictures, all (B, C, *S) in [-1, 1]; ``train`` may come in pieces.

    ``mirror`` also compares with the sample mirrored (training with flips teaches both). Needs 20 held-out pictures.
    """
    views = _views(_joined(samples, held_out), mirror)
    known = _nearest(views, (_centre(part) for part in _parts(train, chunk, samples)), CANDIDATES)
    return _judged(len(samples), known, _rivals(views, _centre(held_out), chunk))


def copies_by_features(
    samples: Tensor, train: Tensor | Iterable[Tensor], held_out: Tensor, chunk: int = 4096
) -> Copying:
    """The same test on features (N, D) of a network: copies that are recoloured, moved or scaled are near there too."""
    queries = [_joined(samples, held_out).float()]
    known = _nearest(queries, (part.float() for part in _parts(train, chunk, samples)), CANDIDATES)
    return _judged(len(samples), known, _rivals(queries, held_out.float(), chunk))


def _joined(samples: Tensor, held_out: Tensor) -> Tensor:
    _comparable("held-out pictures", held_out, samples)
    return torch.cat([samples, held_out])


def _parts(train: Tensor | Iterable[Tensor], chunk: int, samples: Tensor) -> Iterator[Tensor]:
    for piece in [train] if isinstance(train, Tensor) else train:
        _comparable("training pictures", piece, samples)
        yield from piece.split(chunk)


def _comparable(name: str, these: Tensor, samples: Tensor) -> None:
    if these.shape[1:] != samples.shape[1:]:
        raise KakusanError(
            f"{name} {tuple(these.shape[1:])} and samples {tuple(samples.shape[1:])} differ in shape: "
            "they cannot be compared"
        )


def _rivals(views: list[Tensor], held_out: Tensor, chunk: int) -> tuple[Tensor, Tensor] | None:
    """The nearest held-out pictures, where there are enough for a mean that leaves out the picture itself."""
    return _nearest(views, iter(held_out.split(chunk)), CANDIDATES + 1) if len(held_out) > RIVALS else None


def _judged(n: int, known: tuple[Tensor, Tensor], rivals: tuple[Tensor, Tensor] | None) -> Copying:
    """The verdict on ``n`` samples, whose distances (n + held out, k) to training and held-out pictures are given."""
    nearest, where = known[0][:, 0], known[1][:, 0]
    ratio = _ratios(n, nearest, rivals)
    honest = len(nearest) - n
    if honest < FEWEST:
        pairs = _pairs(nearest, where, ratio, torch.zeros(n, dtype=torch.bool))
        words = f"only {honest} held-out pictures: too few to tell copies from chance ({FEWEST} are needed)"
        return Copying(0.0, float("nan"), pairs, "unknown", words)
    allowed = max(1, int(LEVEL * (honest + 1)))  # held-out pictures that may lie below what is flagged, plus one
    ordered = ratio[n:].sort().values
    copied = ratio[:n] < ordered[allowed - 1]
    relative = float(nearest[:n].median() / nearest[n:].median().clamp_min(1e-8))
    verdict = _verdict(int(copied.sum()), n, allowed, honest)
    expected = allowed / (honest + 1)
    words = _words(verdict, int(copied.sum()), n, relative, expected)
    if float(ordered[allowed - 1]) < 1e-3:
        words += "; held-out pictures are duplicates of training pictures, which hides copies: kakusan data check DATA"
    pairs = _pairs(nearest, where, ratio, copied)
    return Copying(float(copied.float().mean()), relative, pairs, verdict, words, expected)


def _ratios(n: int, nearest: Tensor, rivals: tuple[Tensor, Tensor] | None) -> Tensor:
    """Nearest training distance over the mean of the nearest held-out ones, for a held-out picture of the others."""
    if rivals is None:
        return torch.ones_like(nearest)
    distances, which = rivals
    itself = torch.arange(len(nearest)) - n
    others = distances.masked_fill(which == itself[:, None], torch.inf).sort(1).values
    return nearest / others[:, :RIVALS].mean(1).clamp_min(1e-8)


def _verdict(copied: int, n: int, allowed: int, honest: int) -> str:
    """Chance flags as many as fall below the ``allowed``-th of ``honest`` exchangeable ratios: beta-binomial."""
    if copied < 2 or _tail(copied, n, allowed, honest + 1 - allowed) >= DOUBT:
        return "original"
    return "copying" if copied >= 0.5 * n else "some copies"


def _tail(count: int, n: int, a: int, b: int) -> float:
    """P(X >= count) of the beta-binomial with n draws and parameters a, b."""

    def log_beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    def log_choose(k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    return math.fsum(math.exp(log_choose(k) + log_beta(k + a, n - k + b) - log_beta(a, b)) for k in range(count, n + 1))


def _words(verdict: str, copied: int, n: int, ratio: float, expected: float) -> str:
    if verdict == "original":
        far = f"samples are {ratio:.2f} times as far from the nearest training picture as held-out pictures are"
        return f"no more copies than chance makes ({copied} of {n}); {far}"
    near = f"as near to one training picture as only {100 * expected:.2g}% of held-out pictures are to any"
    return f"{copied} of {n} samples are {near} (median distance {ratio:.2f} times that of held-out pictures)"


def _pairs(nearest: Tensor, where: Tensor, ratio: Tensor, copied: Tensor) -> list[Pair]:
    rows = zip(where.tolist(), nearest.tolist(), ratio.tolist(), copied.tolist())  # those of the samples come first
    return sorted((Pair(i, *row) for i, row in enumerate(rows)), key=lambda p: (not p.copy, p.ratio, p.distance))


def _margin(size: int) -> int:
    """Half a cell in pixels, at least one; none along an axis that is too short to lose its border."""
    return max(1, round(size / SIDE / 2)) if size >= 8 else 0


def _centre(x: Tensor) -> Tensor:
    """Pictures without their border: what every view of a copy is held against, as features (B, D)."""
    if x.ndim < 3:
        raise KakusanError(f"pictures have shape {tuple(x.shape)}: pass (batch, channels, *sizes)")
    return _feature(_window(x, [_margin(s) for s in x.shape[2:]]))


def _views(x: Tensor, mirror: bool) -> list[Tensor]:
    """Features (B, D) of the windows in and around the centre, of the mirrored pictures too."""
    if x.ndim < 3:
        raise KakusanError(f"pictures have shape {tuple(x.shape)}: pass (batch, channels, *sizes)")
    steps = [sorted({0, m, 2 * m}) for m in (_margin(s) for s in x.shape[2:])]
    sides = [x, x.flip(-1)] if mirror else [x]
    return [_feature(_window(side, at)) for side in sides for at in itertools.product(*steps)]


def _window(x: Tensor, corner: Iterable[int]) -> Tensor:
    """The pictures' part that begins at ``corner`` and lacks twice the margin of each axis."""
    for axis, start in enumerate(corner, 2):
        size = x.shape[axis]
        # the margin is the whole picture's, so that all windows have one size
        x = x.narrow(axis, start, size - 2 * _margin(size))
    return x


def _feature(x: Tensor) -> Tensor:
    """(B, D): low resolution, each channel's mean and the picture's contrast taken out."""
    x = x.float()
    pool = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[x.ndim - 2]
    small = pool(x, [min(SIDE, s) for s in x.shape[2:]] if x.ndim > 3 else min(SIDE, x.shape[2]))
    centred = small - small.mean(tuple(range(2, x.ndim)), keepdim=True)
    flat = centred.flatten(1)
    return flat / (flat.square().mean(1, keepdim=True).sqrt() + 0.05) / flat.shape[1] ** 0.5


def _nearest(views: list[Tensor], pool: Iterable[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Distances (Q, k) of the nearest features in ``pool``, k <= ``count``, best of the queries' views; indices."""
    best: Tensor | None = None
    where: Tensor | None = None
    start = 0
    for feature in pool:
        rough = torch.cdist(views[0], feature)
        for view in views[1:]:
            torch.minimum(rough, torch.cdist(view, feature), out=rough)
        i = rough.topk(min(count, rough.shape[1]), dim=1, largest=False).indices
        # cdist is fast and off by up to 1e-3, as much as a copy differs: what counts is computed again
        d = torch.stack([(view[:, None] - feature[i]).square().sum(2).sqrt() for view in views]).amin(0)
        i = i + start
        if best is not None and where is not None:
            d, i = torch.cat([best, d], 1), torch.cat([where, i], 1)
        best, order = d.topk(min(count, d.shape[1]), dim=1, largest=False)
        where = i.gather(1, order)
        start += len(feature)
    if best is None or where is None or start < 2:
        raise KakusanError(f"{start} training pictures: at least 2 are needed to look for copies")
    return best, where
