"""Canvas: a picture to be edited; what is not painted stays as its file has it, depth, alpha and profile too."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kakusan.domains import picture
from kakusan.domains.domain import Record
from kakusan.domains.image import Image
from kakusan.domains.png import colour_chunks, encode_png
from kakusan.domains.resize import channelled, deepened
from kakusan.files import write_bytes
from kakusan.part import KakusanError

__all__ = ["Canvas", "feathered", "open_canvas", "open_mask"]

Source = str | Path | np.ndarray


@dataclass(frozen=True)
class Canvas:
    """One picture as its file has it, (H, W, C) of 8 or 16 bits or floats, and where it came from."""

    pixels: np.ndarray
    name: str
    file: str  # "" for an array
    sha256: str
    icc: bytes | None = None
    chunks: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])

    def seen(self, domain: Image, size: tuple[int, int] | None = None) -> Tensor:
        """The picture as a model sees it, (C, h, w), at its own size or scaled to another."""
        self._comparable(domain)
        eye = domain.replace(size=list(size or self.size), fit="stretch")
        return eye.tensor(Record(self.pixels, {"name": self.name}))

    def painted(self, domain: Image, x: Tensor, own: bool = True) -> np.ndarray:
        """What a model made, (C, h, w), as pixels of this picture's depth, and of its mode unless ``own`` is False."""
        self._comparable(domain)
        a = domain.records(x[None])[0].data
        if a.dtype.kind == "f":
            return a
        a = deepened(a, 8 * self.pixels.dtype.itemsize)
        channels = self.pixels.shape[2]
        mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels, "array")
        return channelled(a, mode, channels, self.name) if own else a

    def merged(self, paint: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The picture under ``paint`` (H, W, C) by ``mask`` (H, W) in [0, 1]: to the bit its own where that is 0.

        Colours of pictures with alpha are mixed premultiplied, so that hidden ones do not show.
        """
        m = mask[..., None].astype(np.float64)
        below, above = self.pixels.astype(np.float64), paint.astype(np.float64)
        if self.pixels.shape[2] == 4:
            covers = below[..., 3:] * (1 - m), above[..., 3:] * m
            alpha = covers[0] + covers[1]
            colour = below[..., :3] * covers[0] + above[..., :3] * covers[1]
            mixed = np.concatenate([colour / np.where(alpha > 0, alpha, 1), alpha], 2)
        else:
            mixed = below * (1 - m) + above * m
        if self.pixels.dtype.kind == "u":
            mixed = np.clip(np.rint(mixed), 0, np.iinfo(self.pixels.dtype).max)
        return np.where(m == 0, self.pixels, np.where(m == 1, paint, mixed.astype(self.pixels.dtype)))

    def extended(self, left: int, right: int, top: int, bottom: int) -> tuple[Canvas, np.ndarray]:
        """The picture on a larger canvas, and the mask (H, W) of what is new: 1 there, 0 on the picture."""
        edges = ((top, bottom), (left, right))
        mask = np.pad(np.zeros(self.size, np.float32), edges, constant_values=1)
        return replace(self, pixels=np.pad(self.pixels, (*edges, (0, 0)))), mask

    def save(self, pixels: np.ndarray, path: Path, recipe: dict[str, Any] | None, generated: bool) -> Path:
        """Pixels as a PNG with this picture's colour profile (``.npy`` for what a PNG can not hold)."""
        if pixels.dtype.kind == "f" or pixels.shape[2] not in (1, 3, 4):
            wide = Image([1, 1], mode="array", depth=32, channels=pixels.shape[2])
            return wide.save(Record(pixels), path.with_suffix(".npy"), recipe)
        icc = self.icc
        if icc and icc[16:20] == b"GRAY" and pixels.shape[2] == 4 and not np.ptp(pixels[..., :3], axis=2).any():
            pixels = pixels[..., 2:]  # grey with alpha, as its profile says
        fits = {1: b"GRAY", 2: b"GRAY", 3: b"RGB ", 4: b"RGB "}[pixels.shape[2]]
        icc = icc if icc and icc[16:20] == fits else None
        return write_bytes(path, encode_png(pixels, recipe, generated, icc, self.chunks))

    def _comparable(self, domain: Image) -> None:
        floats = self.pixels.dtype.kind == "f"
        if floats != (domain.depth == 32):
            theirs, ours = ("numbers", "pixels of 8 or 16 bits") if floats else ("pixels of 8 or 16 bits", "numbers")
            raise KakusanError(f"{self.name}: holds {theirs}, the model was trained on {ours}; convert it first")


def open_canvas(source: Source) -> Canvas:
    """A picture file, or an array (H, W), (H, W, C) of uint8, uint16 or floats; animations are refused."""
    if isinstance(source, np.ndarray):
        pixels = picture.plain_dtype(source[..., None] if source.ndim == 2 else source)
        if pixels.ndim != 3 or not pixels.size:
            raise KakusanError(f"image: an array {source.shape}; a picture is (H, W) or (H, W, C)")
        return Canvas(pixels, "array", "", hashlib.sha256(pixels.tobytes()).hexdigest())
    path = Path(source)
    if not path.is_file():
        raise KakusanError(f"{path}: {'is a folder; name one picture' if path.is_dir() else 'no such file'}")
    data = path.read_bytes()
    record = picture.decode(data, path.name)
    if record.meta.get("animated"):
        raise KakusanError(f"{path}: is animated; save one of its frames as a picture and edit that")
    picture.require_finite(record.data, path.name)
    digest = hashlib.sha256(data).hexdigest()
    return Canvas(
        np.array(record.data), path.name, str(path), digest, record.meta.get("icc"), tuple(colour_chunks(data))
    )


def open_mask(source: Source, size: tuple[int, int]) -> tuple[np.ndarray, Canvas]:
    """A mask of the picture's own ``size`` as (H, W) float32, 0 = stays, 1 = is repainted (white), and its file.

    Colours count by their luminance, what is transparent counts as black. A JPEG's is made hard at half, since its
    compression leaves specks.
    """
    found = open_canvas(source)
    if found.size != size:
        theirs, ours = (f"{s[1]} x {s[0]}" for s in (found.size, size))
        raise KakusanError(f"mask {found.name} is {theirs} pixels, the picture {ours}: a mask has the picture's size")
    a = found.pixels.astype(np.float64)
    if found.pixels.dtype.kind == "u":
        a /= np.iinfo(found.pixels.dtype).max
    if a.shape[2] not in (1, 3, 4):
        raise KakusanError(f"mask {found.name} has {a.shape[2]} channels: give a black and white picture")
    grey = a[..., 0] if a.shape[2] == 1 else a[..., :3] @ np.array([0.299, 0.587, 0.114])
    mask = np.clip(grey * a[..., 3] if a.shape[2] == 4 else grey, 0, 1)
    mask[mask > 1 - 1e-6] = 1
    if found.name.lower().endswith((".jpg", ".jpeg")):
        mask = (mask >= 0.5).astype(np.float64)
    return mask.astype(np.float32), found


def feathered(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask (H, W) rising over ``pixels`` from its border inwards; nothing outside it changes."""
    inner = torch.from_numpy(mask)[None, None]
    total = inner.clone()
    for _ in range(pixels):
        inner = -functional.max_pool2d(-inner, 3, 1, 1)
        total += inner
    return (total / (pixels + 1))[0, 0].numpy()
