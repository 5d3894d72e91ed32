"""Enlarging: trained by the command line, the same picture alone or with others, files kept as they are, made again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pil

from kakusan.app import cli
from kakusan.app.command import cli_edit
from kakusan.app.draw.loaded import Loaded
from kakusan.app.draw.samples import reproduce
from kakusan.app.draw.upscale import enlarged, upscale
from kakusan.app.edit.editing import Wanted
from kakusan.app.facade import load, train
from kakusan.catalog import build
from kakusan.checkpoint import save_model
from kakusan.part import KakusanError

pytestmark = pytest.mark.usefixtures("one_thread")

NET = {"kind": "net/unet", "channels": 3, "width": 8, "mults": [1, 1], "attention": [], "blocks": 1, "unshuffle": 2}


def spec(field: int, side: int, mode: str = "RGB") -> dict:
    channels = 4 if mode == "RGBA" else 3
    net = NET | {"channels": channels, "norm": "pixel"} | ({"field": channels, "vector": 4} if field else {})
    low = {"kind": "condition/low-resolution", "channels": channels, "factor": 2, "dim": 4}
    return {
        "kind": "model",
        "denoiser": {
            "kind": "denoiser", "net": net, "process": {"kind": "process/ve"}, "param": {"kind": "param/karras"},
            "space": {"kind": "space/flat"},
        },
        "domain": {"kind": "domain/image", "size": [side, side], "mode": mode},
        "encoders": {"low": low} if field else {},
        "defaults": {"steps": 3},
    }  # fmt: skip


def model_file(path: Path, field: int, side: int, mode: str = "RGB") -> Path:
    """A model whose every weight is drawn, so that the condition counts."""
    torch.manual_seed(3)
    model = build(spec(field, side, mode))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    save_model(path, model.eval(), {})
    return path


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory) -> Loaded:
    return load(model_file(tmp_path_factory.mktemp("up") / "up.safetensors", 1, 16, "RGBA"), "cpu")


def picture(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_training_from_pieces_gives_a_model_that_enlarges_whole_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    for i in range(24):
        Pil.fromarray(np.kron(picture(6, 6, 3, seed=i), np.ones((8, 8, 1), np.uint8))).save(tmp_path / f"data/{i}.png")
    small = ["data.crop=16", "denoiser.net.width=8", "denoiser.net.blocks=1", "training.batch=4", "defaults.steps=2"]
    done = train(tmp_path / "data", upscale=2, steps=2, out=tmp_path / "run", overrides=small, device="cpu")
    model = done.load("cpu")
    assert model.domain.size == (48, 48)
    net = model.model.denoiser.net.spec()
    assert (net["norm"], net["attention"], net["unshuffle"], net["field"]) == ("pixel", [], 2, 3)
    assert net["activations"] == 2, "one was not measured with norms of single pixels"
    made = model.upscale(picture(10, 14, 3))[0]
    assert made.data.shape == (20, 28, 3)
    with pytest.raises(KakusanError, match="kakusan upscale"):
        model.sample(1)
    assert "On the left is the small picture" in (tmp_path / "run" / "report.html").read_text("utf-8")


def test_alone_or_with_others_it_is_the_same(upscaler):
    image = picture(6, 8, 4)
    together = upscale(upscaler, image, Wanted(n=3, seed=5))
    for i, each in enumerate(together):
        assert np.array_equal(upscale(upscaler, image, Wanted(seed=5 + i))[0].data, each.data)
    assert not np.array_equal(together[0].data, together[1].data)
    quiet = upscale(upscaler, image, Wanted(seed=5), noise=0.0)[0]
    assert not np.array_equal(quiet.data, together[0].data)


def test_the_small_picture_counts(upscaler):
    first, second = (upscale(upscaler, picture(6, 6, 4, seed=s))[0].data for s in (0, 1))
    assert not np.array_equal(first, second)


def test_files_keep_mode_depth_and_alpha(upscaler, tmp_path):
    for shape, dtype in (((6, 8, 1), np.uint8), ((6, 8, 3), np.uint16), ((6, 8, 4), np.uint8)):
        made = upscale(upscaler, picture(*shape).astype(dtype))[0]
        assert made.data.shape == (12, 16, shape[2]) and made.data.dtype == dtype
    rgb = load(model_file(tmp_path / "rgb.safetensors", 1, 16), "cpu")
    half = picture(6, 8, 4)
    half[:, :4, 3], half[:, 4:, 3] = 0, 255
    alpha = upscale(rgb, half)[0].data[..., 3]
    assert (alpha[:, :6] == 0).all() and (alpha[:, 10:] == 255).all()


def test_large_pictures_are_painted_in_windows_that_agree(upscaler, monkeypatch):
    """This network sees few pixels around each: windows that overlap by more than that are the whole at one step."""
    image = picture(40, 24, 4)
    whole = upscale(upscaler, image, Wanted(steps=1))[0].data
    monkeypatch.setattr("kakusan.app.draw.upscale.WHOLE", 32)
    monkeypatch.setattr("kakusan.app.draw.upscale.WINDOW", 48)
    pieces = upscale(upscaler, image, Wanted(steps=1))[0].data
    assert pieces.shape == whole.shape
    assert np.abs(pieces[:16].astype(int) - whole[:16]).max() <= 1  # only the upper window sees these rows
    assert np.abs(pieces.astype(int) - whole).mean() < 8


def test_the_command_line_enlarges_and_makes_it_again(upscaler, tmp_path, capsys):
    files = []
    for name, mode in (("a", "RGBA"), ("b", "L")):
        files.append(tmp_path / f"{name}.png")
        Pil.fromarray(picture(6, 6, 4)).convert(mode).save(files[-1])
    out = tmp_path / "out"
    code = cli._run(["upscale", str(upscaler.path), *map(str, files), "-n", "2", "--out", str(out), "--json"])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == 0 and len(said["files"]) == 6  # two of each, and a grid beside each input
    assert Pil.open(out / "upscale-a-000001.png").mode == "RGBA"
    assert Pil.open(out / "upscale-b-000000.png").size == (12, 12)
    assert reproduce(out / "upscale-a-000001.png")[1]


def test_samples_of_another_model_are_enlarged_and_made_again(upscaler, tmp_path):
    base = model_file(tmp_path / "base.safetensors", 0, 8)
    out = tmp_path / "out"
    words = ["sample", str(base), "-n", "2", "--upscale", str(upscaler.path), "--out", str(out), "--runtime", "eager"]
    assert cli._run(words) == 0
    assert Pil.open(out / "seed-000001.png").size == (16, 16)
    assert reproduce(out / "seed-000001.png")[1]
    drawn = load(base, "cpu").sample(2)
    alone = enlarged(drawn[1:], upscaler)[0]
    assert np.array_equal(alone.data, np.asarray(Pil.open(out / "seed-000001.png")))


def test_a_model_that_does_not_enlarge_is_refused_before_anything_is_drawn(tmp_path, capsys):
    base = str(model_file(tmp_path / "base.safetensors", 0, 8))
    with pytest.raises(SystemExit) as ended:
        cli.main(["sample", base, "--upscale", base, "--out", str(tmp_path / "out")])
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(lines) == 1 and "does not enlarge pictures" in lines[0]
    assert not (tmp_path / "out").exists()


def test_bad_input_is_one_line(upscaler, tmp_path):
    with pytest.raises(KakusanError, match=r"--noise 2: this model knows 0 to 0\.5"):
        upscale(upscaler, picture(4, 4, 4), noise=2)
    with pytest.raises(KakusanError, match="does not enlarge pictures"):
        upscale(load(model_file(tmp_path / "base.safetensors", 0, 8), "cpu"), picture(4, 4, 3))
    Pil.fromarray(picture(30, 30, 3)).save(tmp_path / "p.png")
    for settings, words in (
        ({"upscale": 3}, "--upscale 3: choose one of 2, 4, 8"),
        ({"upscale": 4, "size": 30}, "multiples of 4"),
        ({"overrides": ["data.crop=16"]}, "add --upscale"),
        ({"upscale": 2, "overrides": ["data.crop=13"]}, "data.crop=13"),
    ):
        with pytest.raises(KakusanError, match=words):
            train(tmp_path, steps=1, out=tmp_path / "never", device="cpu", **settings)
    (tmp_path / "there").mkdir()
    for folder in (tmp_path, tmp_path / "there"):
        Pil.fromarray(picture(4, 4, 4)).save(folder / "same.png")
    twice = [str(f / "same.png") for f in (tmp_path, tmp_path / "there")]
    with pytest.raises(KakusanError, match="folders of their own"):
        cli_edit.upscale(str(upscaler.path), *map(Path, twice), out=tmp_path / "out")
