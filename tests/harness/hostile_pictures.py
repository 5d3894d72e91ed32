"""Damaged pictures and bombs by the hundred among a few whole ones, and a child that runs commands on them."""

from __future__ import annotations

import contextlib
import io
import os
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pil

GOOD = 24
LARGE = 4  # whole, and as large as is let in


def scene(draw: random.Random, side: int = 40) -> Pil.Image:
    """A smooth coloured picture."""
    coarse = np.frombuffer(draw.randbytes(48), np.uint8).reshape(4, 4, 3)
    return Pil.fromarray(coarse).resize((side, side), Pil.Resampling.BICUBIC)


def encoded(picture: Pil.Image, kind: str, **more: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **more)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


ZEROS = zlib.compress(bytes(64 << 20), 9)  # 64 MB in 64 kB
PIXELS = zlib.compress(bytes(33 * 32))


def truncated(draw: random.Random) -> tuple[str, bytes]:
    kind, end = draw.choice([("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"), ("GIF", "gif"), ("TIFF", "tif")])
    data = encoded(scene(draw), kind)
    return end, data[: draw.randrange(1, len(data) * 2 // 3)]


def headers(draw: random.Random) -> tuple[str, bytes]:
    """A few bytes that claim gigapixels."""
    side = draw.choice([6_000, 60_000, 2**31 - 1])
    how = draw.randrange(6)
    if how == 0:
        return "png", png(side, side, chunk(b"IDAT", PIXELS))
    if how == 1:
        return "png", png(side, side, chunk(b"IDAT", ZEROS), depth=16, colour=6)
    if how == 2:
        data = bytearray(encoded(scene(draw), "GIF"))
        data[6:10] = struct.pack("<HH", 65535, 65535)
        return "gif", bytes(data)
    if how == 3:
        data = bytearray(encoded(scene(draw), "BMP"))
        data[18:26] = struct.pack("<ii", side, side)
        return "bmp", bytes(data)
    if how == 4:
        data = bytearray(encoded(scene(draw), "JPEG", progressive=draw.random() < 0.5))
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        data[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
        return "jpg", bytes(data)
    return "ppm", b"P6 %d %d 255\n" % (side, side) + bytes(100)


def bombs(draw: random.Random) -> tuple[str, bytes]:
    """Small files that inflate."""
    how = draw.randrange(5)
    if how == 0:
        return "png", png(32, 32, chunk(b"zTXt", b"note\0\0" + ZEROS), chunk(b"IDAT", PIXELS[:20]))
    if how == 1:
        return "png", png(32, 32, chunk(b"iCCP", b"icc\0\0" + ZEROS), chunk(b"IDAT", PIXELS[:20]))
    if how == 2:
        return "png", png(32, 32, chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + ZEROS), chunk(b"IDAT", PIXELS[:20]))
    if how == 3:
        return "png", png(8000, 8000, chunk(b"IDAT", ZEROS))
    return "png", png(32, 32, *[chunk(b"IDAT", b"")] * 20_000)


def foreign(draw: random.Random) -> tuple[str, bytes]:
    how = draw.randrange(7)
    end = draw.choice(["png", "jpg", "webp", "gif", "tiff", "npy", "avif", "tga", "jp2"])
    if how == 0:
        return end, b""
    if how == 1:
        return end, draw.randbytes(draw.randrange(1, 3000))
    if how == 2:
        return end, b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    if how == 3:
        return "npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + (
            b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 60000), }" % draw.choice([60_000, 10**15])
        ).ljust(117) + b"\n"
    if how == 4:
        return "npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + (
            b"{'descr': '|O', 'fortran_order': False, 'shape': (3, 3), }"
        ).ljust(117) + b"\ncos\nsystem\n."
    if how == 5:
        return end, bytes(draw.choice([1, 100, 100_000]))
    return "png", b"\x89PNG\r\n\x1a\n" + draw.randbytes(200)


def tagged(draw: random.Random) -> tuple[str, bytes]:
    """TIFFs with absurd tags."""
    data = bytearray(encoded(scene(draw), "TIFF"))
    at = struct.unpack_from("<I", data, 4)[0]
    for i in range(struct.unpack_from("<H", data, at)[0]):
        entry = at + 2 + 12 * i
        tag = struct.unpack_from("<H", data, entry)[0]
        if tag in (256, 257):  # width and height
            struct.pack_into("<HII", data, entry + 2, 4, 1, 2**31 - 1)
        elif draw.random() < 0.5:
            struct.pack_into("<II", data, entry + 4, draw.choice([2**31, 2**16]), draw.choice([2**32 - 1, 0]))
    return "tiff", bytes(data)


KINDS = [truncated, headers, bombs, foreign, tagged]


def write_files(folder: Path, count: int) -> None:
    """``count`` hostile files, and whole pictures between them."""
    draw = random.Random(0)
    folder.mkdir()
    for i in range(GOOD):
        (folder / f"good-{i:03d}.png").write_bytes(encoded(scene(draw), "PNG"))
    large = np.zeros((4500, 4600, 3), np.uint8)
    for i, (mode, kind) in enumerate([("RGB", "PNG"), ("RGBA", "PNG"), ("L", "PNG"), ("RGB", "JPEG")]):
        picture = Pil.fromarray(large[..., i % 3]).convert(mode)
        (folder / f"large-{i}.{kind.lower()}").write_bytes(encoded(picture, kind))
    for i in range(count - 3):
        end, data = KINDS[i % len(KINDS)](draw)
        name = f"bad-{i:03d}.{end}".encode()
        if i % 10 == 9:
            name = b"bad-\xff\xfe-" + name
        Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).write_bytes(data)  # noqa: PTH118
    (folder / "bad-loop").symlink_to(folder)
    (folder / "bad-self.png").symlink_to(folder / "bad-self.png")
    (folder / "bad-folder.png").mkdir()


def check_data(folder: str) -> dict[str, Any]:
    """In a child: ``kakusan data check``; exit code, words, megabytes at most."""
    from harness.hostile_models import peak
    from kakusan.app import cli

    out, code = io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            cli.main(["data", "check", folder])
        except SystemExit as leaving:
            code = int(leaving.code or 0)
    return {"code": code, "said": out.getvalue().encode("utf-8", "replace").decode(), "megabytes": peak()}
