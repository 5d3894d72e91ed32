"""Filling by a model that was trained with masks: what it knows of the hole's surroundings counts, the rest is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pil

from kakusan.app.command.show import Progress
from kakusan.app.draw.loaded import Loaded
from kakusan.app.draw.samples import reproduce
from kakusan.app.edit.editing import Wanted
from kakusan.app.edit.fill import inpaint, outpaint
from kakusan.app.facade import train
from kakusan.app.train.project import DATA
from kakusan.app.train.spatial import settled
from kakusan.part import KakusanError

SMALL = [
    "denoiser.net.width=8", "denoiser.net.blocks=1", "training.batch=4", "defaults.steps=3", "denoiser.net.mults=[1]",
    "denoiser.net.attention=[]", "training.previews=0", "training.evaluations=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def filler(tmp_path_factory) -> Loaded:
    """A network trained for two steps, every weight then moved, so that the field counts."""
    folder = tmp_path_factory.mktemp("masks")
    pictures(folder / "data")
    patch = pytest.MonkeyPatch()
    patch.setenv("KAKUSAN_CACHE", str(folder / "cache"))
    done = train(folder / "data", masks=True, steps=2, out=folder / "run", overrides=SMALL, device="cpu")
    patch.undo()
    loaded = moved(done.load("cpu"))
    assert loaded.model.denoiser.net.spec()["field"] == 4
    return loaded


def pictures(folder: Path) -> None:
    """24 of noise."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for i in range(24):
        Pil.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{i}.png")


def moved(loaded: Loaded) -> Loaded:
    """Every weight changed a little, so that what begins at zero counts."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in loaded.model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return loaded


def scene(seed: int = 1, size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    mask = np.zeros((size, size), np.uint8)
    mask[5:11, 4:12] = 255
    return image, mask


def test_the_trained_way_is_taken_and_the_rest_stays_to_the_bit(filler):
    image, mask = scene()
    made = inpaint(filler, image, mask, Wanted(n=2, seed=3))
    assert made[0].recipe["edit"]["route"] == "trained" and "mask" not in made[0].recipe["cond"]
    assert np.array_equal(made[0].data[mask == 0], image[mask == 0])
    assert np.array_equal(made[1].data, inpaint(filler, image, mask, Wanted(seed=4))[0].data)


def test_what_is_around_counts_and_what_is_inside_does_not(filler):
    image, mask = scene()
    inside, around = image.copy(), image.copy()
    inside[mask > 0] = 7
    around[mask == 0] = 7
    first, second, third = (inpaint(filler, a, mask)[0].data[mask > 0] for a in (image, inside, around))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, third)


def test_larger_pictures_and_larger_canvases(filler):
    image, _ = scene(size=24)
    mask = np.zeros((24, 24), np.uint8)
    mask[1:23, 2:22] = 255
    made = inpaint(filler, image, mask, tile=True)[0]
    assert np.array_equal(made.data[mask == 0], image[mask == 0]) and "windows" in made.notes[0]
    wide = outpaint(filler, scene()[0], left=8)[0]
    assert wide.data.shape == (16, 24, 3) and np.array_equal(wide.data[:, 8:], scene()[0])


def test_in_a_latent_holes_are_of_the_latent(tmp_path, monkeypatch):
    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path / "cache"))
    pictures(tmp_path / "data")
    given = {"device": "cpu", "progress": Progress(quiet=True)}
    small = ["autoencoder.width=16", "autoencoder.blocks=0", "training.batch=4", "training.previews=0"]
    train(tmp_path / "data", autoencoder=True, steps=1, out=tmp_path / "ae", overrides=small, **given)
    plain = train(tmp_path / "data", latent=tmp_path / "ae", steps=1, out=tmp_path / "plain", overrides=SMALL, **given)
    for name, start in (("latent", {"latent": tmp_path / "ae", "overrides": SMALL}), ("from", {"start": plain.path})):
        done = train(tmp_path / "data", masks=True, lora=0 if name == "from" else None, steps=1, out=tmp_path / name,
                     **start, **given)  # fmt: skip
        loaded = moved(done.load("cpu"))
        depth = loaded.domain.blank(1)[0][0]
        assert loaded.model.encoder("mask").spec()["channels"] == depth != 3
        image, mask = scene()
        made = inpaint(loaded, image, mask, Wanted(n=1, seed=3))[0]
        assert made.recipe["edit"]["route"] == "trained"
        assert np.array_equal(made.data[mask == 0], image[mask == 0])
    with pytest.raises(KakusanError, match=r"--control and --from \S+, a model in a latent, do not go together"):
        train(tmp_path / "data", control="edges", start=plain.path, lora=0, steps=1, out=tmp_path / "no", **given)


def test_it_draws_from_nothing_too(filler):
    assert filler.sample(1)[0].data.shape == (16, 16, 3)


def test_it_is_made_again(filler, tmp_path):
    from kakusan.checkpoint import save_model

    save_model(tmp_path / "model.safetensors", filler.model, {})
    image, mask = scene()
    Pil.fromarray(image).save(tmp_path / "image.png")
    Pil.fromarray(mask).save(tmp_path / "mask.png")
    from kakusan.app.facade import load

    path = load(tmp_path, "cpu").inpaint(tmp_path / "image.png", tmp_path / "mask.png")[0].save(tmp_path / "out.png")
    assert reproduce(path)[1]


def test_bad_input_is_one_line(filler):
    with pytest.raises(KakusanError, match="kakusan inpaint"):
        filler.sample(1, cond={"mask": "left"})
    with pytest.raises(KakusanError, match="give one of the two"):
        settled(DATA | {"upscale": 4, "masks": True})
