"""Style images: trained by other pictures of the same style, in pixels or a latent; followed, guided, made again."""

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
from kakusan.app.draw.loaded import Loaded, load
from kakusan.app.draw.samples import reproduce
from kakusan.app.train.project import open_project
from kakusan.app.train.styled import styled
from kakusan.checkpoint import load_model, save_model
from kakusan.part import KakusanError
from kakusan.training import loop, state
from kakusan.training.references import STYLE

pytestmark = pytest.mark.usefixtures("alone")

QUIET: dict[str, Any] = {"device": "cpu", "progress": Progress(quiet=True)}
SMALL = ["denoiser.net.width=8", "denoiser.net.blocks=1", "denoiser.net.mults=[1]", "denoiser.net.attention=[]"]
SMALL += ["training.batch=8", "training.previews=0", "defaults.steps=4", "data.augment=false"]
SMALL += ["encoders.style_image.side=16", "encoders.style_image.width=4"]
COLOURS = {"dark": (20, 40), "light": (215, 235)}


def painted(draw: np.random.Generator, style: str, side: int = 8) -> Pil.Image:
    """A square of any grey on a background that is the style."""
    a = np.full((side, side), draw.integers(*COLOURS[style]), np.uint8)
    top, left = draw.integers(0, side // 2, 2)
    a[top : top + side // 4, left : left + side // 4] = draw.integers(0, 256)
    return Pil.fromarray(a)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder, draw = tmp_path_factory.mktemp("styles"), np.random.default_rng(0)
    for style in COLOURS:
        (folder / "all" / style).mkdir(parents=True)
        for i in range(40):
            painted(draw, style).save(folder / "all" / style / f"{i}.png")
        painted(draw, style, 31).convert("RGBA").save(folder / f"{style}.png")  # unseen, of another size and mode
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    """Trained for long enough to tell two styles apart."""
    out = tmp_path_factory.mktemp("runs") / "run"
    facade.train(data / "all", style_image="label", steps=120, out=out, overrides=SMALL, **QUIET)
    return out


def brightness(loaded: Loaded, **asked: Any) -> float:
    return float(torch.stack([s.raw for s in loaded.sample(8, **asked)]).median())


def test_samples_take_the_style_of_a_picture_not_seen_in_training(run, data):
    loaded = load(run, "cpu")
    assert loaded.classes == [] and loaded.model.encoder(STYLE).spec()["channels"] == 1
    dark, light = (brightness(loaded, style_image=data / f"{style}.png") for style in COLOURS)
    assert dark < -0.2 < 0.2 < light
    both = loaded.sample(2, style_image=[data / "dark.png", data / "light.png"])
    assert float(both[0].raw.median()) < 0 < float(both[1].raw.median())
    alone = loaded.sample(1, style_image=data / "light.png", seed=1)[0]
    assert np.array_equal(alone.data, loaded.sample(2, style_image=data / "light.png")[1].data)


def test_the_report_shows_the_picture_whose_style_was_asked_for(run):
    assert "On the left is the picture whose style was asked for." in (run / "report.html").read_text("utf-8")


def test_it_has_a_weight_of_its_own_by_either_name(run, data):
    loaded, asked = load(run, "cpu"), {"style_image": data / "light.png"}
    one = loaded.sample(1, guidance={"style-image": 3.0}, **asked)[0]
    assert np.array_equal(one.data, loaded.sample(1, guidance={STYLE: 3.0}, **asked)[0].data)
    assert not np.array_equal(one.data, loaded.sample(1, guidance=1.0, **asked)[0].data)
    with pytest.raises(KakusanError, match="no style_image is asked for"):
        loaded.sample(1, guidance={"style-image": 3.0})


def test_the_command_line_draws_and_reproduce_knows_the_picture(run, data, tmp_path):
    shutil.copy(data / "light.png", tmp_path / "style.png")
    words = ["sample", str(run), "--style-image", str(tmp_path / "style.png"), "--out", str(tmp_path / "out")]
    assert cli._run(words) == 0
    file = tmp_path / "out" / "seed-000000.png"
    own = load(run, "cpu").sample(1, style_image=data / "light.png")[0]
    assert np.array_equal(np.asarray(Pil.open(file)), own.data[..., 0])
    assert own.recipe["cond"][STYLE]["picture"].endswith("light.png")
    assert reproduce(file)[1]
    varied = load(run, "cpu").vary(file, 1, steps=4)[0]
    assert varied.recipe["cond"][STYLE]["picture"] == str(tmp_path / "style.png")
    shutil.copy(data / "dark.png", tmp_path / "style.png")
    with pytest.raises(KakusanError, match=r"its style image .* has changed since"):
        reproduce(file)
    (tmp_path / "style.png").unlink()
    with pytest.raises(KakusanError, match=r"its style image .* is not there any more"):
        reproduce(file)


def test_training_reads_pictures_as_sampling_does(run, data):
    """One picture of each style beside the one drawn: its reference is the other, read through its file the same."""
    found = open_project({"path": str(data / "all"), "style_image": "label"}, Progress(quiet=True, live=False))
    assert found.train.labels is None and found.train.references is not None and found.held is not None
    assert found.held.references is not None and len(found.held.references.rows) == len(found.held)
    kept = set(found.held.references.rows)
    assert not kept & set(found.train.references.rows)
    row = int(found.train.references.rows[0])
    name = found.source.name(int(found.cache.rows[row]))
    read = styled(load(run, "cpu"), data / "all" / name).value
    assert torch.equal(read, found.domain.floats(np.asarray(found.cache.pixels[[row]]))[0])


def with_field(folder: Path, styles: str) -> Path:
    """Pictures whose style metadata say."""
    folder.mkdir()
    lines = [json.dumps({"file_name": f"{i}.png", "style": style}) for i, style in enumerate(styles)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    for i in range(len(styles)):
        painted(np.random.default_rng(i), "dark").save(folder / f"{i}.png")
    return folder


def test_a_field_tells_styles_apart_and_who_is_alone_is_counted(tmp_path):
    told: list[str] = []
    progress = Progress(quiet=True, live=False)
    progress.note = told.append  # type: ignore[method-assign]
    data = with_field(tmp_path / "data", "aabbbc")
    found = open_project({"path": str(data), "style_image": "style", "augment": False}, progress)
    assert found.settings["labels"] == "style" and found.train.labels is None
    assert "1 pictures are the only one of their style and teach without a reference" in told
    batch = found.batches(6, 0).at(0)
    rows = found.batches(6, 0).rows(0)
    assert batch.inputs[STYLE]["given"].tolist() == [row != 5 for row in rows]
    assert set(found.facts.spatial) == {STYLE} and found.facts.vector == 64 and found.facts.guided


def test_an_interrupted_run_draws_the_same_references(data, tmp_path, monkeypatch):
    asked: dict[str, Any] = {"style_image": "label", "steps": 4, "overrides": [*SMALL, "training.log_every=1"], **QUIET}
    straight = facade.train(data / "all", out=tmp_path / "straight", **asked)
    real = loop.run

    def broken(*given: Any, **options: Any) -> Any:
        given[5].on_log = lambda row: options["stop"].request() if row["step"] == 2 else None
        return real(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "run", broken)
        assert facade.train(data / "all", out=tmp_path / "out", **asked).interrupted
    done = facade.resume(tmp_path / "out", progress=Progress(quiet=True))
    assert not done.interrupted
    one, other = (state.load(r.run / "state", pytest.fail) for r in (straight, done))
    for group, tensors in one.groups.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other.groups[group][name]), name


def test_in_a_latent_the_reference_is_of_pixels(data, tmp_path):
    small = ["autoencoder.width=16", "autoencoder.blocks=0", "training.batch=8", "training.previews=0"]
    facade.train(data / "all", autoencoder=True, steps=1, size=16, out=tmp_path / "ae", overrides=small, **QUIET)
    given = {"latent": tmp_path / "ae", "style_image": "label", "size": 16, "overrides": SMALL, **QUIET}
    done = facade.train(data / "all", steps=1, out=tmp_path / "run", **given)
    model, _ = load_model(done.path)
    assert model.encoder(STYLE).spec()["channels"] == 1 != model.denoiser.net.spec()["channels"]
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not name.startswith("domain."):
                p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    save_model(tmp_path / "moved.safetensors", model, {})
    loaded = load(tmp_path / "moved.safetensors", "cpu")
    one, two = (loaded.sample(1, style_image=data / f"{style}.png")[0].data for style in COLOURS)
    assert not np.array_equal(one, two)


def test_bad_input_is_one_line(run, data, tmp_path, capsys):
    loaded, text = load(run, "cpu"), tmp_path / "text.png"
    text.write_text("no picture")
    for given, said in {data / "none.png": "no such file", text: "text.png", data: "no such file"}.items():
        with pytest.raises(KakusanError, match=said) as caught:
            loaded.sample(1, style_image=given)
        assert "\n" not in str(caught.value)
    with pytest.raises(KakusanError, match="--style-image PICTURE"):
        loaded.sample(1, cond={"style-image": "light.png"})
    plain = facade.train(data / "all", steps=1, out=tmp_path / "plain", labels="none", overrides=SMALL[:7], **QUIET)
    with pytest.raises(KakusanError, match="was not trained with --style-image"):
        load(plain.run, "cpu").sample(1, style_image=data / "dark.png")
    with_field(tmp_path / "ones", "abcd")
    asked: list[tuple[Path, dict[str, Any], str]] = [
        (data / "all" / "dark", {"style_image": "label"}, "no such classes"),
        (tmp_path / "ones", {"style_image": "style"}, "no two pictures are of one style"),
        (data / "all", {"style_image": "label", "labels": "kind"}, "stands in the place of classes"),
        (data / "all", {"style_image": "label", "upscale": 2}, "do not go together"),
        (data / "all", {"style_image": "label", "pairs": "x.jsonl"}, "do not go together"),
        (data / "all", {"style_image": "label", "autoencoder": True}, "first the one"),
        (data / "all", {"style_image": "label", "start": run, "lora": 2}, "--style-image is learnt by all weights"),
    ]
    for path, given, said in asked:
        with pytest.raises(KakusanError, match=said) as caught:
            facade.train(path, steps=1, out=tmp_path / "out", **given, **QUIET)
        assert "\n" not in str(caught.value)


def test_a_model_of_classes_takes_the_style_in_their_place(data, tmp_path):
    classes = [each for each in SMALL if "style_image" not in each]
    plain = facade.train(data / "all", steps=1, size=16, out=tmp_path / "plain", overrides=classes, **QUIET)
    assert "label" in load_model(plain.path)[0].encoders
    given = {"style_image": "label", "lora": 0, "steps": 1, **QUIET}
    done = facade.train(data / "all", start=plain.path, out=tmp_path / "run", **given)
    assert set(load_model(done.path)[0].encoders) == {STYLE}
