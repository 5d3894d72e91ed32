"""Project: the data of a run, made ready for the device it trains on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kakusan.app.command.show import Progress
from kakusan.app.train.project import Project, open_project
from kakusan.domains.picture import encode_png


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
