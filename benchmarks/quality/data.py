"""Prepared data: NAME-train.npz and NAME-test.npz, each with images (uint8), labels and classes.

So no system can see test pictures: every system reads the same train file; only the scoring opens the test file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

__all__ = ["pictures", "prepare", "split_file"]


def split_file(folder: Path, name: str, split: str) -> Path:
    """Where a split of a data set lies."""
    return folder / f"{name}-{split}.npz"


def prepare(name: str, source: str, folder: Path) -> dict[str, tuple[int, ...]]:
    """Write both splits of anything kakusan reads that has them (IDX files, a zip or folder with train/ and test/)."""
    from kakusan.training.source import open_source

    folder.mkdir(parents=True, exist_ok=True)
    shapes = {}
    for split in ("train", "test"):
        found = open_source(source, split=split)
        images = np.stack([found.record(i).data for i in range(len(found))])
        if images.dtype != np.uint8:
            raise SystemExit(f"{source}: pictures are {images.dtype}; this benchmark compares 8-bit ones")
        arrays = {"images": images}
        if found.labels is not None:
            arrays |= {"labels": found.labels, "classes": np.array(found.classes)}
        np.savez(split_file(folder, name, split), **arrays)
        shapes[split] = images.shape
    return shapes


def pictures(file: Path) -> np.ndarray:
    """The pictures of a file as (N, H, W, C) uint8."""
    with np.load(file, allow_pickle=False) as arrays:
        images = arrays["images"]
    return images if images.ndim == 4 else images[..., None]
