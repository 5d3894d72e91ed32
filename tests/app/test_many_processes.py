"""``torchrun -m kakusan train`` and ``resume``: one process writes and talks, all train."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kakusan.training.events import read_rows

SMALL = [
    "denoiser.net.width=8",
    "denoiser.net.blocks=1",
    "training.batch=8",
    "training.log_every=1",
    "training.precision=fp32",
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", images=np.kron(draw.integers(0, 255, (60, 4, 4)), np.ones((1, 2, 2))).astype("u1"))
    return tmp_path


def command(place: Path, *words: str, count: int = 2) -> subprocess.Popen[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    return subprocess.Popen(
        [sys.executable, *torchrun, "-m", "kakusan", *words],
        cwd=place, env=os.environ | {"KAKUSAN_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def output(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return process.communicate(timeout=240)
    finally:
        process.kill()


def children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True)
    return [int(word) for word in listed.stdout.split()]


def curve(run: Path) -> list[float]:
    return [r["loss"] for r in read_rows(run / "log.jsonl") if r["kind"] == "train"]


@pytest.mark.slow
def test_torchrun_trains_as_one_process_does(place: Path) -> None:
    said, complained = output(command(place, "train", "data.npz", "--steps", "8", "--out", "two", *SMALL))
    assert said.splitlines() == ["two/model.safetensors"], complained
    assert len(re.findall("^Plan", complained, re.M)) == 1 and (place / "two" / "report.html").is_file()
    output(command(place, "train", "data.npz", "--recipe", "two/recipe.toml", "--out", "one", count=1))
    np.testing.assert_allclose(curve(place / "two"), curve(place / "one"), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals and ps")
def test_a_signal_to_one_process_saves_and_resume_finishes(place: Path) -> None:
    process = command(place, "train", "data.npz", "--steps", "600", "--out", "run", *SMALL)
    end = time.monotonic() + 200
    while not (place / "run" / "samples").exists() and time.monotonic() < end:
        time.sleep(0.2)
    workers = children(process.pid)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGTERM)
    said, complained = output(process)
    assert said.splitlines() == ["run"] and len(re.findall("Go on with: kakusan resume run", complained)) == 1
    assert process.returncode != 0
    assert len(curve(place / "run")) < 600
    said, complained = output(command(place, "resume", "run"))
    assert said.splitlines() == ["run/model.safetensors"] and len(curve(place / "run")) == 600, complained


@pytest.mark.slow
def test_what_is_wrong_is_said_once(place: Path) -> None:
    said, complained = output(command(place, "train", "nowhere", "--steps", "2", "--out", "run"))
    assert not said and len(re.findall("^kakusan: ", complained, re.M)) == 1
    said, complained = output(command(place, "train", "data.npz", "--steps", "2", "--out", "run", "training.batch=5"))
    assert len(re.findall("^kakusan: training.batch=5: it needs a multiple of the 2 processes", complained, re.M)) == 1
    assert not (place / "run").exists()
