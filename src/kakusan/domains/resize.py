"""Resize: a picture array to another depth, mode and size, with nothing visible lost."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image as Pil

from kakusan.part import KakusanError

__all__ = ["DTYPES", "channelled", "deepened", "premultiplied", "resized"]

DTYPES: dict[int, np.dtype[Any]] = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16), 32: np.dtype(np.float32)}


def deepened(a: np.ndarray, depth: int) -> np.ndarray:
    """Between 8 and 16 bits by 257, exactly upwards; floats only become floats."""
    if depth == 32 or a.dtype == DTYPES[depth]:
        return a.astype(np.float32) if depth == 32 else a
    if a.dtype == np.uint8:
        return a.astype(np.uint16) * np.uint16(257)
    if a.dtype == np.uint16:
        return ((a.astype(np.uint32) + 128) // 257).astype(np.uint8)
    top = 255 if depth == 8 else 65535
    scaled = a if a.max(initial=0) > 1 else a * top
    return np.clip(np.rint(np.nan_to_num(scaled)), 0, top).astype(DTYPES[depth])


def channelled(a: np.ndarray, mode: str, channels: int, name: str) -> np.ndarray:
    """Grey, RGB and RGBA into each other; what is transparent becomes white where there is no alpha to keep it."""
    have = a.shape[2]
    if have == channels:
        return a
    if mode == "array" or have not in (1, 3, 4):
        raise KakusanError(f"{name}: {have} channels where {channels} are expected (mode {mode})")
    top = np.iinfo(a.dtype).max if a.dtype.kind == "u" else 1.0
    if have == 4:
        alpha = a[..., 3:] / top
        a = _as(a[..., :3] * alpha + top * (1 - alpha), a.dtype)
    if mode == "L":
        return _as(a @ np.array([0.299, 0.587, 0.114]), a.dtype)[..., None] if a.shape[2] == 3 else a
    if a.shape[2] == 1:
        a = np.repeat(a, 3, 2)
    return a if mode == "RGB" else np.concatenate([a, np.full_like(a[..., :1], top)], 2)


def _as(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Computed values back to the dtype they came from, rounded."""
    if dtype.kind == "f":
        return values.astype(dtype)
    return np.clip(np.rint(values), 0, np.iinfo(dtype).max).astype(dtype)


def premultiplied(a: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "f":
        return np.concatenate([a[..., :3] * a[..., 3:], a[..., 3:]], 2)
    top = int(np.iinfo(a.dtype).max)
    out = a.copy()
    out[..., :3] = (a[..., :3].astype(np.uint32) * a[..., 3:] + top // 2) // top
    return out


def resized(a: np.ndarray, size: tuple[int, int], how: str, clear: bool) -> np.ndarray:
    """(H, W, C) at another size, dtype kept: Lanczos with prefilter downwards, bicubic upwards."""
    height, width = a.shape[:2]
    if (height, width) == size:
        return np.ascontiguousarray(a)
    if how == "stretch":
        return _scaled(a, size, None)
    scales = size[0] / height, size[1] / width
    if how == "crop":
        scale = max(scales)
        h, w = size[0] / scale, size[1] / scale
        top, left = (height - h) / 2, (width - w) / 2
        box = (max(left, 0.0), max(top, 0.0), min(left + w, width), min(top + h, height))
        return _scaled(a, size, box)
    scale = min(scales)
    inner = max(1, round(height * scale)), max(1, round(width * scale))
    border = np.concatenate([a[0], a[-1], a[:, 0], a[:, -1]])
    colour = np.zeros(a.shape[2]) if clear else np.median(border, 0)
    out = np.empty((*size, a.shape[2]), a.dtype)
    out[:] = _as(colour, a.dtype)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    out[top : top + inner[0], left : left + inner[1]] = _scaled(a, inner, None)
    return out


def _scaled(a: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float] | None) -> np.ndarray:
    """Pillow's resize; whole pictures for 8 bits, channel by channel in float for everything else."""
    box = box or (0, 0, a.shape[1], a.shape[0])
    down = (box[2] - box[0]) > size[1] or (box[3] - box[1]) > size[0]
    method = Pil.Resampling.LANCZOS if down else Pil.Resampling.BICUBIC
    wide = (size[1], size[0])
    if a.dtype == np.uint8 and a.shape[2] in (1, 3, 4):
        raw = np.ascontiguousarray(a)
        mode = {1: "L", 3: "RGB", 4: "RGBa"}[a.shape[2]]  # RGBa: taken as premultiplied, left alone
        im = Pil.frombuffer(mode, (a.shape[1], a.shape[0]), raw, "raw", mode, 0, 1)
        out = np.asarray(im.resize(wide, method, box, reducing_gap=3.0))
        return np.array(out[..., None] if out.ndim == 2 else out)
    planes = [
        np.asarray(
            Pil.fromarray(np.ascontiguousarray(a[..., c], np.float32)).resize(wide, method, box, reducing_gap=3.0)
        )
        for c in range(a.shape[2])
    ]
    return _as(np.stack(planes, 2), a.dtype)
