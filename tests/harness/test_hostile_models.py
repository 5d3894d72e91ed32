"""Hundreds of damaged and hostile model files: a clear line each, nothing executed, little memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.hostile_models import CANARY, write_files
from harness.nursery import fresh


def check_hostile(folder: Path, count: int) -> None:
    write_files(folder, count)
    found = fresh("harness.hostile_models:load_all", str(folder))
    said = found["said"]
    print({k: v for k, v in found.items() if k != "said"})
    assert len(said) + len(found["same"]) == count
    assert len(found["same"]) <= count // 50, found["same"]  # what damage left the very same model
    for name, words in said.items():
        assert "\n" not in words and str(folder) in words and len(words) < 700, (name, words)
        assert "bug" not in words and "Traceback" not in words
    assert not (folder / CANARY).exists() and not found["modules"]
    assert found["megabytes"] < 100, found["hungriest"]
    assert found["slowest"] < 30


def test_damaged_and_hostile_models(tmp_path: Path) -> None:
    check_hostile(tmp_path, 63)


@pytest.mark.slow
def test_three_hundred_damaged_and_hostile_models(tmp_path: Path) -> None:
    check_hostile(tmp_path, 300)
