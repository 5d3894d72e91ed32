"""Edits by instruction: trained on pairs in pixels or a latent, guided by two weights, told apart, and made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pil

from kakusan.app import cli, facade
from kakusan.app.command.show import Progress
from kakusan.app.deploy import student
from kakusan.app.draw import branches
from kakusan.app.draw.given import Given
from kakusan.app.draw.loaded import Loaded, load
from kakusan.app.draw.samples import reproduce
from kakusan.app.judge import modeldata
from kakusan.app.train.columns import pasted
from kakusan.app.train.latent import read_latent
from kakusan.app.train.project import DATA, open_project
from kakusan.app.train.shownby import shown_by
from kakusan.app.train.spatial import drawn_by, settled
from kakusan.catalog import build
from kakusan.checkpoint import load_model, save_model
from kakusan.part import KakusanError
from kakusan.training import loop

pytestmark = pytest.mark.usefixtures("alone")

QUIET: dict[str, Any] = {"device": "cpu", "progress": Progress(quiet=True)}
SMALL = ["denoiser.net.width=8", "denoiser.net.blocks=1", "denoiser.net.mults=[1]", "denoiser.net.attention=[0]"]
SMALL += ["training.batch=4", "training.previews=0", "defaults.steps=2", "encoders.prompt.tokens=8"]
WAYS = ("pixels", "latent")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Squares with alpha in two colours, and pairs between them."""
    folder = tmp_path_factory.mktemp("pairs")
    lines = []
    for i in range(24):
        for name, colour in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
            a = np.zeros((16, 16, 4), np.uint8)
            a[i % 4 : i % 4 + 9, i // 4 : i // 4 + 8] = (*colour, 255)
            (folder / name).mkdir(exist_ok=True)
            Pil.fromarray(a).save(folder / name / f"{i}.png")
        lines.append({"source": f"red/{i}.png", "target": f"blue/{i}.png", "text": ["make it blue", "paint it blue"]})
        lines.append({"source": f"blue/{i}.png", "target": f"red/{i}.png", "text": "make it red"})
    for name, part in (("train", lines[8:]), ("held", lines[:8])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)), "utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> dict[str, Path]:
    """An autoencoder's run, and those of models in pixels and in its latent."""
    runs = tmp_path_factory.mktemp("runs")
    small = ["autoencoder.width=16", "autoencoder.blocks=0", "training.batch=8", "training.previews=0"]
    facade.train(data, autoencoder=True, steps=2, out=runs / "ae", overrides=small, **QUIET)
    for way, latent in zip(WAYS, (None, runs / "ae"), strict=True):
        told = {"pairs": "train.jsonl", "overrides": [*SMALL, "data.held_out=held.jsonl"], **QUIET}
        facade.train(data, latent=latent, steps=2, out=runs / way, **told)
    return {name: runs / name for name in ("ae", *WAYS)}


