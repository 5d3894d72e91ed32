"""A finished run trained for longer: a copy beside it, whose state is that of a run which has not ended yet."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from kakusan.app.command.show import Progress
from kakusan.app.train import recipe as recipes
from kakusan.app.train.rundir import RunDir
from kakusan.catalog import build
from kakusan.files import write_json
from kakusan.training import longer
from kakusan.training import state as disk
from kakusan.training.events import read_rows
from kakusan.training.settings import Training

__all__ = ["beside", "lengthen"]

Tree = dict[str, Any]


def beside(folder: RunDir) -> Path:
    """The first of RUN-2, RUN-3, ... that does not exist."""
    number = 2
    while folder.path.with_name(f"{folder.path.name}-{number}").exists():
        number += 1
    return folder.path.with_name(f"{folder.path.name}-{number}")


def lengthen(folder: RunDir, tree: Tree, minutes: float, shown: Progress) -> RunDir | None:
    """A run that goes on from the end of ``folder`` for so many minutes more, ready to be resumed: its recipe, state,
    log and previews; whole or not there at all. None where the finished run's state is gone."""
    saved = longer.read(folder.path, shown.note)
    if saved is None:
        return None
    total = saved.meta["elapsed"] / 60 + minutes
    tree = tree | {"training": tree["training"] | {"steps": None, "minutes": round(total, 3)}}
    settings = build(tree["training"], "training")
    assert isinstance(settings, Training)
    out = beside(folder)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        files = _copied(folder, RunDir(partial), saved.meta)
        on = longer.lengthened(saved, settings, 60 * minutes, files)
        disk.save(partial / "state", on.step, on.groups, on.meta)
        words = f"kakusan resume {folder.path} --minutes {minutes:g}: everything that decides this run."
        recipes.write(RunDir(partial).recipe, tree, f"{words} Train again with --recipe.")
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shown.note(
        f"{folder.path} is finished and stays as it is; {out} goes on where it ended, at step {on.step:,} of about "
        f"{on.meta['schedule']['total']:,}"
    )
    return RunDir(out)


def _copied(old: RunDir, new: RunDir, meta: dict[str, Any]) -> dict[str, int]:
    """What the run has beside its recipe and state; returns how long the log and the events are then."""
    write_json(new.environment, old.about() | {"longer": str(old.path)})
    for file in (old.autoencoder, old.kept):
        if file.is_file():
            shutil.copyfile(file, new.path / file.name)
    if old.samples.is_dir():
        shutil.copytree(old.samples, new.samples, ignore=lambda _, names: [n for n in names if "step-" not in n])
    new.log.write_bytes(old.log.read_bytes()[: meta["log"]] if old.log.is_file() else b"")
    events = [e for e in read_rows(old.events) if e["kind"] != "chosen"]  # which is for the new end to say
    new.events.write_text("".join(json.dumps(e, separators=(",", ":")) + "\n" for e in events), "utf-8")
    return {"log": new.log.stat().st_size, "events": new.events.stat().st_size}
