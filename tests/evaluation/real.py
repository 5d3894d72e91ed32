"""Real labelled pictures for the tests of this folder: those of examples/fashion.zip."""

from __future__ import annotations

import functools
import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ARCHIVE = Path(__file__).parents[2] / "examples" / "fashion.zip"


@functools.cache
def fashion() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """6,000 pictures (N, 28, 28, 1) uint8 in a fixed random order, their labels (N,) and the names of the classes."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        pictures = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name))))[..., None] for name in names])
    folders = [name.split("/")[1] for name in names]
    classes = sorted(set(folders))
    labels = np.array([classes.index(folder) for folder in folders])
    order = np.random.default_rng(0).permutation(len(names))
    return pictures[order], labels[order], classes


def tensor(pictures: np.ndarray) -> torch.Tensor:
    """Pictures (N, H, W, C) uint8 as a model sees them: (N, C, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
