"""Pairs: what a list says is what a batch brings, mirrored and encoded alike; bad lines are named."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pil

from kakusan.domains.image import Image
from kakusan.domains.latent import Latent
from kakusan.nets.autoencoder import ConvAutoencoder
from kakusan.part import KakusanError
from kakusan.training.cache import build_cache
from kakusan.training.data import Batches, Dataset
from kakusan.training.latents import Latents
from kakusan.training.pairs import open_pairs

DOMAIN = Image([8, 8], "RGB")


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """Twelve pictures and their negatives, which are paired; one that no pair names."""
    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for folder in ("before", "after"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    lines = []
    for i in range(12):
        a = draw.integers(0, 256, (8, 8, 3), np.uint8)
        Pil.fromarray(a).save(tmp_path / f"data/before/{i}.png")
        Pil.fromarray(255 - a).save(tmp_path / f"data/after/{i}.png")
        text = [f"invert {i}", f"negate {i}", f"flip {i}"]
        lines.append({"source": f"before/{i}.png", "target": f"after/{i}.png", "kind": "colour", "text": text})
    Pil.fromarray(a).save(tmp_path / "data/alone.png")
    (tmp_path / "data/pairs.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n", "utf-8")
    with (tmp_path / "data/pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "target", "text", "note"])
        writer.writerows([line["source"], line["target"], line["text"][0], ""] for line in lines)
    return tmp_path / "data"


def dataset(path: Path, lists: list[str], latent: Latent | None = None, **how) -> Dataset:
    source, pairs = open_pairs(path, lists)
    cache = build_cache(source, DOMAIN)
    latents = None if latent is None else Latents(latent, DOMAIN, cache.pixels, **how)
    return Dataset.of_pairs(pairs.placed(cache), cache, DOMAIN, latents)


@pytest.mark.parametrize("flip", [False, True])
def test_a_batch_brings_each_source_beside_its_target(data, flip):
    found = dataset(data, ["pairs.jsonl"])
    assert len(found) == 12 and len(found.pixels) == 24  # what no pair names is not read
    batches = Batches(found, DOMAIN, 12, 3, flip=flip, ahead=0)
    for step in range(2):
        batch = batches.at(step)
        torch.testing.assert_close(batch.inputs["source"]["picture"], -batch.x0)
        assert batch.inputs["source"]["given"].all()
    assert sorted(batches.rows(0)) == list(range(12))


def test_texts_are_those_of_the_pair(data):
    found = dataset(data, ["pairs.jsonl"])
    assert found.texts is not None
    for row in (0, 7):
        assert found.texts.all(row) == [f"{word} {row}" for word in ("invert", "negate", "flip")]
    other = dataset(data, ["pairs.csv"])
    assert [other.texts[i] for i in range(12)] == [found.texts[i] for i in range(12)]


def test_lists_are_told_apart_and_number_their_texts_alike(data):
    (data / "held.jsonl").write_text('{"source": "after/3.png", "target": "before/3.png", "text": "invert 3"}')
    _, pairs = open_pairs(data, ["pairs.jsonl", "held.jsonl"])
    assert pairs.of.tolist() == [0] * 12 + [1] and pairs.texts[12] == "invert 3"
    assert pairs.texts.numbers(12).tolist() == [pairs.texts.numbers(3)[0]]
    assert (pairs.sources[12], pairs.targets[12]) == (pairs.targets[3], pairs.sources[3])
    assert open_pairs(data, ["pairs.jsonl"])[1].digest != pairs.digest


@pytest.mark.parametrize("how", [{"flip": True}, {"flip": True, "limit": 0}])
def test_in_a_latent_the_source_is_encoded_as_an_edit_encodes_it(data, how):
    torch.manual_seed(0)
    latent = Latent(DOMAIN, ConvAutoencoder(3, latent=4, factor=2, width=8), mean=[0.1] * 4, std=[0.5] * 4)
    found = dataset(data, ["pairs.jsonl"], latent, **how)
    assert found.maps is not None
    plain = DOMAIN.floats(found.pixels[found.maps.rows])
    turned = torch.arange(12) % 2 == 0
    x = torch.where(turned[:, None, None, None], plain.flip(3), plain)
    with torch.no_grad():
        torch.testing.assert_close(
            found.maps.inputs(np.arange(12), turned)["picture"], latent.encode(x), atol=5e-3, rtol=1e-3
        )


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", "not json", r"a.jsonl, line 1: needs one JSON object"),
        ("a.jsonl", '\n{"source": "alone.png", "text": "x"}', r"a.jsonl, line 2: needs .source. and .target."),
        ("a.jsonl", '{"source": "alone.png", "target": "alone.png", "text": 3}', r"needs .source. and .target."),
        ("a.jsonl", '{"source": "alone.png", "target": "alone.png", "text": " "}', r"its text is empty"),
        ("a.jsonl", '{"source": "alone.png", "target": "b.png", "text": "x"}', r"line 1: 'b.png' is not in .* 1 of 1"),
        ("a.jsonl", "\n", r"is empty; one pair a line"),
        ("a.csv", "source,text\n", r"has no column 'target'"),
        ("a.csv", "source,target,text\nalone.png,gone.png,x\n", r"a.csv, line 2: 'gone.png' is not in"),
    ],
)
def test_bad_lists_are_one_line(data, name, text, said):
    (data / name).write_text(text)
    with pytest.raises(KakusanError, match=said):
        open_pairs(data, [name])


def test_a_list_or_data_that_is_not_there(data):
    with pytest.raises(KakusanError, match=r"--pairs nothing.jsonl: no such file in"):
        open_pairs(data, ["nothing.jsonl"])
    with pytest.raises(KakusanError, match="does not exist"):
        open_pairs(data / "nowhere", ["pairs.jsonl"])
    with pytest.raises(KakusanError, match="a single file"):
        open_pairs(data / "alone.png", ["pairs.jsonl"])


def test_pairs_of_pictures_that_cannot_be_read_are_left_out(data):
    (data / "before/5.png").write_bytes(b"no picture")
    found = dataset(data, ["pairs.jsonl"])
    assert len(found) == 11 and found.texts is not None
    assert [found.texts[i] for i in (4, 5)] == ["invert 4", "invert 6"]
    torch.testing.assert_close(
        Batches(found, DOMAIN, 11, ahead=0).at(0).inputs["source"]["picture"],
        -Batches(found, DOMAIN, 11, ahead=0).at(0).x0,
    )
