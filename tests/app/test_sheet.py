"""Sheets and films hold exactly the pictures they were given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFont

from kakusan.app.draw import lettering
from kakusan.app.draw.lettering import FONTS, font_for
from kakusan.app.draw.sheet import GAP, checkerboard, film, grid
from kakusan.part import KakusanError


def some(n: int, shape: tuple[int, ...], dtype=np.uint8, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, np.iinfo(dtype).max + 1, shape, dtype) for _ in range(n)]


@pytest.mark.parametrize(("shape", "mode"), [((8, 6), "L"), ((8, 6, 1), "L"), ((8, 6, 3), "RGB"), ((8, 6, 4), "RGBA")])
def test_each_cell_is_its_picture(shape, mode):
    pictures = some(5, shape)
    sheet = grid(pictures, columns=3, scale=2)
    assert sheet.mode == mode and sheet.size == (3 * (12 + GAP) + GAP, 2 * (16 + GAP) + GAP)
    a = np.asarray(sheet)
    for i, p in enumerate(pictures):
        x, y = GAP + i % 3 * (12 + GAP), GAP + i // 3 * (16 + GAP)
        assert np.array_equal(a[y : y + 16 : 2, x : x + 12 : 2], p.squeeze())


def test_transparency_and_sixteen_bits_are_kept():
    clear = np.zeros((4, 4, 4), np.uint8)
    assert np.asarray(grid([clear] * 4))[..., 3].max() == 0
    deep = some(4, (8, 8, 1), np.uint16)
    sheet = grid(deep, scale=1)
    assert sheet.mode == "I;16" and np.array_equal(np.asarray(sheet)[2:10, 2:10], deep[0][..., 0])
    assert grid(some(2, (8, 8, 3), np.uint16)).mode == "RGB"


def test_grey_transparent_and_deep_pictures_share_a_sheet():
    sheet = grid([*some(1, (4, 4, 1)), *some(1, (4, 4, 4)), *some(1, (4, 4, 3), np.uint16)], 2, scale=1)
    assert sheet.size == (2 * (4 + GAP) + GAP,) * 2 and np.asarray(sheet).dtype == np.uint8


def test_small_pictures_grow_and_large_ones_do_not():
    assert grid(some(1, (28, 28))).width == 4 * 28 + 2 * GAP
    assert grid(some(1, (200, 200))).width == 200 + 2 * GAP


def test_labels_and_mixed_kinds():
    sheet = grid([*some(2, (28, 28)), *some(1, (28, 20, 4))], labels=["a", "a very long label indeed, 漢字", "c"])
    assert sheet.mode == "RGBA"
    bottom = np.asarray(sheet.convert("RGBA"))[-18:, :, :]
    assert bottom[..., 3].max() > 200  # something is written there


def test_labels_are_in_a_font_that_has_their_letters(monkeypatch):
    own = ImageFont.load_default(size=12)
    assert font_for(["a red apple"], 12).getname() == own.getname()
    asked: list[str] = []

    def none(name: str, size: int) -> None:
        asked.append(name)
        raise OSError(name)

    monkeypatch.setattr(lettering, "truetype", none)
    assert font_for(["赤いりんご"], 12).getname() == own.getname() and asked == list(FONTS), "boxes"

    class Every:
        """A font that draws each letter as itself."""

        def getmask(self, letter: str) -> Any:
            return Image.new("L", (4, 1), ord(letter) % 251).im

    monkeypatch.setattr(lettering, "truetype", lambda name, size: Every())
    assert isinstance(font_for(["赤いりんご"], 12), Every)


@pytest.mark.parametrize("ending", [".webp", ".gif", ".png"])
def test_film_plays_all_frames_and_rests_on_the_last(ending, tmp_path: Path):
    frames = [np.full((16, 16, 3), 12 * i, np.uint8) for i in range(20)]
    path = film(frames, tmp_path / f"film{ending}")
    with Image.open(path) as shown:
        assert shown.n_frames == 20 and shown.info.get("loop", 0) == 0
        shown.seek(19)
        last = np.asarray(shown.convert("RGB"))
        assert abs(int(last.mean()) - 228) < 6 and shown.width == 256


def test_film_of_transparent_pictures_and_default_ending(tmp_path: Path):
    frames = [np.dstack([np.full((8, 8, 3), 200, np.uint8), np.full((8, 8), a, np.uint8)]) for a in (0, 128, 255)]
    path = film(frames, tmp_path / "film")
    assert path.suffix in (".webp", ".png")
    with Image.open(path) as shown:
        assert shown.convert("RGBA").getpixel((4, 4))[3] < 10


def test_what_cannot_be_is_refused(tmp_path: Path):
    for bad in (lambda: grid([]), lambda: grid(some(2, (4, 4)), labels=["a"]), lambda: film([], tmp_path / "a.gif")):
        with pytest.raises(KakusanError):
            bad()
    with pytest.raises(KakusanError, match="ending"):
        film(some(2, (4, 4)), tmp_path / "a.mov")
    with pytest.raises(KakusanError, match="sizes"):
        film([*some(1, (4, 4)), *some(1, (5, 4))], tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


def test_checkerboard_shows_through():
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert sorted(set(np.asarray(checkerboard(clear)).reshape(-1).tolist())) == [204, 255]
    assert checkerboard(Image.new("RGBA", (8, 8), (255, 0, 0, 255))).getpixel((3, 3)) == (255, 0, 0)
