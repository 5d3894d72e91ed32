"""benchmarks/edit.py: every way fills what is masked and nothing else, and the figures are what they say."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

import kakusan


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("edit")


def test_every_way_leaves_what_is_known_and_says_its_evaluations(bench):
    model = kakusan.load("fashion", "cpu")
    picture = model.sample(1, seed=0, steps=4)[0].data.reshape(28, 28, 1)
    compared = bench.ways(model, 2)
    assert {"posterior", "replace (RePaint)", "nearest pixel"} <= set(compared)
    assert compared["posterior"][1] == 3 * 5 and compared["replace (RePaint)"][1] == 11
    for name, mask in bench.masks(28, 28).items():
        assert 0.1 < mask.mean() < 0.9, name
    mask = bench.masks(28, 28)["half"]
    for name, (fill, evaluations) in compared.items():
        made = fill(picture, mask, 5, 2)
        assert made.shape == (2, 28, 28, 1) and (made[:, ~mask] == picture[~mask]).all(), name
        assert (made[0] != made[1]).any() == (evaluations > 0), f"{name}: seeds differ where there is chance"


def test_the_figures_of_known_fills(bench):
    truth = np.full((4, 8, 8, 1), 100, np.uint8)
    mask = bench.masks(8, 8)["half"]
    off = np.array([3, -4])[:, None, None, None, None] * mask[..., None]
    filled = (truth.astype(int) + off).astype(np.uint8)
    draw = np.random.default_rng(0)
    found = bench.judged(truth, filled, mask, lambda a: draw.standard_normal((len(a), 3)))
    assert (found["inside"], found["best"], found["diversity"]) == (3.5, 3.0, 7.0)


def test_hidden_colours_do_not_count(bench):
    a = np.zeros((1, 2, 2, 4), np.uint8)
    b = a.copy()
    b[..., 0] = 250
    assert (bench.shown(a) == bench.shown(b)).all() and bench.shown(a[..., :3]).shape == (1, 2, 2, 3)
