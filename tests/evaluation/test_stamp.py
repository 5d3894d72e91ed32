"""Stamps: two figures are comparable exactly when all of the protocol agrees."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from kakusan.evaluation.features import from_function
from kakusan.evaluation.stamp import VERSION, Stamp
from kakusan.part import KakusanError

EXTRACT = from_function(lambda pictures: pictures.reshape(len(pictures), -1).astype(np.float32), 12, weights="abc")
STAMP = Stamp.of(EXTRACT, (2, 2, 3), "uint8", real=5000, samples=1000, seed=0, data="f00d")


def test_it_says_what_was_measured_on():
    assert STAMP.as_dict() == {
        "extractor": "function", "weights": "abc", "resize": "none: pictures as they are", "pictures": "2x2x3 uint8",
        "real": 5000, "samples": 1000, "seed": 0, "data": "f00d", "version": VERSION,
    }  # fmt: skip


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Stamp)])
def test_any_difference_makes_figures_incomparable(name):
    value = getattr(STAMP, name)
    other = dataclasses.replace(STAMP, **{name: value + 1 if isinstance(value, int) else value + "x"})
    assert not STAMP.agrees(other) and not other.agrees(STAMP)
    assert STAMP.differences(other) == [f"{name}: {value} and {getattr(other, name)}"]
    assert STAMP.agrees(dataclasses.replace(STAMP)) and STAMP.differences(STAMP) == []


def test_it_comes_back_from_a_file():
    assert Stamp.from_dict(json.loads(json.dumps(STAMP.as_dict()))) == STAMP


@pytest.mark.parametrize("change", [{"real": "many"}, {"seed": None}, {"real": True}, {"more": 1}, {"weights": 3}])
def test_what_is_no_stamp_is_refused(change):
    with pytest.raises(KakusanError, match=f"no stamp of figures \\({next(iter(change))}\\)"):
        Stamp.from_dict(STAMP.as_dict() | change)
    missing = {k: v for k, v in STAMP.as_dict().items() if k != next(iter(STAMP.as_dict()))}
    with pytest.raises(KakusanError, match="extractor"):
        Stamp.from_dict(missing)
