"""Data check: what was planted is found, what is merely plain is not, and no file changes."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image as Pil
from rich.console import Console

from kakusan.app.judge.checkwords import print_check
from kakusan.app.judge.datacheck import check
from kakusan.domains.picture import encode_png
from kakusan.part import KakusanError
from kakusan.training import duplicates

RNG = np.random.default_rng(5)


def scene(side: int = 64) -> np.ndarray:
    """A random smooth coloured picture."""
    coarse = RNG.integers(0, 256, (7, 7, 3)).astype(np.uint8)
    return np.asarray(Pil.fromarray(coarse).resize((side, side), Pil.Resampling.BICUBIC))


def jpeg(a: np.ndarray, quality: int = 70) -> bytes:
    out = io.BytesIO()
    Pil.fromarray(a).save(out, "JPEG", quality=quality)
    return out.getvalue()


@pytest.fixture
def planted(tmp_path):
    root = tmp_path / "data"
    for split, count in (("train", 40), ("test", 10)):
        for c in "ab":
            (root / split / c).mkdir(parents=True)
            for i in range(count // 2):
                (root / split / c / f"{i}.png").write_bytes(encode_png(scene()))
    original = np.asarray(Pil.open(root / "train/a/3.png"))
    (root / "train/b/copy.bmp").write_bytes(as_bmp(original))  # exact, other label, other format
    near = np.asarray(Pil.open(root / "train/a/5.png"))
    (root / "train/a/again.jpg").write_bytes(jpeg(near))
    small = np.asarray(Pil.open(root / "train/b/6.png").resize((48, 48), Pil.Resampling.LANCZOS))
    (root / "test/b/leak.png").write_bytes(encode_png(small))
    (root / "test/a/leak.png").write_bytes((root / "train/a/7.png").read_bytes())
    whole = (root / "train/a/0.png").read_bytes()
    (root / "train/a/cut.jpg").write_bytes(jpeg(original)[:400])
    (root / "train/a/bad.png").write_bytes(b"not a picture")
    huge = bytearray(whole)
    huge[16:24] = (60000).to_bytes(4, "big") * 2
    import zlib

    huge[29:33] = zlib.crc32(bytes(huge[12:29])).to_bytes(4, "big")
    (root / "train/a/huge.png").write_bytes(bytes(huge))
    (root / "train/notes.docx").write_bytes(b"x")
    return root


def as_bmp(a: np.ndarray) -> bytes:
    out = io.BytesIO()
    Pil.fromarray(a).save(out, "BMP")
    return out.getvalue()


def test_everything_planted_is_found(planted, tmp_path):
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in planted.rglob("*")}
    result = check(planted, sheet=tmp_path / "sheet.png")
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in planted.rglob("*")} == before
    json.dumps(result)
    assert (result["pictures"], result["readable"]) == (57, 54)
    assert result["splits"] == {"train": 45, "test": 12}
    assert result["faults"] == {"broken": 0, "truncated": 1, "oversized": 1, "unsupported": 1}
    assert {f["name"] for f in result["faulty"]} == {f"train/a/{n}" for n in ("cut.jpg", "bad.png", "huge.png")}
    exact = {frozenset(g) for g in result["exact"]["examples"]}
    assert exact == {frozenset({"train/a/3.png", "train/b/copy.bmp"}), frozenset({"train/a/7.png", "test/a/leak.png"})}
    assert result["exact"]["labels_differ"] == 1
    near = {frozenset(g) for g in result["near"]["examples"]}
    assert near == {frozenset({"train/a/5.png", "train/a/again.jpg"}), frozenset({"train/b/6.png", "test/b/leak.png"})}
    assert result["leaks"]["exact"]["pictures"] == 1 and result["leaks"]["near"]["pictures"] == 1
    assert result["sizes"]["largest"] == [64, 64] and result["sizes"]["smallest"] == [48, 48]
    assert result["ignored"] == {".docx": 1} and any("more than one of" in line for line in result["advice"])
    sheet = Pil.open(tmp_path / "sheet.png")
    assert sheet.size[0] > 16 * 48


def test_it_prints(planted):
    console = Console(record=True, width=100, file=io.StringIO())
    print_check(check(planted), console)
    text = console.export_text()
    assert "57, 54 readable" in text and "1 exact, 1 near" in text and "cut.jpg" in text and "notes" not in text


def test_against_another_set(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for i in range(8):
            (tmp_path / name / f"{i}.png").write_bytes(encode_png(scene()))
    (tmp_path / "two/3.png").write_bytes((tmp_path / "one/2.png").read_bytes())
    result = check(tmp_path / "one", against=tmp_path / "two")
    assert result["leaks"]["exact"]["pictures"] == 1 and result["pictures"] == 16
    assert check(tmp_path / "one")["leaks"] is None


def test_plain_pictures_and_simple_icons_are_not_near_copies(tmp_path):
    y, x = np.indices((32, 32))
    for colour in range(0, 250, 10):  # plain ones, each of another colour
        (tmp_path / f"plain{colour}.png").write_bytes(encode_png(np.full((32, 32, 3), colour, np.uint8)))
    for k in range(24):  # the same disc elsewhere, on transparency
        a = np.zeros((32, 32, 4), np.uint8)
        cy, cx = 6 + 4 * (k // 5), 6 + 5 * (k % 5)
        a[(y - cy) ** 2 + (x - cx) ** 2 < 16] = (200, 30, 30, 255)
        (tmp_path / f"disc{k}.png").write_bytes(encode_png(a))
    result = check(tmp_path)
    assert result["near"]["groups"] == 0 and result["exact"]["groups"] == 0


def test_black_and_white_drawings_on_transparency_differ(tmp_path):
    shape = RNG.integers(0, 2, (8, 8)).repeat(4, 0).repeat(4, 1) * 255
    for name, ink in (("black", 0), ("white", 255)):
        a = np.dstack([np.full((32, 32, 3), ink), shape]).astype(np.uint8)
        (tmp_path / f"{name}.png").write_bytes(encode_png(a))
    result = check(tmp_path)
    assert result["near"]["groups"] == 0 and result["exact"]["groups"] == 0


def test_candidates_are_found_without_comparing_all():
    hashes = RNG.integers(0, 2**63, 20_000).astype(np.uint64)
    hashes[1234] = hashes[77] ^ np.uint64(0b1000000000000100000000000000000001)
    pairs, crowded = duplicates.candidates(hashes)
    assert [77, 1234] in pairs.tolist() and len(pairs) < 50 and not crowded
    same, crowded = duplicates.candidates(np.zeros(3000, np.uint64))
    assert crowded and len(same) <= 3000 * 64  # bounded even when all are alike


def test_nothing_there_says_so(tmp_path):
    with pytest.raises(KakusanError, match="does not exist"):
        check(tmp_path / "no")


def test_values_that_are_no_numbers_are_a_fault(tmp_path):
    pixels = np.random.default_rng(0).normal(size=(6, 8, 8)).astype(np.float32)
    pixels[2, 3, 3] = np.nan
    np.save(tmp_path / "a.npy", pixels)
    result = check(tmp_path / "a.npy")
    assert result["faults"]["broken"] == 1 and result["faulty"][0]["name"] == "a.npy[2]"


def test_a_large_picture_has_the_small_copy_of_the_whole():
    coarse = np.random.default_rng(0).integers(0, 256, (6, 7, 4), dtype=np.uint8)
    whole = np.asarray(Pil.fromarray(coarse).resize((1500, 1300), Pil.Resampling.BICUBIC))
    for a in (whole, whole[..., :3], whole[..., :1], whole[:333], whole.astype(np.uint16) * 257):
        opaque = np.ascontiguousarray(duplicates._opaque(a))
        plain = np.asarray(Pil.fromarray(opaque).resize((32, 32), Pil.Resampling.BOX))
        assert np.abs(duplicates.small(a).astype(int) - plain).mean() < 1  # what fills no block at the edge is left out
