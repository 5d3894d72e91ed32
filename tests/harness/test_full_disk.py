"""A full disk: the old checkpoint stays, the message says how many bytes are needed and free, and resume goes on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.nursery import fresh
from harness.test_corruption import fill, groups, load
from harness.tiny import Data, Fake, assert_same, model, settings, watched
from kakusan.part import KakusanError
from kakusan.training import state
from kakusan.training.events import Log
from kakusan.training.loop import run
from kakusan.training.stop import Stop

NEEDS = r"needs [\d,]+ bytes and [\d,]+ are free"


@pytest.mark.parametrize("where", ["before", "during"])
def test_a_full_disk_leaves_the_old_one_and_says_how_much_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    fill(tmp_path, 1)
    usage = shutil.disk_usage(tmp_path)
    if where == "before":
        monkeypatch.setattr(shutil, "disk_usage", lambda p: usage._replace(free=1000))
    else:

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(state.DiskFull, match=rf"step 20 {NEEDS}"):
        state.save(tmp_path, 20, groups(2), {})
    monkeypatch.undo()
    saved, lines = load(tmp_path)
    assert saved.step == 10 and not lines
    assert not list(tmp_path.glob(".partial*"))


def in_a_small_disk(at: Path, megabytes: int) -> tuple[str, ...]:
    """The words that run a command with a tmpfs at a folder, in a mount namespace of its own; skips where refused."""
    mount = f'mount -t tmpfs -o size={megabytes}m tmpfs "$0" && exec "$@"'
    for how in (("unshare", "-m"), ("unshare", "-Urm")):
        words = (*how, "sh", "-c", mount, str(at))
        try:
            done = subprocess.run([*words, "true"], capture_output=True)
        except FileNotFoundError:
            break
        if done.returncode == 0:
            return words
    pytest.skip("mounting a small tmpfs is not permitted here (unshare -m and unshare -Urm both refused)")


def test_a_small_disk_that_fills_up(tmp_path: Path) -> None:
    at = tmp_path / "disk"
    at.mkdir()
    words = in_a_small_disk(at, 4)
    told = fresh("harness.test_full_disk:fill_it", str(at), str(tmp_path), prefix=words)
    assert told == "done"


def ballast(at: Path, leave: int) -> None:
    """Fill a disk but for so many bytes."""
    with (at / "ballast").open("wb") as file:
        while (free := shutil.disk_usage(at).free) > leave + 4096:
            file.write(bytes(min(free - leave, 1 << 20)))
            file.flush()


def refused(kind: type[Exception], what: Any) -> str:
    with pytest.raises(kind, match=NEEDS) as caught:
        what()
    return str(caught.value)


def fill_it(disk: str, beside: str) -> str:
    """In the child: saving, logging and training on a disk of a few megabytes, full before or during the write."""
    from harness.small import small
    from kakusan.checkpoint import load_model, save_model

    torch.set_num_threads(1)
    at, out = Path(disk), Path(beside)
    whole = {"weights": {"a": torch.ones(100_000)}}

    # a checkpoint that the free space is too small for, and one where it runs out in the middle
    state.save(at / "state", 10, whole, {})
    ballast(at, 300_000)
    words = refused(state.DiskFull, lambda: state.save(at / "state", 20, whole, {}))
    assert "step 20" in words and "earlier checkpoints are intact" in words
    real, usage = shutil.disk_usage, shutil.disk_usage(at)
    shutil.disk_usage = lambda path: usage._replace(free=10**9)  # type: ignore[assignment]
    refused(state.DiskFull, lambda: state.save(at / "state", 30, whole, {}))
    shutil.disk_usage = real
    assert load(at / "state")[0].step == 10 and not list((at / "state").glob(".partial*"))

    # a model file and a log
    (at / "ballast").unlink()
    save_model(at / "model.safetensors", small())
    ballast(at, 0)
    refused(KakusanError, lambda: save_model(at / "model.safetensors", small(1)))
    load_model(at / "model.safetensors")
    log = Log(at / "log.jsonl")
    for i in range(2000):
        log.append({"step": i})
    refused(state.DiskFull, log.flush)
    (at / "ballast").unlink()
    log.flush()
    for path in (at / "log.jsonl", at / "model.safetensors"):
        path.unlink()
    shutil.rmtree(at / "state")

    # a training: what did not fit is told, the run goes on, and once there is room it ends as if nothing had been
    def train(folder: Path, stop: int | None, tick: Any = None) -> Any:
        asked, clock = Stop(), Fake()

        def spy(step: int) -> None:
            clock.time += 1.0
            if tick and step == 4:
                tick()
            if step == stop:
                asked.request()

        wish = settings(checkpoint_minutes=2.5 / 60)
        return run(model(), Data(spy=spy), wish, folder, held_out=watched(), stop=asked, resume=True, now=clock)

    train(out / "straight", None)
    refused(state.DiskFull, lambda: train(at / "run", 12, lambda: ballast(at, 500_000)))
    kept = load(at / "run" / "state")[0].step
    assert 0 < kept < 12
    (at / "ballast").unlink()
    assert not train(at / "run", None).interrupted
    assert_same(out / "straight", at / "run")
    return "done"
