"""Contest: exact resume, steps that are not finite, divergence, decisions of the clock; what the settings refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kakusan.catalog import build
from kakusan.domains.image import Image
from kakusan.part import KakusanError
from kakusan.training import contest as module
from kakusan.training.adversarial import Adversarial
from kakusan.training.contest import Contested, Listener, contest
from kakusan.training.data import Batches, Dataset
from kakusan.training.events import read_rows

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSIC = {"loss": "non-saturating", "penalty": [0.0, 0.0], "beta1": 0.5, "beta2": [0.999, 0.999]}


def nets(kind: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        names = ("generator", "discriminator") if kind == "gan" else ("dc-generator", "dc-discriminator")
        given = {"channels": 1, "size": [8, 8], "widths": [8, 8] if kind == "gan" else [6], "classes": 2}
        more = {"unshuffle": 1} if kind == "gan" else {}
        a, b = (build({"kind": f"gan/{name}", **given, **more}) for name in names)
    return a, b


def batches(size: int = 4) -> Batches:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 255, (30, 8, 8, 1), np.uint8)
    data = Dataset.arrays(pixels, np.arange(30) % 2, ("a", "b"))
    return Batches(data, Image([8, 8], mode="L"), size, ahead=0)


class After:
    """Asks to stop after so many questions."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self) -> bool:
        self.count -= 1
        return self.count < 0


def go(folder: Path, kind: str = "gan", stop=None, listener: Listener | None = None, **settings) -> Contested:
    chosen = {"batch": 4, "steps": 14, "log_every": 5, "previews": 2} | settings
    return contest(*nets(kind), batches(), Adversarial(**chosen), folder, listener=listener, stop=stop)


def weights(done: Contested) -> list[torch.Tensor]:
    return list(done.generator.state_dict().values())


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("gan", {"every": 2}), ("gan", {"augment": True}), ("dcgan", CLASSIC)],
    ids=["r3", "augmented", "classic"],
)
def test_a_run_that_was_stopped_ends_bit_identical(tmp_path, kind, settings):
    whole = go(tmp_path / "whole", kind, **settings)
    assert whole.step == 14 and not whole.interrupted and whole.skipped == 0
    for asked in (1, 7, 12):
        stopped = go(tmp_path / f"cut{asked}", kind, After(asked), **settings)
        assert stopped.interrupted and stopped.step < 14
        resumed = go(tmp_path / f"cut{asked}", kind, **settings)
        assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
        logs = [
            [{k: v for k, v in row.items() if k not in ("seconds", "pictures_per_second")} for row in read_rows(file)]
            for file in (tmp_path / "whole" / "log.jsonl", tmp_path / f"cut{asked}" / "log.jsonl")
        ]
        assert logs[0] == logs[1] and [row["step"] for row in logs[0]] == [5, 10, 14]
    again = go(tmp_path / "whole", kind, **settings)  # finished: nothing is trained
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))


def test_both_networks_learn_and_the_penalty_counts(tmp_path):
    moved = []
    for gamma in ([0.0, 0.0], [10.0, 10.0]):
        generator, discriminator = nets("gan")
        before = [p.detach().clone() for net in (generator, discriminator) for p in net.parameters()]
        settings = Adversarial(batch=4, steps=5, log_every=5, penalty=gamma, lr=[1e-2, 1e-2])
        contest(generator, discriminator, batches(), settings, tmp_path / str(gamma[0]))
        after = [p for net in (generator, discriminator) for p in net.parameters()]
        assert sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) > 0.8 * len(after)
        moved.append([p.detach().clone() for p in discriminator.parameters()])
        row = read_rows(tmp_path / str(gamma[0]) / "log.jsonl")[0]
        assert (row["r1"] is not None) == (row["r2"] is not None) == (gamma[0] > 0)
        assert 0 <= row["told_apart"] <= 1
    assert any(not torch.equal(a, b) for a, b in zip(*moved, strict=True))


