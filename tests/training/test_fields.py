"""Fields: numbers and tags of metadata.jsonl reach the encoders as the encoders themselves would prepare them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pil

from kakusan.catalog import build
from kakusan.domains.image import Image
from kakusan.part import KakusanError
from kakusan.training.cache import build_cache
from kakusan.training.data import Batches, Dataset
from kakusan.training.fields import asked
from kakusan.training.source import open_source

MASS = [1.0, 10.0, 1000.0, None, 3.0, 30.0]
WIDE = [2, 4, 3, 5, None, 4]
TAGS = [["red"], [], ["round", "red"], None, ["round"], ["blue"]]


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """Six pictures, the second of them broken, listed backwards."""
    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    lines = []
    for i in range(6):
        if i == 1:
            (folder / "1.png").write_bytes(b"no picture")
        else:
            Pil.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(folder / f"{i}.png")
        entry = {"file_name": f"{i}.png", "mass": MASS[i], "wide": WIDE[i], "tags": TAGS[i], "id": i}
        lines.append(json.dumps({k: v for k, v in entry.items() if v is not None}))
    (folder / "metadata.jsonl").write_text("\n".join(reversed(lines)))
    return folder


def test_fields_travel_to_the_encoders(data):
    source = open_source(data, fields="mass:kg, wide, tags")
    domain = Image([8, 8], "L")
    dataset = Dataset.of(source, build_cache(source, domain))
    specs = {name: column.spec() for name, column in dataset.fields.items()}
    assert specs["mass"]["unit"] == "kg" and specs["mass"]["log"] and not specs["wide"]["log"]
    assert specs["tags"]["names"] == ["blue", "red", "round"]
    assert specs["wide"]["mean"] == pytest.approx(3.6) and specs["wide"]["std"] == pytest.approx(1.0198, rel=1e-4)
    made = Batches(dataset.subset(np.arange(5)[::-1]), domain, 5, ahead=0, reference=4)
    batch = made.at(0)
    shades = (batch.x0[:, 0, 0, 0] + 1) * 127.5 / 40
    rows = [int(v) for v in shades.round()]  # which picture it is
    assert sorted(rows) == [0, 2, 3, 4, 5]
    for name, values in (("mass", MASS), ("wide", WIDE), ("tags", TAGS)):
        expected = build(specs[name]).prepare([values[i] for i in rows])
        assert expected.keys() == batch.inputs[name].keys()
        for key, value in expected.items():
            torch.testing.assert_close(batch.inputs[name][key], value)
    assert batch.reference is not None and set(batch.reference.inputs) == {"mass", "wide", "tags"}
    assert math.isfinite(float(batch.inputs["mass"]["value"].sum()))


def test_nothing_is_read_that_was_not_asked_for(data):
    assert open_source(data).fields == {}
    assert asked("a:mm, b") == {"a": "mm", "b": ""} and asked(None) == {}
    assert asked(["a", "b:kg"]) == {"a": "", "b": "kg"}


@pytest.mark.parametrize(
    ("fields", "line", "said"),
    [
        ("weight", None, "'weight', but no line"),
        ("label", None, "names 'label'"),
        ("a b", None, "names 'a b'"),
        ("wide", {"wide": "much"}, "wide is 'much'; a field is a number or a list of words"),
        ("wide", {"wide": ["much"]}, "of the other kind"),
        ("flat", {"flat": 1.0}, "finite numbers that differ"),
        ("mass", {"mass": 1e999}, "finite numbers"),
    ],
)
def test_bad_fields_are_one_line(data, fields, line, said):
    if line is not None:
        file = data / "metadata.jsonl"  # of several lines about a picture the first one counts
        file.write_text(json.dumps({"file_name": "0.png", **line}) + "\n" + file.read_text())
    with pytest.raises(KakusanError, match=said) as caught:
        open_source(data, fields=fields)
    assert "\n" not in str(caught.value)


def test_data_without_metadata_has_no_fields(tmp_path):
    Pil.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "0.png")
    with pytest.raises(KakusanError, match=r"has no metadata.jsonl"):
        open_source(tmp_path, fields="mass")
