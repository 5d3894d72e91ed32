"""An autoencoder and a model in its latent: the whole way, exact resume, edits, and what is refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pil

from kakusan.app import cli, facade
from kakusan.app.command.show import Progress
from kakusan.app.deploy.distil import distill
from kakusan.app.draw.loaded import load
from kakusan.app.draw.samples import reproduce, save_samples
from kakusan.app.judge.modeldata import opened
from kakusan.app.train import autoencode, reconstructed
from kakusan.app.train.latent import read_latent
from kakusan.app.train.project import open_project
from kakusan.checkpoint import load_module, read_info
from kakusan.domains.latent import Latent
from kakusan.training import loop

pytestmark = pytest.mark.usefixtures("alone")

SIDE = 16
QUIET = {"device": "cpu", "progress": Progress(quiet=True)}
NET = ["autoencoder.width=16", "autoencoder.blocks=0", "training.batch=8", "training.previews=1"]
SMALL = [
    "denoiser.net.width=8",
    "denoiser.net.blocks=1",
    "training.batch=8",
    "training.previews=0",
    "defaults.steps=2",
]


def written(folder: Path, mode: str = "RGBA", side: int = SIDE) -> Path:
    """Discs of one colour on nothing (RGBA) or black, in two class folders."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    for i in range(40):
        cx, cy, r = draw.uniform(4, side - 4), draw.uniform(4, side - 4), draw.uniform(3, 6)
        disc = ((x - cx) ** 2 + (y - cy) ** 2 < r * r)[..., None]
        colour = np.broadcast_to(draw.uniform(50, 250, 3), (side, side, 3))
        a = np.concatenate([colour, 255 * disc], 2) if mode == "RGBA" else colour * disc
        path = folder / ("a" if i % 2 else "b") / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Pil.fromarray(a.astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """An autoencoder's run."""
    out = tmp_path_factory.mktemp("runs") / "ae"
    facade.train(data, autoencoder=True, steps=100, out=out, overrides=[*NET, "training.batch=16"], **QUIET)
    return out


@pytest.fixture(scope="module")
def latent(data, trained, tmp_path_factory) -> Path:
    """A run in its latent, which is all that is left."""
    out = tmp_path_factory.mktemp("runs") / "ld"
    facade.train(data, latent=trained, steps=4, out=out, overrides=[*SMALL, "data.augment=false"], **QUIET)
    return out


def test_pictures_come_back_better_after_training(data, trained):
    project = open_project({"path": str(data), **autoencode.SETTINGS}, QUIET["progress"])
    found = read_latent(trained)
    fresh = Latent(project.domain, found.autoencoder.replace())
    first, last = (reconstructed.measure(v, project, held=True).psnr for v in (fresh, found))
    assert last > first + 4, (first, last)
    summary = read_info(trained / "model.safetensors")["info"]["training"]
    assert summary["psnr"] == last and summary["latent"] == [8, 4, 4]
    for name in ("recipe.toml", "environment.json", "log.jsonl", "grid.png", "samples", "state"):
        assert (trained / name).exists(), name
    page = (trained / "report.html").read_text("utf-8")
    assert "Reconstructions" in page and f"{last:.2f} dB" in page


def test_the_latent_is_measured_at_unit_scale(data, trained):
    project = open_project({"path": str(data), **autoencode.SETTINGS}, QUIET["progress"])
    z = read_latent(trained).encode(project.some(100)).movedim(1, 0).flatten(1)
    assert float(z.mean(1).abs().max()) < 0.05 and float((z.std(1) - 1).abs().max()) < 0.2


def stopped(monkeypatch, at: int, step: Any) -> None:
    """Do a step of the facade whose training is asked to stop at a step."""
    real = loop.run

    def broken(*given: Any, **options: Any) -> Any:
        given[5].on_log = lambda row: options["stop"].request() if row["step"] == at else None
        return real(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "run", broken)
        assert step().interrupted


@pytest.mark.parametrize("kind", ["autoencoder", "latent", "augmented"])
def test_stopped_and_resumed_is_the_one_that_never_stopped(data, trained, tmp_path, monkeypatch, kind):
    given: dict[str, Any] = {"steps": 6, **QUIET, "overrides": [*NET, "training.log_every=1"], "autoencoder": True}
    if kind != "autoencoder":
        augment = f"data.augment={str(kind == 'augmented').lower()}"
        given = {"steps": 6, **QUIET, "overrides": [*SMALL, augment, "training.log_every=1"], "latent": trained}
        given["flip"] = True
    facade.train(data, out=tmp_path / "straight", **given)
    stopped(monkeypatch, 3, lambda: facade.train(data, out=tmp_path / "out", **given))
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert not facade.resume(tmp_path / "out", progress=QUIET["progress"]).interrupted
    one, other = (load_module(tmp_path / name / "model.safetensors")[0] for name in ("straight", "out"))
    assert one.spec() == other.spec()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_the_model_is_one_file_that_draws_by_itself(data, trained, latent, tmp_path):
    (tmp_path / "alone.safetensors").write_bytes((latent / "model.safetensors").read_bytes())
    model = load(tmp_path / "alone.safetensors", "cpu")
    again = read_latent(latent)  # a model of a latent holds what another would be trained in
    assert again.spec() == model.domain.spec()
    for name, tensor in read_latent(trained).state_dict().items():
        assert torch.equal(tensor, model.domain.state_dict()[name]), name
        assert torch.equal(tensor, again.state_dict()[name]), name
    samples = model.sample(3, seed=5, steps=3, label="a")
    assert [s.data.shape for s in samples] == [(SIDE, SIDE, 4)] * 3 and samples[0].raw.shape == (4, SIDE, SIDE)
    assert model.sample(1, steps=3, size=24)[0].data.shape == (24, 24, 4)
    paths = save_samples(samples, tmp_path / "out")
    assert reproduce(paths[0], out=tmp_path / "again.png")[1]
    spec = read_info(latent / "model.safetensors")["spec"]
    net = spec["denoiser"]["net"]
    assert (net["channels"], net["unshuffle"], spec["denoiser"]["param"]["sigma_data"]) == (8, 1, 1.0)


def test_what_evaluate_sees_of_a_latent_model(data, latent):
    project, words = opened(load(latent, "cpu"), str(data), "auto", QUIET["progress"])
    assert project.domain.size == (SIDE, SIDE) and words == ""
    assert project.held_out(4, 0).held.at(0).x0.shape[1:] == (8, 4, 4)


def call(capsys, *words: Any) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(w) for w in words])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_edits_of_latent_models_keep_what_is_known_to_the_bit(data, latent):
    model = load(latent, "cpu")
    picture = np.asarray(Pil.open(sorted(data.rglob("*.png"))[0]))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[3:9, 5:] = 255
    made = model.inpaint(picture, mask, steps=2, resample=1)[0]
    assert made.recipe["edit"]["route"] == "replace"
    assert np.array_equal(made.data[mask == 0], picture[mask == 0])
    assert not np.array_equal(made.data[mask == 255], picture[mask == 255])
    wide = model.outpaint(picture, right=8, steps=2, resample=1)[0].data
    assert wide.shape == (SIDE, SIDE + 8, 4) and np.array_equal(wide[:, :SIDE], picture)
    assert model.edit(picture, strength=0.5, steps=3)[0].data.shape == picture.shape
    assert len(model.blend(picture, picture[::-1].copy(), frames=2, steps=2)) == 2
    path = sorted(data.rglob("*.png"))[0]
    assert model.vary(path, 1, steps=4)[0].data.shape == picture.shape


