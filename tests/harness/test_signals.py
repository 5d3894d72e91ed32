"""Ctrl-C and SIGTERM reach a real process in the middle of everything it does: it saves, says so, and is gone."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.children import marks
from harness.nursery import Child, Nursery, until
from kakusan.app import facade
from kakusan.training import state

LIMIT = 5.0  # seconds from the signal to the end of the process, and a step
TRAIN = ["training.batch=4", "denoiser.net.width=8", "denoiser.net.blocks=1", "training.precision=fp32"]


def pictures(folder: Path, count: int) -> Path:
    """Smooth pictures of 16 x 16."""
    draw = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        Image.fromarray(np.kron(draw.integers(0, 256, (4, 4)), np.ones((4, 4))).astype(np.uint8)).save(
            folder / f"{i:04d}.png"
        )
    return folder


@pytest.fixture(scope="module")
def begun(children: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures and a run on them that was stopped at its first step."""
    folder = tmp_path_factory.mktemp("signals")
    data = pictures(folder / "pictures", 40)
    words = ["train", str(data), "--steps", "12", "--out", str(folder / "run"), "--device", "cpu", *TRAIN,
             "training.previews=2", "training.evaluations=2"]  # fmt: skip
    child = children.call("harness.children:command", words, {"step": 0.05}, str(folder / "marks"))
    until(lambda: marks(folder / "marks"))
    child.signal(signal.SIGINT)
    assert child.wait() == 130, child.said()
    return folder


def stopped(child: Child, marked: Path, name: str, after: int, number: int, slow: float) -> tuple[int, int]:
    """Signal once a thing was begun so often; exit code, and how often it was begun after the signal."""
    times = until(lambda: len([m for m in marks(marked) if m[0] == name]) >= after and time.monotonic())
    child.signal(number)
    seen = len([m for m in marks(marked) if m[0] == name])
    code = child.wait()
    taken = time.monotonic() - times
    assert taken < LIMIT + slow, (taken, child.said())
    return code, len([m for m in marks(marked) if m[0] == name]) - seen


PHASES = {  # what is going on: how often it is begun before the signal, seconds each of it takes, signal
    "step": (3, 0.2, signal.SIGTERM),
    "evaluation": (1, 0.5, signal.SIGINT),
    "sampling": (2, 0.2, signal.SIGTERM),
    "save": (1, 0.5, signal.SIGINT),
}


@pytest.mark.parametrize("phase", PHASES)
def test_a_training_saves_and_ends_wherever_it_is(children: Nursery, begun: Path, tmp_path: Path, phase: str) -> None:
    """One more of it is begun at the most, however many were still to come; resumed, it ends as if left alone."""
    after, slow, number = PHASES[phase]
    run, marked = tmp_path / "run", tmp_path / "marks"
    shutil.copytree(begun / "run", run)
    before = state.load(run / "state", pytest.fail)
    words = ["resume", str(run)]
    child = children.call("harness.children:command", words, {phase: slow}, str(marked))
    code, more = stopped(child, marked, phase, after, number, slow)
    assert code == 130 and more <= (1 if phase != "save" else 2), child.said()
    assert f"kakusan resume {run}" in child.said() and "Traceback" not in child.said()
    saved = state.load(run / "state", pytest.fail)
    assert before is not None and saved is not None and saved.step >= before.step
    children.run("harness.children:command", words, {}, str(marked))
    assert facade.model_info(run)["hash"] == whole(children, begun)


def whole(children: Nursery, begun: Path) -> str:
    """The hash of the model that the run ends with when nothing more disturbs it."""
    if not (begun / "whole").exists():
        shutil.copytree(begun / "run", begun / "whole")
        children.run("harness.children:command", ["resume", str(begun / "whole")], {}, str(begun / "unused"))
    return str(facade.model_info(begun / "whole")["hash"])


def test_the_last_samples_and_the_report_are_left_for_resume(children: Nursery, begun: Path, tmp_path: Path) -> None:
    digest = whole(children, begun)
    run, marked = tmp_path / "run", tmp_path / "marks"
    shutil.copytree(begun / "whole", run)
    (run / "report.html").unlink()
    child = children.call("harness.children:command", ["resume", str(run)], {"sampling": 0.2}, str(marked))
    code, more = stopped(child, marked, "sampling", 2, signal.SIGTERM, 0.2)
    assert code == 130 and more <= 1 and "is finished" in child.said() and not (run / "report.html").exists()
    children.run("harness.children:command", ["resume", str(run)], {}, str(marked))
    assert (run / "report.html").exists() and facade.model_info(run)["hash"] == digest


def test_samples_that_are_finished_are_saved_and_the_rest_has_a_command(
    children: Nursery, begun: Path, tmp_path: Path
) -> None:
    whole(children, begun)
    out, marked = tmp_path / "some of them", tmp_path / "marks"
    words = ["sample", str(begun / "whole"), "-n", "6", "--seed", "3", "--steps", "4", "--batch", "2",
             "--out", str(out)]  # fmt: skip
    child = children.call("harness.children:command", words, {"sampling": 0.1}, str(marked))
    code, more = stopped(child, marked, "sampling", 6, signal.SIGINT, 0.1)
    assert code == 130 and more <= 1
    assert sorted(p.name for p in out.iterdir()) == ["grid.png", "seed-000003.png", "seed-000004.png"]
    found = re.search(r"2 of 6 samples are made and saved; the rest: kakusan (.*)", child.said())
    assert found, child.said()
    children.run("harness.children:command", shlex.split(found[1]), {}, str(marked))
    children.run("harness.children:command", [*words[:-1], str(tmp_path / "all")], {}, str(marked))
    for i in range(3, 9):
        a, b = (np.asarray(Image.open(f / f"seed-{i:06d}.png")).astype(int) for f in (out, tmp_path / "all"))
        assert np.abs(a - b).max() <= 1


@pytest.mark.parametrize(("verb", "phase"), [(["data", "check"], "check"), (["train"], "read")])
def test_reading_pictures_ends_at_once_and_leaves_nothing(
    children: Nursery, tmp_path: Path, verb: list[str], phase: str
) -> None:
    data, marked = pictures(tmp_path / "pictures", 300), tmp_path / "marks"
    more: list[Any] = ["--steps", "3", "--out", str(tmp_path / "run")] if verb == ["train"] else []
    child = children.call("harness.children:command", [*verb, str(data), *more], {phase: 0.1}, str(marked))
    code, _ = stopped(child, marked, phase, 2, signal.SIGTERM, 0.1)
    assert code == 130 and "Traceback" not in child.said(), child.said()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_exits(children: Nursery, begun: Path, tmp_path: Path, number: int) -> None:
    """Though the step at hand takes a minute."""
    run, marked = tmp_path / "run", tmp_path / "marks"
    shutil.copytree(begun / "run", run)
    child = children.call("harness.children:command", ["resume", str(run)], {"step": 60.0}, str(marked))
    until(lambda: marks(marked))
    child.signal(number)
    time.sleep(0.2)
    child.signal(number)
    start = time.monotonic()
    assert child.wait() == 128 + number
    assert time.monotonic() - start < LIMIT
    assert state.load(run / "state", pytest.fail) is not None
