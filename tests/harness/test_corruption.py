"""The newest checkpoint truncated, bit flipped, emptied or missing: it is named, and the one before is used."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import torch

from kakusan.training import state


def groups(value: float) -> state.Groups:
    kernel = torch.full((4, 3, 2, 2), float(value)).to(memory_format=torch.channels_last)
    return {"weights": {"a": kernel, "b": torch.tensor(value, dtype=torch.float64)}, "best": {}}


def fill(folder: Path, count: int) -> list[Path]:
    return [state.save(folder, 10 * i, groups(i), {"note": i, "unit": 0.1 + i}) for i in range(1, count + 1)]


def load(folder: Path) -> tuple[state.Saved, list[str]]:
    lines: list[str] = []
    saved = state.load(folder, lines.append)
    assert saved is not None
    return saved, lines


def corrupt(path: Path, how: str, rng: random.Random) -> str:
    """Damage one file of a checkpoint, or all of it; what was done."""
    file = rng.choice(sorted(path.iterdir()))
    data = bytearray(file.read_bytes())
    if how == "flipped":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
    elif how == "truncated":
        file.write_bytes(data[: rng.randrange(len(data))])
    elif how == "emptied":
        file.write_bytes(b"")
    elif how == "file missing":
        file.unlink()
    else:
        shutil.rmtree(path)
    return f"{how}: {file.name}"


def check_corruptions(folder: Path, count: int) -> None:
    rng = random.Random(0)
    clean = folder / "clean"
    fill(clean, 2)
    for i in range(count):
        how = ("flipped", "flipped", "truncated", "emptied", "file missing", "gone")[i % 6]
        work = folder / f"work{i}"
        shutil.copytree(clean, work)
        done = corrupt(work / "save-00002", how, rng)
        saved, lines = load(work)
        assert saved.step == 10 and saved.groups["weights"]["a"].mean() == 1, done
        assert len(lines) == 1 and "save-00002" in lines[0] and "save-00001" in lines[0], (done, lines)
        shutil.rmtree(work)


def test_corruptions_are_named_and_the_one_before_is_used(tmp_path: Path) -> None:
    check_corruptions(tmp_path, 60)


@pytest.mark.slow
def test_two_hundred_corruptions(tmp_path: Path) -> None:
    check_corruptions(tmp_path, 200)
