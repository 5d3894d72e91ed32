"""Cache: decoded once, never stale, and what can not be decoded is named."""

from __future__ import annotations

import os

import numpy as np
import pytest

from kakusan.domains.image import Image
from kakusan.domains.picture import encode_png
from kakusan.part import KakusanError
from kakusan.training import cache as module
from kakusan.training.cache import build_cache, cache_root
from kakusan.training.source import open_source

RNG = np.random.default_rng(0)


def folder(path, count: int = 30, dtype=np.uint8):
    path.mkdir()
    pixels = RNG.integers(0, np.iinfo(dtype).max + 1, (count, 6, 5, 1)).astype(dtype)
    for i, a in enumerate(pixels):
        (path / f"{i:03}.png").write_bytes(encode_png(a))
    return pixels


@pytest.mark.parametrize("dtype, depth", [(np.uint8, 8), (np.uint16, 16)])
def test_pixels_are_the_files_own_in_order(tmp_path, dtype, depth, monkeypatch):
    pixels = folder(tmp_path / "data", dtype=dtype)
    monkeypatch.setattr(module, "_CHUNK", 7)  # several chunks in flight
    source, domain = open_source(tmp_path / "data"), Image([6, 5], "L", depth)
    calls = []
    made = build_cache(source, domain, tmp_path / "cache", progress=lambda *n: calls.append(n), workers=3)
    assert made.fresh and isinstance(made.pixels, np.memmap) and made.pixels.dtype == dtype
    assert np.array_equal(made.pixels, pixels) and made.rows.tolist() == list(range(30)) and not made.broken
    assert calls[-1] == (30, 30, 0)
    again = build_cache(source, domain, tmp_path / "cache")
    assert not again.fresh and np.array_equal(again.pixels, pixels) and np.array_equal(again.hashes, made.hashes)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [made.path.name]
    assert made.pixels.flags.writeable is False


def test_a_touched_file_means_a_new_cache(tmp_path):
    folder(tmp_path / "data")
    domain = Image([6, 5], "L")
    first = build_cache(open_source(tmp_path / "data"), domain, tmp_path / "cache")
    new = np.full((6, 5, 1), 9, np.uint8)
    status = (tmp_path / "data/003.png").stat()
    (tmp_path / "data/003.png").write_bytes(encode_png(new))
    os.utime(tmp_path / "data/003.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    second = build_cache(open_source(tmp_path / "data"), domain, tmp_path / "cache")
    assert second.fresh and second.path != first.path and np.array_equal(second.pixels[3], new)


def test_another_size_or_mode_means_another_cache_but_sigma_does_not(tmp_path):
    folder(tmp_path / "data")
    source = open_source(tmp_path / "data")
    paths = {
        build_cache(source, d, tmp_path / "c").path
        for d in (Image([6, 5], "L"), Image([4, 4], "L"), Image([6, 5], "RGB"))
    }
    assert len(paths) == 3
    assert build_cache(source, Image([6, 5], "L", sigma_data=0.9), tmp_path / "c").path in paths


def test_verify_finds_a_change_that_kept_size_and_time(tmp_path):
    folder(tmp_path / "data")
    domain, path = Image([6, 5], "L"), tmp_path / "data/000.png"
    build_cache(open_source(tmp_path / "data"), domain, tmp_path / "c")
    status, data = path.stat(), path.read_bytes()
    a = np.zeros((6, 5, 1), np.uint8)
    for _ in range(4000):  # other pixels in a file of the same length
        a = RNG.integers(0, 256, (6, 5, 1)).astype(np.uint8)
        if len(encode_png(a)) == len(data):
            break
    path.write_bytes(encode_png(a))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    source = open_source(tmp_path / "data")
    assert not build_cache(source, domain, tmp_path / "c").fresh  # what --verify is for
    checked = build_cache(source, domain, tmp_path / "c", verify=True)
    assert checked.fresh and np.array_equal(checked.pixels[0], a)
    assert not build_cache(source, domain, tmp_path / "c", verify=True).fresh
    assert len(list((tmp_path / "c").iterdir())) == 1


def test_broken_files_are_listed_and_rows_stay_aligned(tmp_path):
    pixels = folder(tmp_path / "data", 12)
    whole = (tmp_path / "data/004.png").read_bytes()
    (tmp_path / "data/004.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "data/007.png").write_bytes(b"")
    source = open_source(tmp_path / "data")
    for cache in (build_cache(source, Image([6, 5], "L"), tmp_path / "c") for _ in range(2)):
        assert [name for name, _ in cache.broken] == ["004.png", "007.png"]
        assert "empty" in cache.broken[1][1] and len(cache) == 10
        assert cache.rows.tolist() == [0, 1, 2, 3, 5, 6, 8, 9, 10, 11]
        assert np.array_equal(cache.pixels, pixels[cache.rows])


def test_nothing_readable_is_an_error_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.png").write_bytes(b"nothing")
    with pytest.raises(KakusanError, match="none of its 1 pictures"):
        build_cache(open_source(tmp_path / "data"), Image([4, 4]), tmp_path / "c")
    assert not list((tmp_path / "c").iterdir())


def test_a_source_that_changes_meanwhile_is_refused(tmp_path):
    folder(tmp_path / "data")

    def meddle(done: int, total: int, broken: int) -> None:
        os.utime(tmp_path / "data/000.png", ns=(1, 1))

    with pytest.raises(KakusanError, match="changed while"):
        build_cache(open_source(tmp_path / "data"), Image([6, 5], "L"), tmp_path / "c", progress=meddle)
    assert not list((tmp_path / "c").iterdir())


def test_a_damaged_cache_is_built_again(tmp_path):
    pixels = folder(tmp_path / "data")
    source, domain = open_source(tmp_path / "data"), Image([6, 5], "L")
    path = build_cache(source, domain, tmp_path / "c").path
    with (path / "pixels.npy").open("r+b") as f:
        f.truncate(200)
    again = build_cache(source, domain, tmp_path / "c")
    assert again.fresh and np.array_equal(again.pixels, pixels)


def test_too_small_a_disk_is_said_before(tmp_path, monkeypatch):
    folder(tmp_path / "data")
    monkeypatch.setattr(
        module.shutil, "disk_usage", lambda path: os.terminal_size((0, 0)) and type("D", (), {"free": 10})()
    )
    with pytest.raises(KakusanError, match="KAKUSAN_CACHE"):
        build_cache(open_source(tmp_path / "data"), Image([6, 5], "L"), tmp_path / "c")


def test_the_cache_lies_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path / "here"))
    assert cache_root() == tmp_path / "here"
    monkeypatch.delenv("KAKUSAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "kakusan"
