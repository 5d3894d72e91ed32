"""Captions in training: several a picture, drawn by seed, epoch and row; prepared once; the same after a resume."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from harness.tiny import Tiny, assert_same, settings
from kakusan.conditions.text import Text
from kakusan.conditions.words import learn
from kakusan.core.denoiser import Denoiser
from kakusan.core.model import Model
from kakusan.core.param import Karras
from kakusan.core.process import VE
from kakusan.core.space import Flat
from kakusan.domains.image import Image
from kakusan.domains.picture import encode_png
from kakusan.training.captions import Captions
from kakusan.training.data import KEPT, Batches, Dataset
from kakusan.training.feed import on_device
from kakusan.training.loop import run
from kakusan.training.metadata import Gathered
from kakusan.training.source import open_source

DOMAIN = Image([6, 6], "L")
WORDS = ("zero", "one", "two", "three", "four", "five")


def dataset(captions: Sequence[Sequence[str]]) -> Dataset:
    """Picture i has all pixels i."""
    pixels = np.broadcast_to(np.arange(len(captions), dtype=np.uint8)[:, None, None, None], (len(captions), 6, 6, 1))
    found = Gathered()
    for several in captions:
        found.add(several)
    plain = Dataset.arrays(pixels.copy())
    return Dataset(plain.pixels, plain.hashes, texts=found.texts())


def captioned(count: int = 30) -> Dataset:
    """Picture i says WORDS[i % 6], in one to three ways; every seventh nothing."""
    ways = ["{}", "a {}", "the {} there"]
    return dataset([[w.format(WORDS[i % 6]) for w in ways[: 1 + i % 3]] if i % 7 else [] for i in range(count)])


def reader(data: Dataset) -> Text:
    assert data.texts is not None
    said = [t for i in range(len(data)) for t in data.texts.all(i)]
    return Text(learn(said), length=8, tokens=8, depth=1, heads=2, dim=2)


def batches(data: Dataset, encoder: Text, **more) -> Batches:
    assert data.texts is not None
    return Batches(data, DOMAIN, 10, captions=Captions(data.texts.names, encoder), **{"ahead": 0} | more)


def said(encoder: Text, pieces: torch.Tensor) -> list[str]:
    names = {
        number: piece for piece, number in ((p, encoder.vocabulary.numbers(p)[0]) for p in encoder.vocabulary._rank)
    }
    return ["".join(names[int(n)] for n in row if n).replace("_", " ").strip() for row in pieces]


def number(batch) -> list[int]:
    return ((batch.x0[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def test_each_picture_comes_with_one_of_its_captions():
    data = captioned()
    encoder = reader(data)
    straight = batches(data, encoder, seed=3)
    heard: dict[int, set[str]] = {}
    for step in range(60):
        batch = straight.at(step)
        for i, words in zip(number(batch), said(encoder, batch.inputs["prompt"]["pieces"]), strict=True):
            assert words in (data.texts.all(i) or [""])
            heard.setdefault(i, set()).add(words)
    for i, words in heard.items():  # 20 epochs: each caption of each picture came at least once
        assert words == set(data.texts.all(i) or [""])


def test_the_caption_is_a_function_of_seed_epoch_and_row():
    data = captioned()
    encoder = reader(data)
    one, ahead = batches(data, encoder, seed=3), batches(data, encoder, seed=3, ahead=3)
    wanted = {s: one.at(s).inputs["prompt"]["pieces"] for s in range(12)}
    for s in (11, 2, 2, 3, 4, 0):
        assert torch.equal(batches(data, encoder, seed=3).at(s).inputs["prompt"]["pieces"], wanted[s])
        assert torch.equal(ahead.at(s).inputs["prompt"]["pieces"], wanted[s])
    ahead.close()
    ranks = [batches(data, encoder, seed=3, rank=r, world=2) for r in range(2)]
    joint = encoder.stack([r.at(5).inputs["prompt"] for r in ranks])
    width = wanted[5].shape[1]
    assert torch.equal(joint["pieces"][:, :width], wanted[5]) and not joint["pieces"][:, width:].any()
    assert not all(
        torch.equal(batches(data, encoder, seed=4).at(s).inputs["prompt"]["pieces"], wanted[s]) for s in wanted
    )


def test_reference_pictures_bring_captions_of_their_own():
    data = captioned()
    encoder = reader(data)
    one, other = (batches(data, encoder, seed=1, reference=20) for _ in range(2))
    first, later = one.at(0).reference, other.at(KEPT).reference
    for batch in (first, later):
        for i, words in zip(number(batch), said(encoder, batch.inputs["prompt"]["pieces"]), strict=True):
            assert words in (data.texts.all(i) or [""])
    assert torch.equal(one.at(KEPT).reference.inputs["prompt"]["pieces"], later.inputs["prompt"]["pieces"])


def test_each_distinct_caption_is_prepared_once_and_long_ones_are_counted():
    data = dataset([["one two three four five one two three four"], ["one"], ["one"], []] * 3)
    encoder = reader(data)
    asked: list[str | None] = []
    plain = encoder.caption

    def counting(text):
        asked.append(text)
        return plain(text)

    encoder.caption = counting
    captions = Captions(data.texts.names, encoder)
    assert captions.prepare() == 1
    for _ in range(3):
        given = captions.inputs(np.array([0, 1, -1, 1]))
    assert sorted(asked, key=str) == [None, "one", "one two three four five one two three four"]
    assert given["pieces"].shape == (4, 8) and (given["pieces"] > 0).sum(1).tolist() == [8, 1, 0, 1]
    assert torch.equal(captions.inputs(np.array([-1, -1]))["pieces"], torch.zeros(2, 0, dtype=torch.int16))


def model(encoder: Text) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return Model(Denoiser(Tiny(0.1), VE(), Karras(0.5), Flat()), None, {"prompt": Text(**plain(encoder))})


def plain(encoder: Text) -> dict:
    return {k: v for k, v in encoder.spec().items() if k != "kind"}


class Until:
    """A request to stop at a step."""

    def __init__(self, step: int, feed) -> None:
        self.step, self.feed = step, feed

    def __call__(self) -> bool:
        return self.feed.last >= self.step


def test_a_stopped_run_on_captions_ends_as_one_that_was_not(tmp_path):
    data = captioned()
    encoder = reader(data)

    class Told(Batches):
        last = -1

        def at(self, step):
            self.last = step
            return on_device(super().at(step), torch.device("cpu"))

    def go(folder, stop_at=None, resume=False):
        one = model(encoder)
        feed = Told(data, DOMAIN, 8, 3, ahead=0, captions=Captions(data.texts.names, one.encoder("prompt")))
        stop = Until(stop_at if stop_at is not None else 10**9, feed)
        return run(one, feed, settings(steps=16), folder, "cpu", stop=stop, resume=resume)

    torch.set_num_threads(1)
    go(tmp_path / "whole")
    assert go(tmp_path / "cut", stop_at=6).interrupted
    assert not go(tmp_path / "cut", resume=True).interrupted
    assert_same(tmp_path / "whole", tmp_path / "cut")


@pytest.fixture
def folder(tmp_path):
    """a has three lines, b one with a byte order mark, c a blank file, d none; two texts of nothing."""
    for name, value in zip("abcd", range(4)):
        (tmp_path / f"{name}.png").write_bytes(encode_png(np.full((4, 4, 1), value, np.uint8)))
    (tmp_path / "a.txt").write_text("red\n\n a red thing \nred\n")
    (tmp_path / "b.txt").write_bytes("\ufeffblau".encode())
    (tmp_path / "c.txt").write_text("\n")
    (tmp_path / "gone.txt").write_text("x")
    (tmp_path / "readme.txt").write_text("y")
    return tmp_path


def test_a_line_of_a_caption_file_is_a_caption(folder):
    source = open_source(folder)
    assert [source.texts.all(i) for i in range(4)] == [["red", "a red thing"], ["blau"], [], []]
    assert source.texts[0] == "red" and source.texts[2] is None
    assert source.uncaptioned() == (2, ["c.png", "d.png"])
    assert source.astray == (2, ["gone.txt", "readme.txt"])
    assert source.describe()["captions"] == 2


def test_metadata_may_say_several_captions(folder):
    lines = [
        {"file_name": "a.png", "text": ["eins", "zwei", "eins"]}, {"file_name": "b.png", "caption": "drei"},
        {"file_name": "c.png", "text": []}, {"file_name": "z.png", "text": "weg"},
    ]  # fmt: skip
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = open_source(folder)
    assert [source.texts.all(i) for i in range(3)] == [["eins", "zwei"], ["drei"], []]
    assert source.uncaptioned() == (1, ["c.png"]) and source.astray == (1, ["z.png"])
    assert source.texts.subset(np.array([1, 0])).all(1) == ["eins", "zwei"]
