"""The loop: bit-identical after any interruption, on time, and nothing that is not finite gets in."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.tiny import Data, Fake, assert_same, everything, model, rows, settings, watched
from kakusan.core.batch import Batch, Cond
from kakusan.core.denoiser import Denoiser, Net
from kakusan.core.model import Model
from kakusan.core.param import Karras
from kakusan.core.process import VE
from kakusan.core.rng import Rng
from kakusan.core.space import Flat
from kakusan.nets import winograd
from kakusan.part import KakusanError
from kakusan.training import state
from kakusan.training.events import read_rows
from kakusan.training.loop import Hooks, Result, run
from kakusan.training.optim import AdamW
from kakusan.training.schedule import Clock, Schedule, due
from kakusan.training.stop import Stop
from kakusan.training.watch import HeldOut


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Operations this small only lose by sharing."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def interrupted(folder: Path, at: list[int], **more: Any) -> Result:
    """Train, asked to stop while each of these steps runs, and resumed after each."""
    for step in at:
        stop = Stop()
        data = Data(spy=lambda s, step=step, stop=stop: stop.request() if s == step else None)
        result = run(model(), data, more["settings"], folder, held_out=watched(), stop=stop, resume=True)
        assert result.interrupted
    return run(model(), Data(), more["settings"], folder, held_out=watched(), resume=True)


# -- exact resume ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [[0], [4], [9, 10], [14, 17], [18], [29]], ids=str)
def test_interrupted_and_resumed_is_bit_identical(tmp_path: Path, at: list[int]) -> None:
    straight = run(model(), Data(), settings(), tmp_path / "straight", held_out=watched())
    broken = interrupted(tmp_path / "broken", at, settings=settings())
    assert (straight.step, broken.step, broken.interrupted) == (30, 30, False)
    assert_same(tmp_path / "straight", tmp_path / "broken")
    for a, b in zip(straight.model.parameters(), broken.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_with_winograds_filtering_too_and_what_ships_is_a_plain_network(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(winograd, "CHANNELS", 8)
    monkeypatch.setattr(winograd, "WASTE", 2.0)
    calls: list[int] = []
    honest = winograd.conv3x3
    monkeypatch.setattr(winograd, "conv3x3", lambda *given: calls.append(1) or honest(*given))
    filtered = settings(convolution="winograd")
    straight = run(model(), Data(), filtered, tmp_path / "straight", held_out=watched())
    assert len(calls) == 30  # one layer of the three, once a step
    interrupted(tmp_path / "broken", [9, 17], settings=filtered)
    assert_same(tmp_path / "straight", tmp_path / "broken")
    direct = run(model(), Data(), settings(), tmp_path / "direct", held_out=watched())
    assert straight.loss == pytest.approx(direct.loss, rel=1e-3)
    assert not any(isinstance(m, winograd._Winograd) for m in straight.model.modules())


def test_resumed_with_minutes_replays_what_the_clock_decided(tmp_path: Path) -> None:
    """The clock runs at another speed after the crash; decisions up to the crash are replayed all the same."""
    straight, fake = tmp_path / "straight", Fake()
    timed = settings(minutes=1.0, optim=AdamW(1e-3), checkpoint_minutes=0.2)
    stages: dict[int, Path] = {}

    class Copy(Hooks):
        def on_checkpoint(self, path: Path, step: int) -> None:
            stages[step] = path

    def tick(step: int) -> None:
        fake.time += 0.5 if step < 60 else 0.8

    run(model(), Data(spy=tick), timed, straight, hooks=Copy(), held_out=watched(), now=fake)
    decided = [e for e in rows(straight, "events.jsonl") if e["kind"] == "pace"]
    assert len(stages) > 4 and len(decided) > 8
    saved = state.load(straight / "state", pytest.fail, scheduled=True)
    assert saved is not None and saved.step == decided[-1]["total"]
    # a crash late in the run: only the checkpoint before the last is left, and the events went on
    newest = sorted((straight / "state").glob("save-*"))[-1]
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("events.jsonl", "log.jsonl"):
        (broken / name).write_bytes((straight / name).read_bytes())
    os.system(f"cp -r {straight / 'state'} {broken / 'state'} && rm -r {broken / 'state' / newest.name}")
    (broken / "state" / "newest.json").unlink()
    other = Fake()

    def fast(step: int) -> None:
        other.time += 0.01

    result = run(model(), Data(spy=fast), timed, broken, held_out=watched(), resume=True, now=other)
    assert result.step == decided[-1]["total"]
    assert_same(straight, broken)


def test_what_a_model_holds_beside_its_weights_comes_back_in_its_average_too(tmp_path: Path) -> None:
    """As vectors of words, which are made before the first step and are in checkpoints from then on."""

    def holding(value: float) -> Model:
        made = model()
        made.denoiser.net.register_buffer("held", torch.full((3,), value))
        return made

    shown: list[float] = []

    class Look(Hooks):
        def on_preview(self, step: int, model: Model) -> None:
            shown.append(float(model.denoiser.net.held.mean()))

    stop = Stop()
    data = Data(spy=lambda s: stop.request() if s == 9 else None)
    run(holding(7.0), data, settings(), tmp_path, hooks=Look(), held_out=watched(), stop=stop)
    before = len(shown)
    done = run(holding(0.0), Data(), settings(), tmp_path, hooks=Look(), held_out=watched(), resume=True)
    assert 0 < before < len(shown) and set(shown) == {7.0}
    assert float(done.model.denoiser.net.held.mean()) == 7.0


def test_resuming_a_finished_run_gives_the_same_result(tmp_path: Path) -> None:
    first = run(model(), Data(), settings(), tmp_path, held_out=watched())
    again = run(model(), Data(), settings(), tmp_path, held_out=watched(), resume=True)
    assert (again.width, again.best_step, again.loss) == (first.width, first.best_step, first.loss)
    for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_average_at_a_quarter_of_the_run_is_set_aside_as_the_weak_model(tmp_path: Path) -> None:
    """It is what a run stopped there has as its longest average: of 30 steps, 8; without a share none is kept."""
    result = run(model(), Data(), settings(), tmp_path / "with")
    assert result.model.weak is not None
    stop = Stop()
    data = Data(spy=lambda s: stop.request() if s == 7 else None)
    early = run(model(), data, settings(), tmp_path / "early", stop=stop)
    longest = early.ema.weights(early.ema.widths[-1])
    weak = dict(result.model.weak.named_parameters())
    assert weak.keys() == longest.keys()
    for name, tensor in weak.items():
        assert torch.equal(tensor, longest[name]), name
    assert result.model.spec()["weak"]["denoiser"] == result.model.spec()["denoiser"]
    assert run(model(), Data(), settings(weak=0.0), tmp_path / "without").model.weak is None


def test_the_global_generator_is_neither_used_nor_moved(tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    run(model(), Data(), settings(steps=6), tmp_path / "a")
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    run(model(), Data(), settings(steps=6), tmp_path / "b")
    assert_same(tmp_path / "a", tmp_path / "b")


def test_another_seed_or_other_data_is_refused_on_resume(tmp_path: Path) -> None:
    run(model(), Data(), settings(steps=6), tmp_path)
    with pytest.raises(KakusanError, match="of another seed or other data"):
        run(model(), Data(seed=1), settings(steps=6), tmp_path, resume=True)
    with pytest.raises(KakusanError, match="of another seed or other data"):
        run(model(), Data(), settings(steps=6, seed=3), tmp_path, resume=True)


def test_data_in_another_order_is_refused_on_resume(tmp_path: Path) -> None:
    class Ordered(Data):
        first = 0

        def rows(self, step: int) -> range:
            return range(self.first, self.first + 8)

    run(model(), Ordered(), settings(steps=3), tmp_path)
    other = Ordered()
    other.first = 1
    with pytest.raises(KakusanError, match="other data"):
        run(model(), other, settings(steps=3), tmp_path, resume=True)


def test_a_missing_random_state_is_an_error(tmp_path: Path) -> None:
    run(model(), Data(), settings(steps=6), tmp_path)
    saved = state.load(tmp_path / "state", pytest.fail)
    assert saved is not None
    meta = {k: v for k, v in saved.meta.items() if k != "random"}
    state.save(tmp_path / "state", saved.step, saved.groups, meta)
    with pytest.raises(KakusanError, match="random state is missing"):
        run(model(), Data(), settings(steps=6), tmp_path, resume=True)


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    run(model(), Data(), settings(steps=3), tmp_path)
    with pytest.raises(KakusanError, match="holds a training already: kakusan resume"):
        run(model(), Data(), settings(steps=3), tmp_path)


def test_another_network_is_refused_on_resume(tmp_path: Path) -> None:
    run(model(), Data(), settings(steps=3), tmp_path)
    other = model()
    other.denoiser.net.inner = nn.Conv2d(8, 8, 1)
    with pytest.raises(KakusanError, match=r"net.inner.weight.*recipe"):
        run(other, Data(), settings(steps=3), tmp_path, resume=True)


def test_a_signal_saves_within_a_step_and_returns(tmp_path: Path) -> None:
    seen: list[int] = []

    def spy(step: int) -> None:
        seen.append(step)
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    result = run(model(), Data(spy=spy), settings(), tmp_path)
    assert result.interrupted and result.step == 6 and seen[-1] == 5
    assert signal.getsignal(signal.SIGTERM) is before
    assert state.load(tmp_path / "state", pytest.fail).step == 6


def test_the_second_signal_exits() -> None:
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop() and stop.signal == signal.SIGINT
        with pytest.raises(SystemExit) as caught:
            os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.code == 128 + signal.SIGTERM


def test_denormals_are_flushed_in_every_thread_when_asked_first() -> None:
    code = "from kakusan.training.machine import flush_denormals; assert flush_denormals(); assert flush_denormals()"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- what is not finite ----------------------------------------------------------------------------------


def test_steps_that_are_not_finite_never_reach_the_weights(tmp_path: Path) -> None:
    bad = tuple(range(1, 60, 3))  # 20 of them, never two in a row
    run(model(), Data(bad=bad), settings(steps=62, previews=0), tmp_path)
    for name, tensor in everything(tmp_path).items():
        if not name.startswith("meter/"):
            assert tensor.isfinite().all(), name
    events = rows(tmp_path, "events.jsonl")
    assert [s for e in events if e["kind"] == "skipped" for s in e["steps"]] == list(bad)
    assert all(r["loss"] is not None for r in rows(tmp_path, "log.jsonl") if r["kind"] == "train")


def test_a_skipped_step_is_as_if_the_optimiser_had_not_been_called(tmp_path: Path) -> None:
    one = run(model(0.0), Data(bad=(3,)), settings(steps=4, cooldown=0.0, warmup=0), tmp_path / "one")
    two = run(model(0.0), Data(), settings(steps=3, cooldown=0.0, warmup=0), tmp_path / "two")
    assert (one.step, two.step) == (4, 3)
    left, right = everything(tmp_path / "one"), everything(tmp_path / "two")
    for name in left:
        if name.startswith(("weights/", "optim/")):
            assert torch.equal(left[name], right[name]), name


def test_several_in_a_row_roll_back_and_halve_the_rate(tmp_path: Path) -> None:
    bad = tuple(range(10, 16))
    result = run(model(), Data(bad=bad), settings(), tmp_path / "a")
    events = rows(tmp_path / "a", "events.jsonl")
    back = [e for e in events if e["kind"] == "rollback"]
    assert [(e["step"], e["to"], e["rate"]) for e in back] == [(15, 0, 0.5)]
    assert result.step == 30 and result.loss is not None
    log = [r for r in rows(tmp_path / "a", "log.jsonl") if r["kind"] == "train"]
    assert log[2]["loss"] is None and log[3]["rate"] <= 0.5

    stop = Stop()
    data = Data(bad=bad, spy=lambda s: stop.request() if s == 12 else None)
    assert run(model(), data, settings(), tmp_path / "b", stop=stop).interrupted
    run(model(), Data(bad=bad), settings(), tmp_path / "b", resume=True)
    assert_same(tmp_path / "a", tmp_path / "b")


def test_data_that_is_never_finite_ends_the_run_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(KakusanError, match="not finite again after 5 roll-backs"):
        run(model(), Data(bad=tuple(range(100))), settings(steps=80), tmp_path)


def test_a_full_disk_is_told_and_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notices: list[str] = []

    class Listen(Hooks):
        def on_event(self, event: dict[str, Any]) -> None:
            notices.extend([event["text"]] if event["kind"] == "notice" else [])

    fake, real = Fake(), state.save

    def full(folder: Path, step: int, *rest: Any) -> Path:
        if 0 < step < 20:
            raise state.DiskFull("the disk is full: it needs 123 bytes")
        return real(folder, step, *rest)

    monkeypatch.setattr(state, "save", full)

    def tick(step: int) -> None:
        fake.time += 1.0

    result = run(model(), Data(spy=tick), settings(checkpoint_minutes=0.15), tmp_path, hooks=Listen(), now=fake)
    assert result.step == 30 and len(notices) == 2 and "123 bytes" in notices[0]
    assert len([r for r in rows(tmp_path, "log.jsonl") if r["kind"] == "train"]) == 6


# -- the clock -------------------------------------------------------------------------------------------


def timed_run(folder: Path, minutes: float, cost: Callable[[float], float], **more: float) -> tuple[float, Result]:
    fake = Fake()
    budget = 60 * minutes

    def tick(step: int) -> None:
        fake.time += cost(fake.time / budget)

    class Slow(Hooks):
        def on_preview(self, step: int, model: Model) -> None:
            fake.time += 0.004 * budget

    data = Data(spy=tick)
    wish = settings(minutes=minutes, optim=AdamW(1e-3), log_every=50, previews=6)
    result = run(model(), data, wish, folder, hooks=Slow(), now=fake, **more)
    return fake.time, result


@pytest.mark.parametrize("change_at", [0.1, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_it_ends_on_time_though_the_speed_changes(tmp_path: Path, change_at: float, factor: float) -> None:
    taken, result = timed_run(tmp_path, 10.0, lambda share: 1.5 * (factor if share > change_at else 1.0))
    assert abs(taken - 600) < 0.03 * 600
    events = [e for e in rows(tmp_path, "events.jsonl") if e["kind"] == "pace"]
    assert result.step == result.total == events[-1]["total"]


def test_time_already_spent_and_time_reserved_are_kept(tmp_path: Path) -> None:
    taken, _ = timed_run(tmp_path, 10.0, lambda share: 1.5, spent=60.0, reserve=120.0)
    assert abs(taken - 420) < 0.03 * 420


def test_a_budget_of_less_than_a_step_still_ends(tmp_path: Path) -> None:
    _taken, result = timed_run(tmp_path, 0.01, lambda share: 2.0)
    assert result.step == 4 and not result.interrupted


def test_decisions_are_on_disk_before_they_act(tmp_path: Path) -> None:
    """At every step the schedule in force is the last event in the file."""
    fake = Fake()

    class Check(Hooks):
        def on_event(self, event: dict[str, Any]) -> None:
            assert read_rows(tmp_path / "events.jsonl")[-1] == event

    def tick(step: int) -> None:
        fake.time += 1.0

    run(model(), Data(spy=tick), settings(minutes=1.0), tmp_path, hooks=Check(), now=fake)


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    schedule = Schedule.fixed(100, warmup=4, cooldown=0.4, shape="linear")
    factors = [schedule.factor(s) for s in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(f == 1 for f in factors[4:60]) and 0 < factors[-1] < 0.03
    assert all(a > b for a, b in itertools.pairwise(factors[59:]))


@pytest.mark.parametrize("shape", ["linear", "sqrt", "cosine"])
def test_changing_the_end_during_the_cool_down_never_lets_the_rate_jump_up(shape: str) -> None:
    schedule = Schedule.timed(0, 0.5, shape)
    factors = []
    ends = {3: 100, 8: 100, 60: 80, 70: 95, 90: 92}
    for step in range(92):
        if step in ends:
            schedule.apply(
                {"step": step, "total": ends[step], "cool": 50 if step < 50 else schedule.cool, "next": None}
            )
        factors.append(schedule.factor(step))
    assert all(a >= b for a, b in itertools.pairwise(factors))
    assert max(a - b for a, b in itertools.pairwise(factors)) < 0.25 and factors[-1] < 0.35


def test_the_pace_leaves_out_what_happens_aside() -> None:
    fake = Fake()
    clock = Clock(now=fake)
    clock.look(0)
    fake.time = 10.0
    with clock.aside("preview"):
        fake.time = 14.0
    fake.time = 20.0
    assert clock.look(8) == pytest.approx(2.0)
    assert clock.ahead("preview", 3) == 12.0 and clock.ahead("save", 3) == 0.0


def test_previews_come_early_and_at_the_end() -> None:
    done, at = 0, []
    for step in range(101):
        while due(step, 100, 4, done, power=2.0):
            done += 1
            at.append(step)
    assert at == [7, 25, 57, 100]


# -- what is measured ------------------------------------------------------------------------------------


def test_previews_hold_the_average_and_leave_training_alone(tmp_path: Path) -> None:
    seen: list[tuple[int, bool]] = []

    class Look(Hooks):
        def on_preview(self, step: int, model: Model) -> None:
            seen.append((step, model.training))
            torch.randn(3)
            with torch.no_grad():
                for p in model.parameters():
                    p.zero_()

    run(model(), Data(), settings(), tmp_path / "a", hooks=Look())
    run(model(), Data(), settings(), tmp_path / "b")
    assert seen == [(2, False), (8, False), (17, False), (30, False)]
    assert_same(tmp_path / "a", tmp_path / "b")


def test_the_log_adds_up(tmp_path: Path) -> None:
    """Counts by level are the pictures trained on; the mean loss is their weighted mean."""
    run(model(), Data(), settings(steps=12), tmp_path)
    log = [r for r in rows(tmp_path, "log.jsonl") if r["kind"] == "train"]
    assert [r["step"] for r in log] == [5, 10, 12]
    assert [sum(r["counts"]) for r in log] == [40, 40, 16]
    for r in log:
        mean = sum(n * v for n, v in zip(r["counts"], r["levels"], strict=True) if n) / sum(r["counts"])
        assert r["loss"] == pytest.approx(mean, rel=1e-6)


def test_held_out_and_training_loss_part_when_the_model_copies(tmp_path: Path) -> None:
    """Four pictures learned by heart against four others: the warning comes, and the best point is shipped."""

    class Few(Data):
        def __init__(self, first: int, noise: str = "few") -> None:
            super().__init__()
            self.first, self.noise = first, noise
            self.x = Rng(range(32)).normal([(1, 6, 6)] * 32, "few")

        def at(self, step: int) -> Batch:
            pick = self.first + torch.arange(8) % 4
            return Batch(
                0.5 * self.x[pick], inputs={"kind": {"index": pick % 3}}, stratum=(torch.arange(8).double() + 0.5) / 8
            )

    with torch.random.fork_rng():
        torch.manual_seed(0)
        big = Model(Denoiser(Memory(), VE(), Karras(0.5), Flat()))
    plain = settings(steps=400, optim=AdamW(3e-3), evaluations=12, previews=0, log_every=100)

    class Bare(Few):
        def at(self, step: int) -> Batch:
            return replace(super().at(step), inputs={})

    result = run(big, Bare(0), plain, tmp_path, held_out=HeldOut(Bare(8), Bare(0), 4))
    warnings = [e for e in rows(tmp_path, "events.jsonl") if e["kind"] == "overfit"]
    assert len(warnings) == 1 and "begins to copy" in warnings[0]["text"]
    assert result.overfit and result.best_step is not None and result.best_step < 300
    measured = [r for r in rows(tmp_path, "log.jsonl") if r["kind"] == "held_out"]
    best = next(r for r in measured if r["step"] == result.best_step)
    assert best["score"] == min(r["score"] for r in measured)
    again = run(big, Bare(0), plain, tmp_path, held_out=HeldOut(Bare(8), Bare(0), 4), resume=True)
    for a, b in zip(result.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)


class Memory(Net):
    """A wide fully connected network: it learns few pictures by heart."""

    kind = "test/memory"

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(37, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 36))

    def forward(self, x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
        return self.layers(torch.cat([x.flatten(1), lam[:, None] / 5], 1)).reshape(x.shape)


def test_settings_refuse_what_makes_no_sense() -> None:
    for wrong, match in (
        ({"minutes": 1.0, "steps": 5}, "exactly one"),
        ({"steps": 0}, "steps=0"),
        ({"shape": "cube"}, "shape='cube'"),
        ({"ema": []}, "ema"),
        ({"ema": [0.5]}, "width 0.5"),
        ({"cooldown": 1.5}, "cooldown"),
        ({"precision": "fp8"}, "precision"),
    ):
        with pytest.raises(KakusanError, match=match):
            settings(**wrong)


# -- pinned ----------------------------------------------------------------------------------------------

PINNED = [0.7453032, 0.8008288, 0.8335153, 0.8203400, 0.7859646, 0.6630607, 0.5635298, 0.6767229, 0.5606962, 0.5880945]


def test_a_pinned_loss_curve(tmp_path: Path) -> None:
    """A refactor that changes what is trained is seen here; machines differ in the last digits."""
    run(model(), Data(), settings(log_every=3), tmp_path)
    losses = [r["loss"] for r in rows(tmp_path, "log.jsonl") if r["kind"] == "train"]
    assert losses == pytest.approx(PINNED, rel=1e-4), json.dumps(losses)
