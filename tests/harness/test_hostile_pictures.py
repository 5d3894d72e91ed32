"""Hundreds of damaged pictures and bombs: one table, no traceback, little memory; what is whole is trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.hostile_pictures import GOOD, LARGE, write_files
from harness.nursery import Nursery, fresh

TRAIN = ["--steps", "2", "--device", "cpu", "training.batch=4", "denoiser.net.width=8", "denoiser.net.blocks=1",
         "training.previews=0", "training.precision=fp32"]  # fmt: skip


def check_hostile(children: Nursery, folder: Path, count: int) -> None:
    data = folder / "pictures"
    write_files(data, count)
    found = fresh("harness.hostile_pictures:check_data", str(data))
    said = found["said"]
    print(found["megabytes"], said[:1500])
    assert found["code"] == 0, said
    assert said.count("data check:") == 1 and "Traceback" not in said and f"{GOOD + LARGE:,} readable" in said
    assert found["megabytes"] < 512
    words = ["train", str(data), "--out", str(folder / "run"), *TRAIN]
    said = children.run("harness.children:command", words, {}, str(folder / "marks"))
    assert (folder / "run" / "model.safetensors").exists() and "Traceback" not in said and "left out" in said


def test_damaged_pictures_and_bombs(children: Nursery, tmp_path: Path) -> None:
    check_hostile(children, tmp_path, 60)


@pytest.mark.slow
def test_three_hundred_damaged_pictures_and_bombs(children: Nursery, tmp_path: Path) -> None:
    check_hostile(children, tmp_path, 300)
