"""recipes/icons/gallery.py: the prompts, the layout, and pictures that are what the command under them draws."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from kakusan.app.draw.loaded import Loaded
from kakusan.app.train import recipe
from kakusan.catalog import build
from kakusan.part import KakusanError
from kakusan.training.plan import Facts, model_spec

RECIPE = Path(__file__).parents[2] / "recipes" / "icons"
STYLES = ["3d", "flat", "modern", "noto"]


@pytest.fixture(autouse=True)
def recipes(monkeypatch, one_thread):
    monkeypatch.syspath_prepend(str(RECIPE))


def model() -> Loaded:
    """An untrained model of words and styles, 16 px RGBA."""
    domain = {"kind": "domain/image", "size": [16, 16], "mode": "RGBA"}
    facts = Facts(100, (4, 16, 16), 0.5, domain, classes=STYLES, called="style", vocabulary="_ _a a _red _apple _dog")
    net = {"kind": "net/unet", "channels": 4, "width": 16, "mults": [1, 1], "attention": [1]}
    tree = recipe.fit_ports({"model": model_spec(facts, net)})
    tree["model"]["defaults"] = {"steps": 2, "guidance": 2.0}
    torch.manual_seed(0)
    built = build(tree["model"], "model")
    for parameter in built.parameters():  # what is zero at first would leave every condition without effect
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return Loaded(built.eval(), {"hash": "c0ffee" * 8})


def test_a_hundred_prompts_and_a_grid_that_fills_its_rows():
    from gallery import COLUMNS, read

    sections, asked = read()
    counts = Counter(a.section for a in asked)
    assert len(asked) == len(set(asked)) == 100
    assert [counts[s] for s in ("seen", "colours", "together", "held-out", "free")] == [40, 12, 8, 20, 20]
    assert {a.style for a in asked if a.section != "free"} == set(STYLES)
    assert not any(a.style for a in asked if a.section == "free")
    grid = sum(s["grid"] for s in sections)
    assert 12 <= grid <= 16 and grid % COLUMNS == 0
    assert all(s["grid"] <= counts[s["slug"]] for s in sections)


def test_a_picture_of_the_gallery_is_what_sample_draws():
    from gallery import Asked, drawn

    loaded = model()
    asked = [Asked("a dog", "flat", "x"), Asked("a red apple", "3d", "x"), Asked("a red apple", "", "x")]
    found = [np.asarray(im) for im in drawn(loaded, asked)]
    assert found[0].shape == (16, 16, 4)
    for picture, one in zip(found, asked):
        cond = {"style": one.style} if one.style else {}
        alone = loaded.sample(1, prompt=one.words, cond=cond, seed=0)[0].shown
        assert np.abs(picture.astype(int) - alone).max() <= 1  # another batch size may round otherwise
    assert np.abs(found[1].astype(int) - found[2]).max() > 1


def test_a_model_without_words_is_refused():
    from gallery import Asked, drawn

    loaded = SimpleNamespace(path="m", model=SimpleNamespace(encoders={"label": None}))
    with pytest.raises(KakusanError, match="m: the gallery needs a model of words and styles; this has label"):
        drawn(loaded, [Asked("a dog", "flat", "x")])


def test_captions_fit_their_cells():
    from gallery import CELL, MOST, SIZE, lines_of

    font = ImageFont.load_default(size=SIZE)
    assert lines_of("a red apple", CELL, font) == ["a red apple"]
    lines = lines_of("a small yellow fish that swims in a large round bowl of green glass on a table", CELL, font)
    assert len(lines) == MOST and lines[-1].endswith("…")
    assert all(font.getlength(line.rstrip("…")) <= CELL for line in lines)
    assert " ".join(lines_of("something spooky for halloween", CELL, font)) == "something spooky for halloween"


def test_a_sheet_shows_every_picture_over_a_checkerboard_in_its_place():
    from gallery import CELL, GAP, sheet

    clear = np.zeros((64, 64, 4), np.uint8)
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    pictures = []
    for colour in colours:
        a = clear.copy()
        a[16:48, 16:48] = (*colour, 255)
        pictures.append(Image.fromarray(a))
    made = np.asarray(sheet(pictures, ["one", "two", "three " * 9], columns=2))
    middle = GAP + CELL // 2
    second = middle + CELL + GAP
    assert made.shape[1] == 2 * (CELL + GAP) + GAP
    assert tuple(made[middle, middle]) == colours[0] and tuple(made[middle, second]) == colours[1]
    below = next(y for y in range(made.shape[0]) if tuple(made[y, middle]) == colours[2])
    assert below > GAP + CELL
    corner = made[GAP : GAP + 16, GAP : GAP + 16].reshape(-1, 3)
    assert {tuple(c) for c in corner} == {(255, 255, 255), (204, 204, 204)}
    with pytest.raises(KakusanError, match="1 captions for 3 pictures"):
        sheet(pictures, ["one"])


def test_pngs_take_fewer_colours_before_they_are_refused():
    from gallery import encoded

    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    true = encoded([noise], 10**6)[0]
    with Image.open(io.BytesIO(true)) as im:
        assert np.array_equal(np.asarray(im), np.asarray(noise))
    few = encoded([noise], len(true) - 1)[0]
    with Image.open(io.BytesIO(few)) as im:
        assert im.mode == "P" and im.size == noise.size
    with pytest.raises(KakusanError, match=r"take [\d,]+ bytes: 100 are allowed"):
        encoded([noise], 100)


def test_the_page_shows_every_file_and_every_prompt(tmp_path):
    import gallery

    prompts = tmp_path / "gallery.toml"
    prompts.write_text("".join(
        f'[[sections]]\nslug = "{s}"\ntitle = "T"\nabout = "About {s}."\ngrid = {g}\nprompts = [{p}]\n'
        for s, g, p in (("one", 2, '["a dog", "3d"], ["a red apple", "flat"]'), ("two", 1, '["a red dog"]'))
    ))  # fmt: skip
    files = gallery.write(model(), tmp_path / "docs", prompts)
    page = (tmp_path / "docs" / "gallery.md").read_text("utf-8")
    shown = re.findall(r"!\[(.*?)\]\((.*?)\)", page)
    assert shown == [
        ("a dog (3d); a red apple (flat)", "pictures/gallery-one.png"),
        ("a red dog", "pictures/gallery-two.png"),
    ]
    assert {f.name for f in files} == {"gallery-one.png", "gallery-two.png", "icons.png", "gallery.md"}
    assert all(f.is_file() for f in files) and "c0ffeec0ffee." in page
    with Image.open(tmp_path / "docs" / "pictures" / "icons.png") as grid:
        assert grid.width == 3 * (gallery.CELL + gallery.GAP) + gallery.GAP
    assert sum(f.stat().st_size for f in files) < gallery.SHEETS
