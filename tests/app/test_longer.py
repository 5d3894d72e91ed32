"""A finished run trained for longer: it goes on where it ended, beside itself; what can not be is said."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from kakusan.app import facade
from kakusan.app.command.show import Progress
from kakusan.app.train import recipe
from kakusan.training import loop
from kakusan.training.events import read_rows

pytestmark = pytest.mark.usefixtures("alone")

QUIET = Progress(quiet=True)
SMALL = ["denoiser.net.width=8", "denoiser.net.blocks=1", "training.batch=4", "training.previews=4", "defaults.steps=2"]
STEPS = 43  # no multiple of the rows' 10


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder, draw = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(draw.integers(0, 255, (16, 16), np.uint8)).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    facade.train(data, steps=STEPS, out=out, overrides=SMALL, progress=QUIET, device="cpu")
    return out


def copied(finished: Path, folder: Path) -> Path:
    return Path(shutil.copytree(finished, folder / "run"))


def told(run: Path, minutes: float) -> tuple[facade.Trained, str]:
    said = io.StringIO()
    return facade.resume(run, minutes=minutes, progress=Progress(stream=said, live=False)), said.getvalue()


def files(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file()}


def test_it_goes_on_where_it_ended_and_the_run_stays_as_it_is(finished, tmp_path):
    run = copied(finished, tmp_path)
    before = files(run)
    more, said = told(run, 0.03)
    assert files(run) == before
    assert more.run == tmp_path / "run-2" and f"at step {STEPS}" in said and more.summary["steps"] > STEPS
    old, new = (read_rows(r / "log.jsonl") for r in (run, more.run))
    assert new[: len(old)] == old
    first = next(row for row in new[len(old) :] if row["kind"] == "train")
    assert STEPS < first["step"] <= STEPS + 10 and sum(first["counts"]) == 4 * (first["step"] - STEPS)
    spent = json.loads((max((run / "state").glob("save-*")) / "state.json").read_text())["elapsed"]
    written = recipe.read(more.run / "recipe.toml")["training"]
    assert written["minutes"] == pytest.approx(spent / 60 + 0.03, abs=1e-3) and "steps" not in written
    assert len([e for e in read_rows(more.run / "events.jsonl") if e["kind"] == "chosen"]) == 1
    assert {p.name for p in (run / "samples").glob("step-*")} <= {p.name for p in (more.run / "samples").iterdir()}
    assert json.loads((more.run / "environment.json").read_text())["longer"] == str(run)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("share", [0.1, 30.0])
def test_the_learning_rate_is_that_of_a_run_of_the_whole_length(finished, tmp_path, monkeypatch, share):
    """A tenth more begins at a fourth of the rate (cool-down: 40%), with the weak model that there was; thirty times as
    much at the full rate, and what was early sets itself aside again."""
    run = copied(finished, tmp_path)
    spent = json.loads((max((run / "state").glob("save-*")) / "state.json").read_text())["elapsed"]
    started = []
    monkeypatch.setattr(loop, "_train", lambda live: started.append(live) or True)
    monkeypatch.setattr(loop, "_finish", lambda live: True)
    monkeypatch.setattr(facade, "go", lambda *given: _loaded(*given))
    facade.resume(run, minutes=share * spent / 60, progress=QUIET)
    (live,) = started
    total = round(STEPS * (1 + share))
    assert live.step == STEPS and live.schedule.total == total and live.finished is None
    factor = live.schedule.factor(STEPS)
    assert factor == pytest.approx(0.22, abs=0.06) if share < 1 else factor == 1.0
    saved = max((run / "state").glob("save-*"))
    assert bool(live.weak) == (share < 1)
    for name, tensor in load_file(saved / "weak.safetensors").items():
        assert share > 1 or torch.equal(live.weak[name], tensor)
    for name, tensor in load_file(saved / "ema.safetensors").items():
        assert torch.equal(live.ema.tensors()[name], tensor)
    assert live.previews < live.settings.previews


def _loaded(run, project, tree, device, *_):
    """As far as the loop, without samples and report."""
    from kakusan.app.train.trained import Trained
    from kakusan.catalog import build

    training = build(tree["training"], "training")
    batches = project.batches(training.batch, training.seed, device, 0, 1, training.reference, None)
    held = project.held_out(training.batch, training.seed, 0, 1, None)
    model = build(tree["model"], "model")
    loop.run(model, batches, training, run.path, device, held_out=held, resume=True)
    return Trained(run.path, None, None, True)


def test_an_addition_that_is_stopped_goes_on(finished, tmp_path, monkeypatch):
    run = copied(finished, tmp_path)
    step, stops = loop._step, []

    def stopped(live):
        step(live)
        if live.step == STEPS + 1:
            monkeypatch.setattr(live, "stop", lambda: True)
            stops.append(live.step)

    monkeypatch.setattr(loop, "_step", stopped)
    assert told(run, 0.05)[0].interrupted and stops == [STEPS + 1]
    monkeypatch.setattr(loop, "_step", step)
    done = facade.resume(tmp_path / "run-2", progress=QUIET)
    assert done.path is not None and done.summary["steps"] > STEPS + 1


def test_without_its_state_or_with_other_pictures_it_starts_from_the_weights(data, finished, tmp_path):
    run = copied(finished, tmp_path)
    shutil.rmtree(run / "state")
    more, said = told(run, 0.02)
    assert "state is gone" in said and "starts from its weights" in said and more.run == tmp_path / "run-2"

    own = Path(shutil.copytree(data, tmp_path / "data"))
    facade.train(own, steps=4, out=tmp_path / "own", overrides=SMALL, progress=QUIET, device="cpu")
    Image.new("L", (16, 16), 200).save(own / "new.png")
    more, said = told(tmp_path / "own", 0.02)
    assert f"{own} are not those that" in said and "starts from its weights" in said and more.path is not None
