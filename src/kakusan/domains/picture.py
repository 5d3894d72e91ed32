"""Picture files: bytes to arrays, with the depth and the transparency kept; ``png.py`` is the way back.

Reading goes through Pillow after the header has been checked. Arrays are (H, W, C): 1 = grey, 3 = RGB, 4 = RGBA with
straight (not premultiplied) alpha.
"""

from __future__ import annotations

import contextlib
import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image as Pil
from PIL import ImageOps, UnidentifiedImageError

from kakusan.domains.domain import Record
from kakusan.domains.png import encode_png, read_recipe
from kakusan.part import KakusanError

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "SUFFIXES",
    "PictureError",
    "decode",
    "encode_png",
    "read_recipe",
    "used_here",
]

MAX_PIXELS = 20 * 2**20  # of one picture as it is decoded, read off its header before anything is allocated
SHRUNK = 16  # times as many pixels may a JPEG have that can be decoded at a fraction of its size
MAX_BYTES = 64 * 2**20  # of one file
SUFFIXES = frozenset(
    [
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".tga",
        ".jp2",
        ".avif",
        ".npy",
    ]
)
_FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF"]
_open_lock = threading.Lock()


class PictureError(KakusanError):
    """A picture that can not be read; ``reason`` is "truncated", "oversized", "broken" or "unsupported"."""

    def __init__(self, name: str, reason: str, detail: str) -> None:
        super().__init__(f"{name}: {reason}: {detail}")
        self.name, self.reason, self.detail = name, reason, detail


def decode(data: bytes, name: str, target: tuple[int, int] | None = None, limit: int = MAX_PIXELS) -> Record:
    """One file's bytes as a record: (H, W, C) uint8, uint16 (16-bit sources) or float32 (``.npy``, float TIFF).

    EXIF orientation is applied; palettes, CMYK and grey with alpha become RGB or RGBA. ``target`` (H, W) allows a
    JPEG to be decoded at a fraction of its size, never below twice the target. Raises PictureError.
    """
    if not data:
        raise PictureError(name, "broken", "the file is empty")
    if len(data) > MAX_BYTES:
        raise PictureError(name, "oversized", f"{len(data) / 2**20:.0f} MiB; the limit is {MAX_BYTES >> 20} MiB")
    if data[:6] == b"\x93NUMPY":
        return _decode_npy(data, name, limit)
    try:
        with _opened(data) as im:
            return _decode_open(im, data, name, target, limit)
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError(name, "unsupported", "this is no picture in a format that is read here") from None
    except Pil.DecompressionBombError:
        detail = f"more than {2 * (Pil.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} megapixels; the limit is {limit / 1e6:.0f}"
        raise PictureError(name, "oversized", detail) from None
    except MemoryError:
        raise PictureError(name, "oversized", "not enough memory to decode it") from None
    except Exception as error:  # decoders raise nearly anything on hostile bytes
        text = str(error) or type(error).__name__
        short = any(w in text.lower() for w in ("truncat", "unexpected end", "incomplete", "not enough"))
        raise PictureError(name, "truncated" if short else "broken", text.splitlines()[0][:200]) from None


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Pil.Image]:
    """The header read; Pillow's own warning about large pictures is left out, since ours is an error."""
    with _open_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        im = Pil.open(io.BytesIO(data), formats=_FORMATS)
    with im:
        yield im


def _decode_open(im: Pil.Image, data: bytes, name: str, target: tuple[int, int] | None, limit: int) -> Record:
    width, height = im.size
    _shrink(im, target, limit)
    pixels = im.width * im.height * _heavy(im, data)
    if pixels > limit or width * height > SHRUNK * limit:
        most = limit // _heavy(im, data)
        detail = f"{width} x {height} is {width * height / 1e6:.0f} megapixels; the limit is {most / 1e6:.0f}"
        raise PictureError(name, "oversized", detail)
    with contextlib.ExitStack() as here:
        (getattr(_thread, "used", None) or here).enter_context(_room.taken(pixels))
        return _decoded(im, data, name, (width, height))


@contextlib.contextmanager
def used_here() -> Iterator[None]:
    """What this thread decodes inside counts as being decoded until the end, so that memory is bounded in its use too.

    For one picture at a time.
    """
    with contextlib.ExitStack() as used:
        _thread.used = used
        try:
            yield
        finally:
            _thread.used = None


