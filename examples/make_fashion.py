"""Make examples/fashion.zip: 600 pictures of each class of Fashion-MNIST (MIT licence), class folders of PNG files.

    python examples/make_fashion.py FASHION_MNIST_FOLDER

The folder holds the IDX files of the data set, as Debian's package dataset-fashion-mnist installs them.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from kakusan.training.source import open_source

EACH = 600
CLASSES = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot"]


def main(folder: str) -> None:
    """Write the zip beside this file, byte for byte the same every time."""
    source = open_source(folder)
    assert source.labels is not None
    target = Path(__file__).with_name("fashion.zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as out:
        for label, name in enumerate(CLASSES):
            for number, row in enumerate(np.flatnonzero(source.labels == label)[:EACH]):
                data = io.BytesIO()
                Image.fromarray(source.record(int(row)).data[..., 0]).save(data, "PNG", optimize=True)
                member = zipfile.ZipInfo(f"fashion/{name}/{number:04d}.png", (2026, 1, 1, 0, 0, 0))
                out.writestr(member, data.getvalue())
    print(target, target.stat().st_size)


if __name__ == "__main__":
    main(sys.argv[1])