def moved(model: torch.nn.Module) -> None:
    """Every weight but the autoencoder's moved, so that all conditions count."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not name.startswith("domain."):
                p.add_(0.2 * torch.randn(p.shape, generator=draw))


@pytest.fixture(scope="module", params=WAYS)
def model(request, trained, tmp_path_factory) -> Loaded:
    found = load(trained[request.param], "cpu")
    moved(found.model)
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(file, found.model, {})
    return load(file, "cpu")


def test_what_is_trained_and_what_the_recipe_says(data, trained):
    for way, channels in zip(WAYS, (4, 8), strict=True):
        made = load(trained[way], "cpu").model
        assert made.encoder("source").spec() == {"kind": "condition/source", "channels": channels}
        assert made.denoiser.net.spec()["field"] == channels + 1 and made.weak is None
        assert made.defaults["guidance"] == {"source": 1.5, "prompt": 4.0}
        said = (trained[way] / "recipe.toml").read_text("utf-8")
        assert 'pairs = "train.jsonl"' in said and 'held_out = "held.jsonl"' in said and "together = 0.05" in said
    project = open_project({"path": str(data), "pairs": "train.jsonl", "held_out": "held.jsonl"}, QUIET["progress"])
    assert len(project.train) == 40 and project.held is not None and len(project.held) == 8
    plain = open_project({"path": str(data), "pairs": "train.jsonl"}, QUIET["progress"])
    assert len(plain.train) + len(plain.held) == 40 and plain.cache.fingerprint != project.cache.fingerprint


def test_the_report_calls_pairs_what_they_are(trained):
    page = (trained["pixels"] / "report.html").read_text("utf-8")
    assert "40 pairs of 16 x 16" in page and "pictures of 16 x 16" not in page


def test_previews_show_each_instruction_with_its_own_picture(data, trained):
    project = open_project({"path": str(data), "pairs": "train.jsonl", "held_out": "held.jsonl"}, QUIET["progress"])
    made = load(trained["pixels"], "cpu").model
    pictures, words = drawn_by(made, project, range(6))["source"], project.asked(6)["prompt"]
    for given, said in zip(pictures, words, strict=True):
        red, blue = (float(given.value[channel].max()) for channel in (0, 2))
        assert (red > blue) == ("blue" in said)


def test_the_report_shows_the_picture_to_change_beside_each_sample(data, trained):
    project = open_project({"path": str(data), "pairs": "train.jsonl", "held_out": "held.jsonl"}, QUIET["progress"])
    rows = project.shown.maps.rows[project.captioned(6)]
    what, befores = shown_by(load(trained["pixels"], "cpu"), project, 6)
    for row, before in zip(rows, befores, strict=True):
        clear = project.cache.pixels[row][..., 3] == 0  # whose colour nobody sees
        assert np.array_equal(before[~clear], project.cache.pixels[row][~clear]) and not before[clear][:, 3].any()
    assert what in (trained["pixels"] / "report.html").read_text("utf-8")
    folded = open_project(project.settings, QUIET["progress"], latent=read_latent(trained["ae"]))
    of_latent = shown_by(load(trained["latent"], "cpu"), folded, 6)
    assert of_latent[0] == what and of_latent[1][0].shape == (16, 16, 4)


def test_picture_and_instruction_count_and_seeds_differ(model):
    draw = np.random.default_rng(0)
    image, other = (draw.integers(0, 256, (16, 16, 4), np.uint8) for _ in range(2))
    made = model.instruct(image, "make it blue", n=2, seed=3)
    assert made[0].data.shape == (16, 16, 4) and not np.array_equal(made[0].data, made[1].data)
    alone = model.instruct(image, "make it blue", seed=4)[0].data
    apart = np.abs(made[1].data.astype(int) - alone)
    assert apart.max() <= 1 and (apart > 0).mean() < 0.01, "a batch's kernels may round otherwise, here and there"
    assert not np.array_equal(made[0].data, model.instruct(image, "make it red", seed=3)[0].data)
    assert not np.array_equal(made[0].data, model.instruct(other, "make it blue", seed=3)[0].data)
    assert made[0].recipe["guidance"] == {"prompt": 4.0, "source": 1.5}


@pytest.mark.parametrize("weights", [(1.5, 4.0), (1.0, 3.0), (2.0, 1.0), (1.0, 1.0)])
def test_guidance_is_the_papers_equation_3(model, weights):
    shape = model.domain.blank(1)[0]
    draw = torch.Generator().manual_seed(1)
    picture, x = (torch.randn(shape, generator=draw) for _ in range(2))
    x, t = x[None], torch.tensor(0.4, dtype=torch.float64)
    both = {"source": [Given(picture)], "prompt": ["make it blue"]}

    def estimate(*names: str) -> torch.Tensor:
        inputs = branches.prepare(model.model, {n: both[n] for n in names}, 1)
        return model.model.denoiser(x, t, model.model.cond(inputs, {}, 1))

    guided = branches.denoiser(
        model.model,
        {"guidance": dict(zip(("source", "prompt"), weights, strict=True)), "autoguidance": 1.0},
        both, {}, [0],
    )  # fmt: skip
    with torch.no_grad():
        nothing, shown, told = estimate(), estimate("source"), estimate("source", "prompt")
        exact = nothing + weights[0] * (shown - nothing) + weights[1] * (told - shown)
        torch.testing.assert_close(guided(x, t, t), exact, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(nothing, shown, atol=1e-3) and not torch.allclose(shown, told, atol=1e-3)


def test_a_weight_for_a_picture_alone_counts(model):
    picture = Given(torch.ones(model.domain.blank(1)[0]))
    drawn = [
        model.sample(1, cond={"source": picture}, guidance={"source": w})[0].raw
        for w in (1.0, 3.0)
    ]  # fmt: skip
    assert not torch.equal(*drawn)


def test_a_model_of_words_becomes_one_of_instructions_that_draws_the_same(data, trained, tmp_path):
    """With labels, which the new model has not: they stay at their null."""
    for colour in ("red", "blue"):
        lines = [{"file_name": f"{i}.png", "label": colour, "text": f"a {colour} square"} for i in range(24)]
        (data / colour / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    facade.train(data, steps=2, out=tmp_path / "text", overrides=[*SMALL, "data.augment=false"], **QUIET)
    source, _ = load_model(tmp_path / "text" / "model.safetensors")
    moved(source)
    spec = load_model(trained["pixels"] / "model.safetensors")[0].spec()
    spec["encoders"]["prompt"] = source.spec()["encoders"]["prompt"]
    with torch.random.fork_rng():
        fresh = build(spec, "model")
    assert "label" in source.encoders and fresh.denoiser.net.spec()["vector"] == 64
    given = pasted(fresh, source)
    fresh.load_state_dict(given, strict=False)
    left = {name.split(".")[2] for name in fresh.state_dict() if name.startswith("denoiser") and name not in given}
    assert left == {"field_stem", "field_bypass", "field_gain"}
    x, t = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2)), torch.tensor(0.5, dtype=torch.float64)
    for cond in ({}, {"prompt": ["a red square", "blue"]}):
        both = [m.denoiser(x, t, m.cond(branches.prepare(m, cond, 2), {}, 2)) for m in (fresh, source)]
        torch.testing.assert_close(*both, atol=1e-5, rtol=1e-5)
    shown = {"source": [Given(torch.ones(4, 16, 16))] * 2}
    at_zero = fresh.denoiser(x, t, fresh.cond(branches.prepare(fresh, shown, 2), {}, 2))
    torch.testing.assert_close(at_zero, source.denoiser(x, t, source.cond({}, {}, 2)), atol=1e-5, rtol=1e-5)
    still = ["training.previews=0", "training.batch=4", "training.optim.lr=1e-12", "training.optim.lr_rest=1e-12"]
    facade.train(
        data, pairs="train.jsonl", start=tmp_path / "text", steps=1, out=tmp_path / "told", overrides=still, **QUIET
    )
    told, source = (load_model(tmp_path / name / "model.safetensors")[0] for name in ("told", "text"))
    assert set(told.encoders) == {"prompt", "source"} and set(told.defaults["guidance"]) == {"prompt", "source"}
    given = pasted(told, source)
    assert given.keys() >= {
        name for name in source.state_dict() if name.startswith(("denoiser.net.out", "encoders.prompt"))
    }
    for name, tensor in given.items():
        torch.testing.assert_close(told.state_dict()[name], tensor, atol=1e-6, rtol=0)


@pytest.mark.parametrize("way", WAYS)
def test_stopped_and_resumed_is_the_one_that_never_stopped(data, trained, tmp_path, monkeypatch, way):
    given = {"steps": 5, "pairs": "train.jsonl", "flip": True, "latent": trained["ae"] if way == "latent" else None}
    given |= {"overrides": [*SMALL, "training.log_every=1"], **QUIET}
    facade.train(data, out=tmp_path / "straight", **given)
    real = loop.run

    def broken(*args: Any, **options: Any) -> Any:
        args[5].on_log = lambda row: options["stop"].request() if row["step"] == 3 else None
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "run", broken)
        assert facade.train(data, out=tmp_path / "out", **given).interrupted
    assert not facade.resume(tmp_path / "out", progress=QUIET["progress"]).interrupted
    one, other = (load_model(tmp_path / name / "model.safetensors")[0].state_dict() for name in ("straight", "out"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_changed_list_is_another_run(data, tmp_path, monkeypatch):
    """Its pictures are the same."""
    (data / "own.jsonl").write_text((data / "train.jsonl").read_text())
    real = loop.run

    def broken(*args: Any, **options: Any) -> Any:
        args[5].on_log = lambda row: options["stop"].request()
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "run", broken)
        given = {"overrides": [*SMALL, "training.log_every=1"], **QUIET}
        assert facade.train(data, steps=3, out=tmp_path / "out", pairs="own.jsonl", **given).interrupted
    (data / "own.jsonl").write_text((data / "train.jsonl").read_text().replace("make it red", "turn it red"))
    with pytest.raises(KakusanError, match="not those the run began with"):
        facade.resume(tmp_path / "out", progress=QUIET["progress"])


def test_the_command_line_and_made_again(model, tmp_path):
    image = np.random.default_rng(1).integers(0, 256, (16, 16, 4), np.uint8)
    Pil.fromarray(image).save(tmp_path / "icon.png")
    words = ["edit", str(model.path), str(tmp_path / "icon.png"), "--instruct", "make it blue", "--out"]
    words += [str(tmp_path / "out"), "--guidance", "2.5", "--image-guidance", "1.2", "--seed", "5"]
    assert cli._run(words) == 0
    file = tmp_path / "out" / "edit-icon-000005.png"
    wanted = model.instruct(tmp_path / "icon.png", "make it blue", guidance=2.5, image_guidance=1.2, seed=5)[0]
    assert np.array_equal(np.asarray(Pil.open(file)), wanted.data)
    assert wanted.recipe["cond"]["prompt"] == "make it blue" and wanted.recipe["edit"]["instruct"] is True
    assert reproduce(file)[1]
    Pil.fromarray(255 - image).save(tmp_path / "icon.png")
    with pytest.raises(KakusanError, match=r"its image .*icon.png has changed"):
        reproduce(file)


def test_pictures_of_other_sizes_and_kinds(model):
    large = np.random.default_rng(2).integers(0, 256, (24, 32, 3), np.uint8)
    with pytest.raises(KakusanError, match=r"--tile .* or --resize"):
        model.instruct(large, "make it blue")
    for how in ({"resize": True}, {"tile": True}):
        made = model.instruct(large, "make it blue", **how)[0]
        assert made.data.shape == large.shape and made.data.dtype == np.uint8
    assert model.edit(large, strength=0.5, resize=True)[0].data.shape == large.shape
    white = np.zeros((24, 32), np.uint8)
    white[:, 20:] = 255
    filled = model.inpaint(large, white, route="replace", resample=1, resize=True)[0].data
    assert np.array_equal(filled[:, :20], large[:, :20]) and not np.array_equal(filled, large)


def test_bad_input_is_one_line(model, data, trained, tmp_path, capsys):
    image = np.zeros((16, 16, 4), np.uint8)
    with pytest.raises(KakusanError, match="--instruct is empty"):
        model.instruct(image, " ")
    with pytest.raises(KakusanError, match="--image-guidance nan"):
        model.instruct(image, "make it blue", image_guidance=float("nan"))
    Pil.fromarray(image).save(tmp_path / "icon.png")
    edit = ["edit", str(model.path), str(tmp_path / "icon.png")]
    for words, said in (
        (["--instruct", "make it blue", "--strength", "0.5"], "give one of the two"),
        (["make it blue", "--instruct", "make it blue"], "give one of the two"),
        (["--image-guidance", "2"], "goes with --instruct"),
    ):
        with pytest.raises(KakusanError, match=said):
            cli._run([*edit, *words])
    with pytest.raises(KakusanError, match="--instruct is empty"):
        cli._run([*edit, "--instruct", " "])
    assert "prompt" not in capsys.readouterr().err  # no model is loaded that would remark on it
    plain = load_model(trained["pixels"] / "model.safetensors")[0]
    encoders = {"prompt": plain.encoder("prompt")}
    bare = Loaded(type(plain)(plain.denoiser, plain.domain, encoders, plain.defaults), {})
    with pytest.raises(KakusanError, match=r"was not trained on pairs .* kakusan train PICTURES --pairs"):
        bare.instruct(image, "make it blue")
    for other, said in ({"upscale": 2}, "--upscale"), ({"masks": True}, "--masks"), ({"labels": "style"}, "--labels"):
        with pytest.raises(KakusanError, match=f"{said}"):
            settled(DATA | {"pairs": "train.jsonl"} | other)
    for verb, opened in (("evaluate", modeldata.opened), ("distill", student.opened)):
        with pytest.raises(
            KakusanError, match=rf"changes pictures as it is told .* kakusan {verb} takes models that draw"
        ):
            opened(model, str(data), "none", QUIET["progress"])
    with pytest.raises(KakusanError, match="goes with --pairs"):
        settled(DATA | {"held_out": "held.jsonl"})
    with pytest.raises(KakusanError, match="first the one"):
        facade.train(data, pairs="train.jsonl", autoencoder=True, steps=1, out=tmp_path / "run", **QUIET)
