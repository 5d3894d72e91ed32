"""SIGKILL at random moments, inside saves too: nothing is lost but the steps since the last checkpoint."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from harness.children import EVERY, marks
from harness.nursery import Nursery, until
from harness.tiny import assert_same
from kakusan.training import state

STEPS = 40


def newest(folder: Path) -> int | None:
    """The step of the newest whole checkpoint; none of them may be damaged."""
    saved = state.load(folder / "state" if (folder / "state").exists() else folder, pytest.fail)
    return None if saved is None else saved.step


def kill_once(children: Nursery, folder: Path, marked: Path, target: str, argument: float, delay: float) -> str:
    """Train, SIGKILL after so many seconds, check what is left: "done" before it came, in a "save", or "between"."""
    marked.unlink(missing_ok=True)
    child = children.call(target, str(folder), str(marked), argument)
    until(lambda: marks(marked))
    time.sleep(delay)
    with contextlib.suppress(ProcessLookupError):  # it was done before
        child.signal(signal.SIGKILL)
    code = child.wait()
    if code == 0:
        return "done"
    assert code == -signal.SIGKILL, child.said()
    told = marks(marked)
    saved, begun, ended = newest(folder), *(sum(w[0] == name for w in told) for name in ("save-begins", "save-ends"))
    last_save = max((int(w[1]) for w in told if w[0] == "save-ends"), default=None)
    last_step = max((int(w[1]) for w in told if w[0] == "step"), default=None)
    if last_save is not None:
        assert saved is not None and saved >= last_save
    if last_step is not None and target.endswith(":train"):
        assert saved is not None and last_step + 1 - saved <= EVERY
    return "save" if begun > ended else "between"


def check_kills(children: Nursery, folder: Path, count: int) -> int:
    """Kill trainings one after the other until there were so many kills; how many were inside a save."""
    draw = random.Random(0)
    straight, marked = folder / "straight", folder / "marks"
    children.run("harness.children:train", str(straight), str(folder / "unused"), STEPS)
    kills = inside = number = 0
    while kills < count:
        run = folder / f"run-{number}"
        how = kill_once(children, run, marked, "harness.children:train", STEPS, draw.uniform(0.0, 0.25))
        kills, inside = kills + (how != "done"), inside + (how == "save")
        if how == "done" or kills == count:
            children.run("harness.children:train", str(run), str(folder / "unused"), STEPS)
            assert_same(straight, run)
            shutil.rmtree(run)
            number += 1
    print(f"{kills} kills, {inside} inside a save, {number} trainings ended bit-identical")
    return inside


def test_kills_lose_nothing_but_the_interval(children: Nursery, tmp_path: Path) -> None:
    check_kills(children, tmp_path, 3)


@pytest.mark.slow
def test_a_hundred_kills_thirty_inside_a_save(children: Nursery, tmp_path: Path) -> None:
    assert check_kills(children, tmp_path, 100) >= 30


def check_timed_kills(children: Nursery, folder: Path, count: int, minutes: float) -> None:
    """With --minutes by the real clock: an undisturbed run given the same recorded decisions ends the same."""
    draw = random.Random(1)
    straight, run, marked = folder / "straight", folder / "run", folder / "marks"
    children.run("harness.children:begin_timed", str(run), minutes)
    shutil.copytree(run, straight)
    for _ in range(count):
        kill_once(children, run, marked, "harness.children:train_timed", minutes, draw.uniform(0.0, 0.4))
    children.run("harness.children:train_timed", str(run), str(folder / "unused"), minutes)
    shutil.copy(run / "events.jsonl", straight / "events.jsonl")
    children.run("harness.children:train_timed", str(straight), str(folder / "unused"), minutes)
    assert_same(straight, run)


def test_kills_with_minutes(children: Nursery, tmp_path: Path) -> None:
    check_timed_kills(children, tmp_path, 2, 0.01)


@pytest.mark.slow
def test_twenty_kills_with_minutes(children: Nursery, tmp_path: Path) -> None:
    check_timed_kills(children, tmp_path, 20, 0.08)


def check_kills_of_saves(children: Nursery, folder: Path, count: int) -> int:
    """A process that does nothing but save; how many kills were inside a save."""
    draw = random.Random(2)
    inside = 0
    for _ in range(count):
        target = "harness.children:save_only"
        inside += kill_once(children, folder, folder.parent / "marks", target, 20, draw.uniform(0.0, 0.2)) == "save"
        saved = state.load(folder, pytest.fail)
        if saved is not None:
            assert all((t == saved.meta["value"]).all() for t in saved.groups["weights"].values())
    return inside


def test_kills_of_a_process_that_only_saves(children: Nursery, tmp_path: Path) -> None:
    assert check_kills_of_saves(children, tmp_path / "saves", 2) >= 1


@pytest.mark.slow
def test_thirty_kills_of_a_process_that_only_saves(children: Nursery, tmp_path: Path) -> None:
    assert check_kills_of_saves(children, tmp_path / "saves", 30) >= 9
