"""A run that breaks off anywhere (a step, an evaluation, inside a save) and is resumed ends bit-identical."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.tiny import Data, Fake, assert_same, model, settings, watched
from kakusan.core.model import Model
from kakusan.part import KakusanError
from kakusan.training import state
from kakusan.training.hooks import Hooks
from kakusan.training.loop import run
from kakusan.training.stop import Stop


class Crash(BaseException):
    """The process is gone."""


class Places:
    """Counts the places a run comes by, and crashes at one of them."""

    def __init__(self, at: int = -1) -> None:
        self.at, self.count = at, 0

    def __call__(self, *_: Any) -> None:
        self.count += 1
        if self.count == self.at:
            raise Crash


class Telling(Hooks):
    def __init__(self, place: Places) -> None:
        self.place = place

    def on_preview(self, step: int, model: Model) -> None:
        self.place()

    def on_event(self, event: dict[str, Any]) -> None:
        self.place()

    def on_log(self, row: dict[str, Any]) -> None:
        self.place()

    def on_checkpoint(self, path: Path, step: int) -> None:
        self.place()


def train(folder: Path, place: Places, timed: bool, stop: Stop | None = None) -> None:
    """A run by a clock of its own; every flush to disk and every rename is a place too."""
    clock = Fake()

    def tick(step: int) -> None:
        clock.time += 1.0
        place()

    def before(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*given: Any) -> Any:
            place()
            return real(*given)

        return wrapped

    length = {"minutes": 0.4} if timed else {"steps": 20}
    wish = settings(checkpoint_minutes=3.5 / 60, **length)
    held = watched()
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((os, "fsync"), (Path, "rename"), (Path, "replace")):
            patch.setattr(owner, name, before(getattr(owner, name)))
        patch.setattr(held.held, "spy", lambda step: place())
        hooks = Telling(place)
        run(model(), Data(spy=tick), wish, folder, hooks=hooks, held_out=held, resume=True, now=clock, stop=stop)


def check_places(folder: Path, timed: bool, every: int) -> int:
    """Crash at every so manieth place, resume, compare; with the clock, with a run that gets the same decisions."""
    begun, straight = folder / "begun", folder / "straight"
    stop = Stop()
    stop.request()
    train(begun, Places(), timed, stop)
    shutil.copytree(begun, straight)
    every_place = Places()
    train(straight, every_place, timed)
    checked = 0
    for at in range(1, every_place.count + 1, every):
        broken = folder / f"broken-{at}"
        shutil.copytree(begun, broken)
        with pytest.raises(Crash):
            train(broken, Places(at), timed)
        train(broken, Places(), timed)
        same = straight
        if timed:
            same = folder / f"same-{at}"
            shutil.copytree(begun, same)
            shutil.copy(broken / "events.jsonl", same / "events.jsonl")
            train(same, Places(), timed)
        assert_same(same, broken)
        checked += 1
    print(f"{checked} of {every_place.count} places")
    return checked


@pytest.mark.parametrize("timed", [False, True], ids=["steps", "minutes"])
def test_broken_off_at_some_places(tmp_path: Path, timed: bool) -> None:
    assert check_places(tmp_path, timed, 61) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("timed", [False, True], ids=["steps", "minutes"])
def test_broken_off_at_every_place(tmp_path: Path, timed: bool) -> None:
    assert check_places(tmp_path, timed, 1) >= 100


@pytest.mark.parametrize("damage", [None, {}, {"seed": 0}, {"seed": 1, "next": 2}, {"next": 5}], ids=str)
def test_missing_or_damaged_random_state_is_an_error(tmp_path: Path, damage: Any) -> None:
    run(model(), Data(), settings(steps=3), tmp_path)
    saved = state.load(tmp_path / "state", pytest.fail)
    assert saved is not None
    state.save(tmp_path / "state", saved.step, saved.groups, saved.meta | {"random": damage})
    with pytest.raises(KakusanError, match=r"random state is (missing|of another seed)"):
        run(model(), Data(), settings(steps=3), tmp_path, resume=True)
