"""Project: the data of a run, made ready for the device it trains on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kakusan.app.command.show import Progress
from kakusan.app.train.project import Project, open_project
from kakusan.domains.picture import encode_png
from kakusan.part import KakusanError


@pytest.fixture
def project(tmp_path: Path, monkeypatch) -> Project:
    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path / "cache"))
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(8):
            pixels = np.full((4, 4, 1), 10 * i + (name == "b"), np.uint8)
            (tmp_path / "data" / name / f"{i}.png").write_bytes(encode_png(pixels))
    return open_project({"path": str(tmp_path / "data"), "augment": False}, Progress(quiet=True))


def test_batches_are_made_where_they_are_used(project):
    """In the training's own thread on a CPU; ahead of it, and on the device, elsewhere ("meta" stands for one)."""
    here, there = project.batches(4, 0), project.batches(4, 0, torch.device("meta"))
    try:
        assert here.ahead == 0 and there.ahead > 0
        assert here.at(0).x0.device.type == "cpu"
        batch = there.at(0)
        assert batch.x0.device.type == batch.inputs["label"]["index"].device.type == "meta"
        assert batch.x0.shape == here.at(0).x0.shape
        assert np.array_equal(here.rows(3), there.rows(3))
    finally:
        there.close()


def test_classes_that_are_numbers_alone_take_names(tmp_path, monkeypatch):
    """Those of the [data] section, or of the model that is trained on, as many as there are."""
    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    np.savez("set.npz", x_train=draw.integers(0, 256, (12, 8, 8), np.uint8), y_train=np.arange(12) % 3)
    names, quiet = ["bag", "coat", "shoe"], Progress(quiet=True)
    given = {"path": "set.npz", "held_out": 0}
    label = {"kind": "condition/label", "classes": names, "dim": 8}
    for project in (
        open_project(given | {"classes": names}, quiet),
        open_project(given, quiet, encoders={"label": label}),
    ):
        assert list(project.train.classes) == names and project.train.labels.tolist() == [i % 3 for i in range(12)]
    with pytest.raises(KakusanError, match=r"numbers its 3 classes, and there are 2 names \(bag, coat\)"):
        open_project(given | {"classes": ["bag", "coat"]}, quiet)
