"""What runs in the children of the nursery: trainings that leave a mark at each thing they begin and end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harness.tiny import Data, Fake, model, settings, watched
from kakusan.training import state
from kakusan.training.loop import run
from kakusan.training.stop import Stop


class Marks:
    """Lines in a file, each there as soon as it is written, whatever happens to the process afterwards."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def __call__(self, *words: Any) -> None:
        os.write(self.file, (" ".join(map(str, words)) + "\n").encode())


def marks(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def around(owner: Any, name: str, before: Callable[..., None], after: Callable[..., None] = lambda *_: None) -> None:
    """Let something happen before and after each call of a function."""
    real = getattr(owner, name)

    def wrapped(*given: Any, **named: Any) -> Any:
        before(*given)
        made = real(*given, **named)
        after(*given)
        return made

    setattr(owner, name, wrapped)


EVERY = 2  # steps between checkpoints


def train(folder: str, marked: str, steps: int) -> None:
    """A training of so many steps, saved every second one, from where it stands."""
    torch.set_num_threads(1)
    mark, clock = Marks(marked), Fake()
    mark("start")
    around(state, "save", lambda *given: mark("save-begins", given[1]), lambda *given: mark("save-ends", given[1]))

    def tick(step: int) -> None:
        mark("step", step)
        clock.time += 1.0

    wish = settings(steps=steps, checkpoint_minutes=EVERY / 60)
    run(model(), Data(spy=tick), wish, Path(folder), held_out=watched(), resume=True, now=clock)
    mark("done")


def train_timed(folder: str, marked: str, minutes: float) -> None:
    """A training of so many minutes by the real clock, saved all the time."""
    torch.set_num_threads(1)
    mark = Marks(marked)
    mark("start")
    around(state, "save", lambda *given: mark("save-begins", given[1]), lambda *given: mark("save-ends", given[1]))
    wish = settings(minutes=minutes, checkpoint_minutes=1e-4, previews=0)
    run(model(), Data(spy=lambda step: mark("step", step)), wish, Path(folder), held_out=watched(), resume=True)
    mark("done")


def begin_timed(folder: str, minutes: float) -> None:
    """The same stopped before its first step."""
    torch.set_num_threads(1)
    stop = Stop()
    stop.request()
    wish = settings(minutes=minutes, checkpoint_minutes=1e-4, previews=0)
    assert run(model(), Data(), wish, Path(folder), held_out=watched(), stop=stop).interrupted


def command(words: list[str], slow: dict[str, float], marked: str) -> None:
    """A kakusan command in which named things leave a mark and take at least so many seconds."""
    from kakusan.app import cli
    from kakusan.app.draw import sampler
    from kakusan.domains import image
    from kakusan.training import loop, source, watch

    torch.set_num_threads(1)
    mark = Marks(marked)
    places: dict[str, tuple[Any, str]] = {
        "step": (loop, "_step"),
        "evaluation": (watch.Meter, "add"),
        "save": (state, "_write"),
        "read": (image.Image, "pack"),
        "check": (source, "decode"),
        "sampling": (sampler, "_no_grad"),
    }

    def stretched(name: str) -> Callable[..., None]:
        def before(*given: Any) -> None:
            mark(name)
            time.sleep(slow[name])

        return before

    for name in slow:
        owner, attribute = places[name]
        if name == "sampling":
            sampler._no_grad = _stepwise(sampler._no_grad, stretched(name))
        else:
            around(owner, attribute, stretched(name))
    cli.main(words)


def _stepwise(real: Callable[..., Any], before: Callable[[], None]) -> Callable[[Any], Any]:
    def wrapped(*given: Any) -> Any:
        for step in real(*given):
            before()
            yield step

    return wrapped


def save_only(folder: str, marked: str, tensors: float) -> None:
    """Nothing but saves: of this many tensors, each full of the number of its save."""
    mark, value = Marks(marked), max((int(p.name[5:]) for p in Path(folder).glob("save-*")), default=0)
    mark("start")
    while True:
        value += 1
        groups = {"weights": {f"t{i}": torch.full((1000,), float(value)) for i in range(int(tensors))}}
        mark("save-begins", value)
        state.save(Path(folder), value, groups, {"value": value})
        mark("save-ends", value)
