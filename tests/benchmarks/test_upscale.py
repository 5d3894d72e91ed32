"""benchmarks/upscale.py: interpolations and PSNR are what they are said to be, and a perfect model wins."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from kakusan.domains.image import Image as Pictures


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("upscale")


def test_psnr_is_of_what_is_seen_over_black(bench):
    domain, a = Pictures(size=[4, 4], mode="RGBA"), np.zeros((4, 4, 4), np.uint8)
    b = a.copy()
    b[..., :3] = 200  # of no account, where nothing is opaque
    black, hidden = (bench.tensors(domain, [each]) for each in (a, b))
    assert bench.psnr(black, hidden) == pytest.approx(20 * np.log10(2 / 1e-5))
    b[..., 3] = 255
    rms = np.sqrt((3 * 200**2 + 255**2) / 4)
    assert bench.psnr(black, bench.tensors(domain, [b])) == pytest.approx(20 * np.log10(255 / rms), rel=1e-5)


def test_an_edge_keeps_its_colour_when_interpolated(bench):
    domain, small = Pictures(size=[4, 4], mode="RGBA"), np.zeros((4, 4, 4), np.uint8)
    small[:, 2:] = (200, 40, 40, 255)
    x = bench.interpolated(bench.tensors(domain, [small]), 4, Image.Resampling.BICUBIC)
    (wide,) = bench.pictures(domain.resized((16, 16)), x)
    half = (wide[..., 3] > 20) & (wide[..., 3] < 235)
    assert half.any() and np.abs(wide[half][:, :3].astype(int) - (200, 40, 40)).max() <= 8


def test_a_model_that_knows_the_truth_has_no_distance(bench, monkeypatch, tmp_path):
    draw = np.random.default_rng(0)
    for i in range(6):
        a = draw.integers(0, 256, (2, 2, 4), np.uint8).repeat(8, 0).repeat(8, 1)
        a[..., 3] = 255
        Image.fromarray(a).save(tmp_path / f"{i}.png")
    domain = Pictures(size=[16, 16], mode="RGBA")
    monkeypatch.setattr(bench, "model_domain", lambda loaded: domain)
    monkeypatch.setattr(bench, "encoder_of", lambda loaded: SimpleNamespace(factor=4))
    shown = []

    def upscale(loaded, picture, wanted):
        shown.append(picture.shape)
        return [SimpleNamespace(data=picture.repeat(4, 0).repeat(4, 1))] * wanted.n

    monkeypatch.setattr(bench, "upscale", upscale)
    rows = bench.measured(None, str(tmp_path), 6, 2, None, lambda p: p[:, :2, :2, :3].reshape(len(p), -1) / 255.0)
    assert shown == [(4, 4, 4)] * 6
    assert rows["model"]["psnr"] > 100 and rows["model"]["frechet"] < 1e-6
    assert rows["repeated"]["psnr"] > 100 > rows["cubic"]["psnr"] and rows["floor"]["frechet"] > 0