def _shrink(im: Pil.Image, target: tuple[int, int] | None, limit: int) -> None:
    """Let a JPEG be decoded at a fraction of its size: down to twice the target, or where it is too large for us."""
    if im.format not in ("JPEG", "MPO"):
        return
    if target is not None:
        im.draft(None, (2 * max(target), 2 * max(target)))
    if im.width * im.height * _heavy(im, b"") > limit:
        im.draft(None, (im.width // 8, im.height // 8))


def _heavy(im: Pil.Image, data: bytes) -> int:
    """How much more memory than a plain picture of as many pixels it takes to decode this one."""
    if im.format in ("WEBP", "AVIF", "JPEG2000", "TIFF"):
        return 2
    if im.format in ("JPEG", "MPO"):
        return 2 if "progressive" in im.info else 1
    return 2 if im.format == "PNG" and len(data) > 25 and data[24] == 16 else 1


class _Room:
    """At most so many pixels are being decoded at one time, in however many threads."""

    def __init__(self, pixels: int) -> None:
        self.free = self.all = pixels
        self.change = threading.Condition()

    @contextlib.contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        with self.change:
            self.change.wait_for(lambda: self.free >= pixels or self.free == self.all)
            self.free -= pixels
        try:
            yield
        finally:
            with self.change:
                self.free += pixels
                self.change.notify_all()


_room = _Room(MAX_PIXELS)
_thread = threading.local()


def _decoded(im: Pil.Image, data: bytes, name: str, whole: tuple[int, int]) -> Record:
    width, height = whole
    meta: dict[str, Any] = {"name": name, "format": im.format, "mode": im.mode, "size": (height, width)}
    if getattr(im, "is_animated", False):
        meta["animated"] = True  # the first frame is used
    deep = _sixteen(im, data)
    if deep is None:
        im.load()
    if icc := im.info.get("icc_profile"):
        meta["icc"] = icc
    turn = _orientation(im)
    if deep is not None:
        return Record(np.ascontiguousarray(_turned(deep, turn)), meta)
    if turn != 1:
        im = ImageOps.exif_transpose(im)
    return Record(_pixels(im), meta)


def _orientation(im: Pil.Image) -> int:
    """EXIF orientation 1-8; a damaged EXIF block counts as none, without Pillow's warning."""
    if im.format != "TIFF" and not {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"} & im.info.keys():
        return 1
    try:
        with _open_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return int(im.getexif().get(0x0112, 1))
    except Exception:
        return 1


def _pixels(im: Pil.Image) -> np.ndarray:
    """A loaded Pillow picture as (H, W, C)."""
    if im.mode == "F":
        return np.asarray(im, np.float32)[..., None]
    if im.mode.startswith("I"):
        a = np.asarray(im)
        if a.size and (a.min() < 0 or a.max() > 65535):
            return a.astype(np.float32)[..., None]
        return a.astype(np.uint16)[..., None]
    clear = "transparency" in im.info or im.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    wanted = "RGBA" if clear else "L" if im.mode in ("1", "L") else "RGB"
    if im.mode in ("La", "RGBa"):
        im = im.convert("LA" if im.mode == "La" else "RGBA")
    a = _array(im if im.mode == wanted else im.convert(wanted))
    return a[..., None] if a.ndim == 2 else a


def _array(im: Pil.Image) -> np.ndarray:
    """A copy of the pixels, some rows at a time: Pillow's own way to NumPy holds a large picture three times over."""
    rows = max(1, 2**18 // im.width)
    tops = range(0, im.height, rows)
    parts = (np.asarray(im.crop((0, top, im.width, min(top + rows, im.height)))) for top in tops)
    first = next(parts)
    if len(tops) == 1:
        return first
    a = np.empty((im.height, *first.shape[1:]), first.dtype)
    a[:rows] = first
    for top, part in zip(tops[1:], parts, strict=True):
        a[top : top + rows] = part
    return a


def _sixteen(im: Pil.Image, data: bytes) -> np.ndarray | None:
    """16-bit PNG with colour or alpha, of which Pillow keeps the high bytes only; None where it keeps all.

    Its unpackers for the other byte order pick the low bytes; grey with alpha is read as 8-bit RGBA, byte for byte.
    """
    if im.format != "PNG" or len(data) < 33 or data[24] != 16 or data[25] == 0:
        return None
    if data[25] == 4:
        header = data[12:24] + b"\x08\x06" + data[26:29]
        crc = struct.pack(">I", zlib.crc32(header))
        with _opened(data[:12] + header + crc + data[33:]) as other:
            la = np.asarray(other).copy().view(">u2").astype(np.uint16)
        return la[..., [0, 0, 0, 1]]
    tile = im.tile[0]
    with _opened(data) as other:
        other.tile = [tile._replace(args=tile.args.replace("16B", "16L"))]
        low = np.asarray(other)
    high = np.asarray(im)
    return (high.astype(np.uint16) << 8) | low[..., : high.shape[-1]]


def _turned(a: np.ndarray, turn: int) -> np.ndarray:
    """EXIF orientation 1-8 applied to an array."""
    if turn in (5, 6, 7, 8):
        a = a.transpose(1, 0, 2)
    flips = {2: "h", 3: "hv", 4: "v", 6: "h", 7: "hv", 8: "v"}.get(turn, "")
    a = a[:, ::-1] if "h" in flips else a
    return a[::-1] if "v" in flips else a


def _decode_npy(data: bytes, name: str, limit: int) -> Record:
    try:
        a = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:
        text = str(error).splitlines()[0][:200]
        short = "cannot reshape" in text or "EOF" in text or "expected" in text
        raise PictureError(name, "truncated" if short else "broken", text) from None
    if a.ndim not in (2, 3) or a.dtype.kind not in "buif" or not a.size:
        raise PictureError(name, "unsupported", f"an array {a.shape} of {a.dtype}; (H, W) or (H, W, C) numbers needed")
    a = channels_last(a)
    if a.shape[0] * a.shape[1] > limit:
        raise PictureError(name, "oversized", f"{a.shape[1]} x {a.shape[0]} pixels; the limit is {limit}")
    return Record(plain_dtype(a), {"name": name, "format": "NPY", "mode": "array", "size": a.shape[:2]})


def require_finite(a: np.ndarray, name: str) -> None:
    """Refuses floats among which one is not a number or infinite: a single such value would spoil a training."""
    if a.dtype.kind == "f" and not np.isfinite(a).all():
        count = int((~np.isfinite(a)).sum())
        raise PictureError(name, "broken", f"{count:,} of its {a.size:,} values are not finite numbers")


def channels_last(a: np.ndarray, lead: int = 0) -> np.ndarray:
    """(..., H, W), (..., H, W, C) or (..., C, H, W) as (..., H, W, C), after ``lead`` leading dimensions; a view.

    The channels are a last dimension of 1, 3 or 4, else a first one of these, else the smaller of the two.
    """
    if a.ndim == lead + 2:
        return a[..., None]
    first, last = a.shape[lead], a.shape[-1]
    is_last = last in (1, 3, 4) or (first not in (1, 3, 4) and last <= first)
    return a if is_last else np.moveaxis(a, lead, -1)


def plain_dtype(a: np.ndarray) -> np.ndarray:
    """Booleans as 0 and 255, integers that fit as uint8 or uint16, everything else as float32."""
    if a.dtype.kind == "b":
        return a.astype(np.uint8) * np.uint8(255)
    if a.dtype in (np.uint8, np.uint16):
        return a.astype(a.dtype.newbyteorder("="), copy=False)
    if a.dtype.kind in "ui" and a.size and a.min() >= 0 and a.max() <= 65535:
        return a.astype(np.uint8 if a.max() <= 255 else np.uint16)
    return a.astype(np.float32)


def shown(a: np.ndarray) -> np.ndarray:
    """Any picture array as (H, W, 3) uint8 to look at: 16-bit scaled, alpha over a chequerboard, floats stretched."""
    if a.dtype == np.uint16:
        a = (a / 257 + 0.5).astype(np.uint8)
    elif a.dtype != np.uint8:
        low, high = float(np.nanmin(a)), float(np.nanmax(a))
        a = (np.nan_to_num((a - low) / max(high - low, 1e-12)) * 255 + 0.5).astype(np.uint8)
    if a.shape[2] == 4:
        y, x = np.indices(a.shape[:2]) // 8
        back = np.where((x + y) % 2, 204, 240)[..., None]
        alpha = a[..., 3:] / 255
        return (a[..., :3] * alpha + back * (1 - alpha) + 0.5).astype(np.uint8)
    return np.ascontiguousarray(a[..., :3]) if a.shape[2] >= 3 else np.repeat(a[..., :1], 3, 2)
