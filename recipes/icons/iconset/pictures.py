"""Pictures: a drawing of any kind as RGBA of 64 to 256 pixels, averaged over areas, colours weighted by opacity."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from kakusan.part import KakusanError

__all__ = ["FINE", "SIDE", "drawn"]

SIDE = 64
FINE = 256  # the largest side, and that of rasterised SVGs: at 64 the modern drawings come out 9 of 255 off, so 2
FAINT = 4  # alpha nearer than this to 0 or 255 is that
RASTERISER = "resvg-py==0.5.0"


def drawn(data: bytes, pixels: int = SIDE) -> np.ndarray:
    """A PNG, WebP or SVG file as (pixels, pixels, 4) uint8 with straight alpha; what is wholly clear has no colour.

    Down from a larger size every pixel is the mean over its area, of premultiplied colours: no ringing, no halo of a
    colour that lies hidden under transparency. What is not square is centred.
    """
    with Image.open(io.BytesIO(_rasterised(data) if data.lstrip()[:4] in (b"<svg", b"<?xm") else data)) as im:
        a = np.asarray(im.convert("RGBA")).astype(np.float32)
    a = _square(a)
    a[..., :3] *= a[..., 3:] / 255
    if len(a) != pixels:
        planes = [Image.fromarray(np.ascontiguousarray(a[..., c])) for c in range(4)]
        a = np.stack([np.asarray(p.resize((pixels, pixels), Image.Resampling.BOX)) for p in planes], 2)
    alpha = a[..., 3:]
    out = np.concatenate([a[..., :3] * 255 / np.maximum(alpha, 1e-3), alpha], 2)
    out = np.clip(np.rint(out), 0, 255).astype(np.uint8)
    out[out[..., 3] < FAINT] = 0
    out[..., 3][out[..., 3] > 255 - FAINT] = 255
    return out


def _square(a: np.ndarray) -> np.ndarray:
    height, width = a.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return np.pad(a, ((top, side - height - top), (left, side - width - left), (0, 0)))


def _rasterised(svg: bytes) -> bytes:
    """The drawing as a PNG of 256 x 256; the library is needed for this preparation only."""
    try:
        import resvg_py
    except ImportError:
        raise KakusanError(f"no rasteriser for SVG drawings; install it with: pip install {RASTERISER}") from None
    return bytes(resvg_py.svg_to_bytes(svg_string=svg.decode(), width=FINE, height=FINE, skip_system_fonts=True))