def test_what_a_latent_model_cannot_do_is_said(data, trained, latent, tmp_path, capsys):
    picture = sorted(data.rglob("*.png"))[0]
    mask = tmp_path / "mask.png"
    Pil.fromarray(np.full((SIDE, SIDE), 255, np.uint8)).save(mask)
    asked = {
        "restore needs a model of pixels": ["edit", latent, picture, "--restore", "blur"],
        "route='posterior' needs a model of pixels": ["inpaint", latent, picture, mask, "--route", "posterior"],
        "--tile: this model diffuses in a latent": ["sample", latent, "--tile"],
        "folds by 4; give a multiple": ["sample", latent, "--size", 18],
        "train one in its latent": ["sample", trained],
    }
    for said, words in asked.items():
        code, out, err = call(capsys, *words, "-o", tmp_path / "out")
        lines = [line for line in err.splitlines() if line.startswith("kakusan:")]
        assert code == 2 and not out and len(lines) == 1 and said in lines[0], (said, err)


def test_bad_input_is_one_clear_line(data, trained, latent, tmp_path, capsys):
    grey, large = written(tmp_path / "rgb", "RGB"), written(tmp_path / "large", side=20)
    asked = {
        "is a diffusion model of pictures themselves, no autoencoder": [data, "--latent", "fashion"],
        "first the one, then": [data, "--latent", trained, "--autoencoder"],
        "no such model": [data, "--latent", tmp_path / "none"],
        "is of RGBA pictures (4 channels, 8 bits), the data are RGB (3, 8)": [grey, "--latent", trained],
        "of pictures of 16 x 16, the data are 20 x 20": [large, "--latent", trained],
        "folds by 4; give a multiple, as --size 20": [large, "--latent", trained, "--size", 18],
        "of an autoencoder; to train one again add --autoencoder": [data, "--recipe", trained / "recipe.toml"],
        "name its file, --latent": [data, "--recipe", latent / "recipe.toml"],
        "--from": [data, "--autoencoder", "--from", "fashion"],
        "factor=3": [data, "--autoencoder", "autoencoder.factor=3"],
        "not a model to go on from": [data, "--from", trained],
    }  # fmt: skip
    for said, words in asked.items():
        code, out, err = call(capsys, "train", *words, "--steps", 2, "-o", tmp_path / "out")
        lines = [line for line in err.splitlines() if line.startswith("kakusan:")]
        assert code == 2 and not out and len(lines) == 1 and said in lines[0], (said, err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("state", [True, False])
def test_a_finished_run_in_a_latent_goes_on_in_the_same_one(trained, latent, tmp_path, state):
    """With its state where it ended, without it from the weights; an autoencoder's run too."""
    for run in (latent, trained):
        own = Path(shutil.copytree(run, tmp_path / run.name))
        if not state:
            shutil.rmtree(own / "state")
        more = facade.resume(own, minutes=0.03, progress=QUIET["progress"])
        steps = load_info(own)["training"]["steps"]
        assert more.path is not None and (more.summary["steps"] > steps) == state
        if run == latent:
            one, other = (load(r, "cpu").domain for r in (own, more.path))
            assert one.spec() == other.spec()
            assert all(torch.equal(t, other.state_dict()[name]) for name, t in one.state_dict().items())
        else:
            assert read_info(more.path)["spec"]["kind"] == read_info(own / "model.safetensors")["spec"]["kind"]
    assert json.loads((latent / "environment.json").read_text("utf-8"))["latent"]["from"] == str(trained)


def load_info(run: Path) -> dict[str, Any]:
    return dict(read_info(run / "model.safetensors")["info"])


def test_a_student_of_a_latent_model_carries_the_same_autoencoder(data, latent, tmp_path):
    asked = ["training.steps=2", "training.batch=8", "training.previews=0"]
    done = distill(latent, data, minutes=None, overrides=asked, count=0, out=tmp_path / "out", **QUIET)
    one, other = (load(run, "cpu").domain for run in (latent, done.path))
    assert one.spec() == other.spec()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
