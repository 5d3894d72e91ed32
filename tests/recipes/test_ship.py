"""recipes/ship.py: a run of each sort as a file in half precision that draws the same; what cannot ship is refused."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from kakusan.app.draw.loaded import load
from kakusan.app.draw.upscale import upscale
from kakusan.catalog import build
from kakusan.checkpoint import read_info, save_model
from kakusan.conditions.table import TextTable
from kakusan.core.model import Model
from kakusan.part import KakusanError

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPES = Path(__file__).parents[2] / "recipes"
KEPT = {"path": "/home/me/photos", "list": ["C:\\photos\\cats", "a/b"], "steps": 3}
WORDS = {"kind": "condition/text-table", "vocabulary": "_a _red _blue _fish s", "trained": 3, "width": 8, "tokens": 8,
         "heads": 2, "depth": 1, "dim": 4}  # fmt: skip
STYLE = {"kind": "condition/label", "classes": ["flat", "3d"], "dim": 4, "called": "style"}
LOW = {"kind": "condition/low-resolution", "channels": 4, "factor": 2, "dim": 4}
SOURCE = {"kind": "condition/source", "channels": 4}
LATENT = {"kind": "net/autoencoder", "channels": 4, "latent": 4, "factor": 2, "width": 8, "blocks": 1}


@pytest.fixture(autouse=True)
def ship(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    return importlib.import_module("ship")


def spec(sort: str, weak: bool = False) -> dict:
    told = {"prompt": WORDS, "label": STYLE}
    encoders = {"pixel": {}, "upscaler": {"low": LOW}, "pairs": {"prompt": WORDS, "source": SOURCE}}.get(sort, told)
    net = {"kind": "net/unet", "channels": 4, "width": 8, "mults": [1, 1], "blocks": 1, "attention": [], "heads": 2,
           "vector": sum(e.get("dim", 0) for e in encoders.values())}  # fmt: skip
    net |= {"upscaler": {"norm": "pixel", "field": 4}, "pairs": {"field": 5}}.get(sort, {})
    net |= {"tokens": 8, "attention": [1]} if "prompt" in encoders else {}
    denoiser = {"kind": "denoiser", "net": net, "process": {"kind": "process/ve"}, "param": {"kind": "param/karras"},
                "space": {"kind": "space/flat"}}  # fmt: skip
    domain = {"kind": "domain/image", "size": [16, 16], "mode": "RGBA"}
    if sort == "latent":
        domain = {"kind": "domain/latent", "domain": domain, "autoencoder": LATENT}
    tree = {"kind": "model", "denoiser": denoiser, "domain": domain, "encoders": encoders,
            "defaults": {"steps": 4, "guidance": 2.0 if encoders else 1.0, "autoguidance": 1.5}}  # fmt: skip
    return tree | ({"weak": {"kind": "model", "denoiser": denoiser, "encoders": encoders}} if weak else {})


def run(folder: Path, sort: str, weak: bool = False) -> Path:
    """A finished run whose every weight counts."""
    torch.manual_seed(1)
    model = build(spec(sort, weak))
    assert isinstance(model, Model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    for encoder in model.encoders.values():
        if isinstance(encoder, TextTable):
            encoder.frozen.random_(-127, 128)
            encoder.scale.fill_(0.01)
    save_model(folder / "model.safetensors", model, {"distilled": {"teacher": "/r/t/model.safetensors"}, "kept": KEPT})
    return folder


@pytest.mark.parametrize("sort", ["pixel", "text", "latent", "upscaler", "pairs"])
def test_it_ships_as_one_half_precision_file_that_draws_the_same(sort, ship, tmp_path, capsys):
    source, out = run(tmp_path / "run", sort, weak=sort == "text"), tmp_path / "models"
    words = [str(source), str(out), "--name", f"tiny-{sort}", "--licence", "CC0-1.0", "--steps", "3"]
    words += ["--prompt", "a red fish", "--guidance", "prompt=3", "--guidance", "style=1"] if sort == "text" else []
    words += ["--prompt", "red", "--guidance", "prompt=3", "--guidance", "source=1.5"] if sort == "pairs" else []
    if sort == "text":
        (tmp_path / "ja.txt").write_text("さかな = fish", "utf-8")
        words += ["--glossary", str(tmp_path / "ja.txt"), "--classes", "plain,round"]
    ship.main(words)
    said = capsys.readouterr().out
    file = out / f"tiny-{sort}.safetensors"
    assert said.splitlines()[-1] == str(file) and "levels of 255" in said and "card is missing" in said
    assert list(out.iterdir()) == [file]

    stored = safetensors.torch.load_file(file)
    whole = {k: v for k, v in load(source).model.state_dict().items() if not k.startswith("weak.")}
    assert stored.keys() == whole.keys()
    assert {v.dtype for v in stored.values()} == {torch.float16} | (
        {torch.int8} if "prompt" in spec(sort)["encoders"] else set()
    )
    model = load(file)
    assert {p.dtype for p in model.model.parameters()} == {torch.float32} and model.model.weak is None
    for name, value in model.model.state_dict().items():
        assert torch.equal(value, whole[name].to(stored[name].dtype).to(value.dtype)), name

    info = read_info(file)["info"]
    assert info["name"] == file.stem and info["licence"] == "CC0-1.0" and info["distilled"] == {"teacher": "t"}
    assert info["kept"] == {"path": "photos", "list": ["cats", "a/b"], "steps": 3}
    assert "/home" not in json.dumps(read_info(file)["info"]) and model.model.defaults["steps"] == 3
    assert model.model.defaults["autoguidance"] == 1
    if sort == "text":
        assert model.model.defaults["guidance"] == {"prompt": 3.0, "label": 1.0}
        assert model.model.encoder("label").names == ["plain", "round"]
        asked = model.model.encoder("prompt").prepare(["red さかな", "red fish"])
        assert torch.equal(*asked["pieces"])
    if sort == "pairs":
        assert model.model.defaults["guidance"] == {"prompt": 3.0, "source": 1.5}
        picture = (255 * torch.rand(16, 16, 4)).byte().numpy()
        assert model.instruct(picture, "red")[0].data.shape == (16, 16, 4)
    elif sort == "upscaler":
        assert upscale(model, (255 * torch.rand(5, 7, 4)).byte().numpy())[0].data.shape == (10, 14, 4)
    else:
        assert model.sample(1)[0].data.shape == (16, 16, 4)


def test_the_weak_model_ships_where_autoguidance_is_asked_for(ship, tmp_path):
    source = run(tmp_path / "run", "text", weak=True)
    words = ["--name", "x", "--licence", "CC0-1.0", "--autoguidance", "2", "--classes", "plain,round"]
    ship.main([str(source), str(tmp_path), *words])
    model, whole = load(tmp_path / "x.safetensors").model, load(source).model
    assert model.weak is not None and whole.weak is not None and model.defaults["autoguidance"] == 2
    for name, value in whole.weak.state_dict().items():
        assert torch.equal(model.weak.state_dict()[name], value.half().to(value.dtype)), name
    assert model.weak.encoder("label").spec()["classes"] == ["plain", "round"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--name", "Icons.v2"], "--name Icons.v2: small letters, digits and hyphens"),
        (["--name", "x", "--guidance", "colour=2"], "colour"),
        (["--name", "x", "--guidance", "1000"], "--guidance 1000: weights go from"),
        (["--name", "x", "--steps", "0"], "--steps 0: choose between"),
        (["--name", "x", "--classes", "one"], "--classes names 1, the model has 2 classes"),
        (["--name", "x", "--solver", "eulr"], "--solver 'eulr' is not known"),
    ],
)
def test_bad_options_are_one_line_and_nothing_is_written(more, said, ship, tmp_path):
    words = [str(run(tmp_path / "run", "text")), str(tmp_path / "models"), "--licence", "CC0-1.0", *more]
    with pytest.raises(SystemExit) as error:
        ship.main(words)
    assert str(error.value).startswith("ship.py: ") and said in str(error.value) and "\n" not in str(error.value)
    assert not list((tmp_path / "models").glob("**/*"))


def test_what_is_too_large_or_too_coarse_does_not_ship(ship, tmp_path, monkeypatch):
    source, out = run(tmp_path / "run", "pixel"), tmp_path / "models"
    settings = dict.fromkeys(["guidance", "autoguidance", "steps", "solver", "glossary", "classes"])
    with monkeypatch.context() as patch:
        patch.setattr(ship, "MOST", 1000)
        with pytest.raises(KakusanError, match=r"x has [\d,]+ bytes; what ships has at most 1,000"):
            ship.ship(source, out, "x", "CC0-1.0", settings)
    with monkeypatch.context() as patch:
        patch.setattr(ship, "APART", 0.0)
        with pytest.raises(KakusanError, match="too much; half precision does not hold this model"):
            ship.ship(source, out, "x", "CC0-1.0", settings)
    model = load(source).model
    next(model.parameters()).data[0] = 1e5
    save_model(tmp_path / "far.safetensors", model, {})
    with pytest.raises(KakusanError, match="numbers that half precision cannot hold"):
        ship.ship(tmp_path / "far.safetensors", out, "x", "CC0-1.0", settings)
    assert not list(out.glob("**/*"))


def test_a_run_that_is_not_there(ship, tmp_path):
    with pytest.raises(SystemExit, match="no such model"):
        ship.main([str(tmp_path / "none"), str(tmp_path), "--name", "x", "--licence", "CC0-1.0"])