class Broken(Batches):
    """Pictures that are not finite at some steps."""

    bad: range = range(3, 5)

    def at(self, step):
        made = super().at(step)
        if step in self.bad:
            made.x0[0, 0, 0, 0] = float("nan")
        return made


def broken(bad: range) -> Broken:
    plain = batches()
    made = Broken(plain.dataset, plain.domain, plain.batch, ahead=0)
    made.bad = bad
    return made


@pytest.mark.parametrize("kind", ["gan", "dcgan"])
def test_steps_that_are_not_finite_are_left_out_and_counted(tmp_path, kind):
    more = CLASSIC if kind == "dcgan" else {}
    settings = Adversarial(batch=4, steps=8, log_every=4, **more)
    done = contest(*nets(kind), broken(range(3, 5)), settings, tmp_path)
    assert done.skipped == 2 and not done.diverged and done.step == 8
    assert all(torch.isfinite(w).all() for w in weights(done) if w.is_floating_point())
    events = [e for e in read_rows(tmp_path / "events.jsonl") if e["kind"] == "skipped"]
    assert [e["steps"] for e in events] == [[3], [4]]


def test_a_run_that_stays_not_finite_ends_as_diverged_and_stays_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 6)
    heard = []

    class Ears(Listener):
        def on_event(self, event):
            heard.append(event["kind"])

    settings = Adversarial(batch=4, steps=40, log_every=4)
    done = contest(*nets("gan"), broken(range(2, 99)), settings, tmp_path, listener=Ears())
    assert done.diverged and not done.interrupted and done.step == 8 and done.skipped == 6 and "diverged" in heard
    again = contest(*nets("gan"), broken(range(2, 99)), settings, tmp_path)
    assert again.diverged and again.step == 8


def test_the_clock_decides_the_length_and_a_resumed_run_repeats_its_decisions(tmp_path):
    class Watch:
        seconds = 0.0

        def __call__(self) -> float:
            self.seconds += 0.05
            return self.seconds

    def run(folder: Path, stop=None) -> Contested:
        settings = Adversarial(batch=4, minutes=0.2, log_every=5, previews=2)
        return contest(*nets("gan"), batches(), settings, folder, stop=stop, now=Watch())

    whole = run(tmp_path / "whole")
    events = read_rows(tmp_path / "whole" / "events.jsonl")
    paces = [e for e in events if e["kind"] == "pace"]
    assert len(paces) > 2 and paces[-1]["total"] == whole.step and 10 <= whole.seconds <= 14
    stopped = run(tmp_path / "cut", After(9))
    assert stopped.interrupted
    resumed = run(tmp_path / "cut")
    assert not resumed.interrupted and resumed.step > stopped.step
    assert [e["step"] for e in read_rows(tmp_path / "cut" / "events.jsonl")] == sorted(
        e["step"] for e in read_rows(tmp_path / "cut" / "events.jsonl")
    )


def test_another_seed_or_network_is_refused(tmp_path):
    go(tmp_path, stop=After(3))
    with pytest.raises(KakusanError, match="another generator"):
        go(tmp_path, kind="dcgan")
    other = batches()
    other.seed = 1
    with pytest.raises(KakusanError, match="another seed or other data"):
        contest(*nets("gan"), other, Adversarial(batch=4, steps=14, seed=1), tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "exactly one"),
        ({"steps": 3, "loss": "hinge"}, "relativistic"),
        ({"steps": 3, "penalty": [1.0]}, "penalty"),
        ({"steps": 3, "lr": [-1.0, 1.0]}, "lr"),
        ({"steps": 3, "beta2": [0.9, 1.0]}, "beta2"),
        ({"steps": 3, "batch": 0}, "batch"),
        ({"minutes": -1.0}, "minutes"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, said):
    with pytest.raises(KakusanError, match=said):
        Adversarial(**settings)
