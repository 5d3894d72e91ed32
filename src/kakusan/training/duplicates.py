"""Duplicates: exact ones by a hash of the pixels, near ones by a 64-bit perceptual hash that a closer look confirms."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image as Pil

from kakusan.domains.picture import shown

__all__ = ["alike", "candidates", "groups", "perceptual", "small", "thinned"]

PLAIN = 4  # levels of contrast below which a picture is like any other
SIDE = 32  # of the small copies that are hashed and compared
LARGE = 2**20  # pixels beyond which a picture is made smaller piece by piece
_NEAR = 8  # differing bits of a candidate, of 64
_RUN = 64  # neighbours looked at in one bucket
_k = np.arange(SIDE)
_DCT = np.cos(np.pi * (_k[None, :] + 0.5) * _k[:8, None] / SIDE).astype(np.float32)


def small(a: np.ndarray) -> np.ndarray:
    """A picture (H, W, C) of any depth as (32, 32, 3) uint8; what is transparent becomes middle grey."""
    a = _shrunk(a) if a.dtype.kind == "u" and a.shape[0] * a.shape[1] > LARGE else _opaque(a)
    how = Pil.Resampling.BOX if min(a.shape[:2]) >= SIDE else Pil.Resampling.BILINEAR
    return np.asarray(Pil.fromarray(a).resize((SIDE, SIDE), how))


def _shrunk(a: np.ndarray) -> np.ndarray:
    """A large picture as means over blocks, some rows at a time: the floats of the whole would take a gigabyte."""
    block = max(1, min(a.shape[:2]) // 256)
    height, width = (side // block for side in a.shape[:2])
    some = max(1, LARGE // (block * a.shape[1]))
    out = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, some):
        part = _opaque(a[block * top : block * min(top + some, height), : block * width])
        cells = part.reshape(-1, block, width, block, 3).mean((1, 3), dtype=np.float32)
        out[top : top + some] = (cells + 0.5).astype(np.uint8)
    return out


def _opaque(a: np.ndarray) -> np.ndarray:
    """As (H, W, 3) uint8, over middle grey where it is transparent."""
    if a.shape[2] != 4 or a.dtype.kind != "u":
        return np.ascontiguousarray(shown(a))
    alpha = a[..., 3:] / np.float32(np.iinfo(a.dtype).max)
    return (shown(np.ascontiguousarray(a[..., :3])) * alpha + 128 * (1 - alpha) + 0.5).astype(np.uint8)


def perceptual(copies: np.ndarray) -> np.ndarray:
    """Hashes (n,) uint64 of small copies (n, 32, 32, 3): signs of 64 low cosine coefficients about their median."""
    grey = copies.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    low = (_DCT @ grey @ _DCT.T).reshape(len(copies), 64)
    low[:, 0] = 0  # mean brightness says nothing about the content
    bits = low > np.median(low, 1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def _count(words: np.ndarray) -> np.ndarray:
    """Set bits of 64-bit words (numpy 1 has no bitwise_count)."""
    return np.unpackbits(np.ascontiguousarray(words).view(np.uint8).reshape(-1, 8), axis=1).sum(1)


def candidates(hashes: np.ndarray) -> tuple[np.ndarray, bool]:
    """Pairs (m, 2) of rows whose hashes differ in at most 8 bits, and whether some may be missing from crowded buckets.

    Buckets of 16 bits in 8 overlapping bands: pairs within 3 bits always share one, further ones mostly. No step is
    quadratic.
    """
    found, crowded = [np.zeros((0, 2), np.int64)], False
    for shift in range(0, 64, 8):
        band = (hashes >> np.uint64(shift)) | (hashes << np.uint64((64 - shift) % 64)) if shift else hashes
        key = band & np.uint64(0xFFFF)
        order = np.lexsort((hashes, key))
        key, sorted_hashes = key[order], hashes[order]
        for step in range(1, min(_RUN, len(order))):
            same = key[step:] == key[:-step]
            if not same.any():
                break
            at = np.flatnonzero(same)
            apart = sorted_hashes[at] ^ sorted_hashes[at + step]
            at = at[(_count(apart) <= _NEAR) & ~_met(apart, shift)]
            found.append(np.sort(np.stack([order[at], order[at + step]], 1), 1))
        else:
            crowded = crowded or len(order) > _RUN
    return np.concatenate(found), crowded


def _met(apart: np.ndarray, shift: int) -> np.ndarray:
    """Whether these differences left an earlier band alone, so that the pair was met there."""
    met = np.zeros(len(apart), bool)
    for earlier in range(0, shift, 8):
        met |= (apart >> np.uint64(earlier)) & np.uint64(0xFFFF) == 0
    return met


def thinned(pairs: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Candidates worth a closer look, and whether each lies in a crowd.

    A picture with more than 20 candidates is one of a kind that all look alike (trousers, say), and so is every
    picture of a set with more than 8 each: there only the nearest count.
    """
    degree = np.bincount(pairs.ravel(), minlength=len(hashes))
    crowd = (degree[pairs].max(1) > 20) | (degree.mean() > 8) if len(pairs) else np.zeros(0, bool)
    close = _count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]]) <= 2
    keep = ~crowd | close
    return pairs[keep], crowd[keep]


def alike(a: np.ndarray, b: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Whether small copies (n, 32, 32, 3) show the same picture.

    Averaged to 16 x 16 (so that compression noise cancels), they differ by little against their contrast, and their
    detail (less its 5 x 5 mean) correlates: 0.93 and more, 0.99 in a crowd. Plain pictures are never alike: they
    would all be.
    """
    a, b = (x.astype(np.float32).reshape(len(x), 16, 2, 16, 2, 3).mean((2, 4)) for x in (a, b))
    contrast = np.minimum(a.std((1, 2)).mean(1), b.std((1, 2)).mean(1))
    difference = np.sqrt(np.square(a - b).mean((1, 2, 3)))
    worst = np.sqrt(np.square(a - b).reshape(len(a), 4, 4, 4, 4, 3).mean((2, 4, 5)).max((1, 2)))
    x, y = _detail(a), _detail(b)
    norms = np.square(x).sum(1) * np.square(y).sum(1)
    correlation = (x * y).sum(1) / np.sqrt(norms + 1e-9)
    same = difference <= np.where(crowd, 0.1, 0.3) * contrast
    same &= worst <= np.where(crowd, 0.25, 0.75) * contrast  # a small thing that differs is a difference
    return (contrast >= PLAIN) & same & (correlation >= np.where(crowd, 0.99, 0.93))


def _detail(x: np.ndarray) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    mean = sum(padded[:, i : i + 16, j : j + 16] for i in range(5) for j in range(5)) / 25
    return (x - mean).reshape(len(x), -1)


def groups(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Connected rows, largest group first."""
    parent: dict[int, int] = {}

    def root(i: int) -> int:
        while parent.setdefault(i, i) != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in pairs:
        parent[root(int(a))] = root(int(b))
    found: dict[int, list[int]] = {}
    for i in sorted(parent):
        found.setdefault(root(i), []).append(i)
    return sorted(found.values(), key=lambda g: (-len(g), g[0]))
