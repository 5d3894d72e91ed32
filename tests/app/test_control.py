"""Maps: found by name, mirrored with their pictures, followed by samples, and found again by recipes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pil

from kakusan.app import cli
from kakusan.app.command.show import Progress
from kakusan.app.draw.samples import reproduce
from kakusan.app.facade import load, train
from kakusan.app.train.project import open_project
from kakusan.app.train.spatial import mapped
from kakusan.checkpoint import save_model
from kakusan.part import KakusanError


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """Pictures whose map is their red channel, in another file format's name."""
    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for kind in ("photos", "maps"):
        (tmp_path / kind).mkdir()
    for i in range(24):
        a = draw.integers(0, 256, (12, 12, 3), np.uint8)
        Pil.fromarray(a).save(tmp_path / f"photos/{i}.bmp")
        Pil.fromarray(a[..., 0]).save(tmp_path / f"maps/{i}.png")
    return tmp_path


def test_maps_belong_to_their_pictures_and_turn_with_them(data):
    settings = {"path": str(data / "photos"), "control": str(data / "maps"), "flip": True}
    project = open_project(settings, Progress(quiet=True, live=False))
    assert project.facts.spatial["map"] == {"kind": "condition/map", "mode": "L", "edges": False}
    for step in range(3):
        batch = project.batches(8, 0).at(step)
        torch.testing.assert_close(batch.inputs["map"]["map"][:, 0], batch.x0[:, 0])


@pytest.mark.parametrize("control", ["maps", "edges"])
def test_samples_follow_their_map_and_are_made_again(data, control):
    small = ["denoiser.net.width=8", "denoiser.net.blocks=1", "training.batch=4", "defaults.steps=2"]
    small += ["denoiser.net.mults=[1]", "denoiser.net.attention=[]", "training.previews=0", "training.evaluations=0"]
    where = control if control == "edges" else str(data / control)
    done = train(data / "photos", control=where, steps=2, out=data / "run", overrides=small, device="cpu")
    assert "On the left is the map that it was drawn by." in (data / "run" / "report.html").read_text("utf-8")
    model = done.load("cpu").model
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    save_model(data / "moved.safetensors", model, {})
    loaded = load(data / "moved.safetensors", "cpu")
    one, two = (loaded.sample(1, cond={"map": mapped(loaded, data / f"maps/{i}.png")})[0].data for i in (0, 1))
    assert not np.array_equal(one, two)
    assert not np.array_equal(one, loaded.sample(1)[0].data)
    out = data / "out"
    words = ["sample", str(data / "moved.safetensors"), "--control", str(data / "maps/1.png"), "--out", str(out)]
    assert cli._run(words) == 0
    file = out / "seed-000000.png"
    assert np.array_equal(np.asarray(Pil.open(file)), two)
    assert reproduce(file)[1]
    Pil.fromarray(np.zeros((12, 12), np.uint8)).save(data / "maps/1.png")
    with pytest.raises(KakusanError, match="has changed"):
        reproduce(file)


def test_bad_input_is_one_line(data):
    (data / "maps/3.png").unlink()
    with pytest.raises(KakusanError, match=r"1 of 24 pictures have no map of their name, first '3'"):
        train(data / "photos", control=data / "maps", steps=1, out=data / "run", device="cpu")
    with pytest.raises(KakusanError, match="do not go together"):
        train(data / "photos", control="edges", upscale=2, steps=1, out=data / "run", device="cpu")
