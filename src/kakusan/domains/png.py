"""PNG files written here, since Pillow can not write 16-bit colour, with the recipe that made them inside."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kakusan.part import KakusanError

__all__ = ["colour_chunks", "encode_png", "read_recipe"]

_PNG = b"\x89PNG\r\n\x1a\n"
_COLOUR = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"pHYs")
_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType='
    '"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/></rdf:RDF></x:xmpmeta>'
    '<?xpacket end="w"?>'
)


def encode_png(
    data: np.ndarray,
    recipe: Mapping[str, Any] | None = None,
    generated: bool = False,
    icc: bytes | None = None,
    chunks: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """(H, W, C) uint8 or uint16, C = 1, 3 or 4, as a PNG of that depth; recipe as JSON in the text chunk "kakusan".

    ``generated`` marks the file as made by a trained model (IPTC digital source type, in XMP). ``chunks`` are written
    as they are, as ``colour_chunks`` found them.
    """
    if data.ndim != 3 or data.shape[2] not in (1, 2, 3, 4) or data.dtype not in (np.uint8, np.uint16):
        raise KakusanError(f"a PNG holds (H, W, 1 to 4) of uint8 or uint16; got {data.shape} of {data.dtype}")
    height, width, channels = data.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * data.dtype.itemsize, kind, 0, 0, 0))]
    head += chunks
    if icc:
        head.append((b"iCCP", b"icc\0\0" + zlib.compress(icc)))
    if generated:
        head.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + _XMP.encode()))
    if recipe is not None:
        head.append((b"tEXt", b"kakusan\0" + json.dumps(dict(recipe), sort_keys=True).encode("ascii")))
    head += [(b"IDAT", zlib.compress(_filtered(data), 6)), (b"IEND", b"")]
    body = [struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in head]
    return _PNG + b"".join(body)


def _filtered(data: np.ndarray) -> bytes:
    """Rows with the PNG filter (none, sub, up, Paeth) of the least sum of absolute differences; PNG 1.2, chapter 6."""
    height = data.shape[0]
    step = data.shape[2] * data.dtype.itemsize
    rows = np.ascontiguousarray(data.astype(data.dtype.newbyteorder(">"))).view(np.uint8).reshape(height, -1)
    left, up, corner = np.zeros_like(rows), np.zeros_like(rows), np.zeros_like(rows)
    left[:, step:] = rows[:, :-step]
    up[1:] = rows[:-1]
    corner[1:, step:] = rows[:-1, :-step]
    a, b, c = left.astype(np.int16), up.astype(np.int16), corner.astype(np.int16)
    pa, pb, pc = abs(b - c), abs(a - c), abs(a + b - 2 * c)
    paeth = np.where((pa <= pb) & (pa <= pc), left, np.where(pb <= pc, up, corner))
    tried = np.stack([rows, rows - left, rows - up, rows - paeth])
    best = abs(tried.view(np.int8).astype(np.int32)).sum(2).argmin(0)
    out = np.empty((height, rows.shape[1] + 1), np.uint8)
    out[:, 0] = np.array([0, 1, 2, 4], np.uint8)[best]
    out[:, 1:] = tried[best, np.arange(height)]
    return out.tobytes()


def colour_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """What a PNG says of its colours beside an ICC profile, and of its pixels' size: (kind, bytes) of each chunk."""
    found: list[tuple[bytes, bytes]] = []
    at = 8
    while data[:8] == _PNG and at + 12 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"IDAT":
            break
        if kind in _COLOUR and size <= 64 and at + 12 + size <= len(data):
            found.append((kind, data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def read_recipe(path: str | Path) -> dict[str, Any] | None:
    """The recipe inside a PNG that ``save`` wrote, or in the JSON beside an array; None when there is none."""
    path = Path(path)
    try:
        if path.suffix == ".npy":
            beside = path.with_suffix(".json")
            return _recipe(beside.read_bytes(), beside) if beside.exists() else None
        with path.open("rb") as f:
            if f.read(8) != _PNG:
                return None
            while len(head := f.read(8)) == 8:
                size, kind = struct.unpack(">I4s", head)
                if kind == b"tEXt" and size <= 2**20:
                    key, _, text = f.read(size).partition(b"\0")
                    if key == b"kakusan":
                        return _recipe(text, path)
                    f.seek(4, 1)
                else:
                    f.seek(size + 4, 1)
    except OSError as error:
        raise KakusanError(f"{path}: {error.strerror or error}; give a picture that kakusan saved") from None
    return None


def _recipe(text: bytes, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise KakusanError(f"{path}: the recipe inside is damaged")
    return found
