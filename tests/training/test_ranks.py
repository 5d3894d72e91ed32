"""Several processes train what one would: the same curve, the same weights in each, and none is left waiting."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from kakusan.part import KakusanError
from kakusan.training import ranks as module
from kakusan.training import state
from kakusan.training.events import read_rows
from kakusan.training.gradients import _buckets
from kakusan.training.hooks import Hooks
from kakusan.training.ranks import ALONE, NEEDED, join

WORKER = Path(__file__).with_name("one_of_many.py")
spec = importlib.util.spec_from_file_location("one_of_many", WORKER)
assert spec is not None and spec.loader is not None
one_of_many = importlib.util.module_from_spec(spec)
spec.loader.exec_module(one_of_many)

LIMIT = 120  # seconds that any of these may take, on a machine that does other things too
Job = tuple[str, dict[str, Any]]  # name of its folder, wish
TIMES = ("seconds", "pictures_per_second")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def start(folder: Path, jobs: list[Job], world: int = 2, *more: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder), json.dumps(jobs), *more],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip


def ended(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each; none may hang."""
    out = []
    try:
        for process in processes:
            said, complained = process.communicate(timeout=LIMIT)
            out.append((process.returncode, said, complained))
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
    return out


def shared(folder: Path, jobs: list[Job], world: int = 2) -> list[list[dict[str, Any]]]:
    """Trainings by several processes, all of which end well; for each training what each process reports."""
    done = ended(start(folder, jobs, world))
    assert [code for code, _, _ in done] == [0] * world, done
    return list(zip(*([json.loads(line) for line in said.splitlines()] for _, said, _ in done)))


def losses(folder: Path) -> list[float]:
    return [r["loss"] for r in read_rows(folder / "log.jsonl") if r["kind"] == "train"]


def history(folder: Path) -> list[dict[str, Any]]:
    both = read_rows(folder / "log.jsonl") + read_rows(folder / "events.jsonl")
    return [{k: v for k, v in row.items() if k not in TIMES} for row in both]


def weights(folder: Path, number: int, world: int = 2) -> list[dict[str, torch.Tensor]]:
    return [load_file(folder / f"{number}-{rank}.safetensors") for rank in range(world)]


def assert_same_weights(*many: dict[str, torch.Tensor]) -> None:
    for one in many[1:]:
        assert one.keys() == many[0].keys()
        assert all(torch.equal(one[name], many[0][name]) for name in one)


def apart(a: list[float], b: list[float]) -> float:
    """Largest relative difference of two curves."""
    assert len(a) == len(b)
    return max(abs(x - y) / x for x, y in zip(a, b))


CURVE = {"steps": 20, "warmup": 3}
EXACT = {"steps": 14, "every": 5, "dropout": 0.1, "warmup": 2}  # each process's own draws and sums are state too
MIXED = {"steps": 12, "every": 5, "warmup": 2}
JOBS: list[Job] = [
    ("curve", CURVE),
    ("nan", {"steps": 6, "warmup": 0, "harm": [1, "nan", 3]}),
    ("straight", EXACT),
    ("broken", EXACT | {"harm": [1, "SIGTERM", 7]}),
    ("broken", EXACT | {"resume": True}),
    ("mixed", MIXED | {"harm": [0, "SIGTERM", 6]}),
    ("broken", EXACT),
    ("timed", {"minutes": 0.02}),
]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[dict[str, Any]]]]:
    """All trainings that two processes survive, by one pair of them: to start one costs more than the training."""
    folder = tmp_path_factory.mktemp("two")
    return folder, shared(folder, JOBS)


# -- the curve -------------------------------------------------------------------------------------------


def test_two_processes_follow_one(two: Any, tmp_path: Path) -> None:
    """Losses of every step, the held-out losses, the weights; nothing left of the follower's own weights."""
    folder, reports = two
    one = one_of_many.train(tmp_path, CURVE)
    assert len(losses(folder / "curve")) == 20
    assert apart(losses(tmp_path), losses(folder / "curve")) <= 1e-5
    assert reports[0][0] == reports[0][1]
    assert_same_weights(*weights(folder / "curve", 0))
    lately = "encoders.label.lately"  # follows the batches: the mean of what each process saw is what one would see
    expected = one.model.state_dict()[lately]
    assert float(expected) > 0
    torch.testing.assert_close(weights(folder / "curve", 0)[0][lately], expected, rtol=1e-5, atol=0)
    mine = [r for r in history(tmp_path) if r["kind"] == "held_out"]
    theirs = [r for r in history(folder / "curve") if r["kind"] == "held_out"]
    assert [r["held_counts"] for r in mine] == [r["held_counts"] for r in theirs]
    assert apart([r["score"] for r in mine], [r["score"] for r in theirs]) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("optim", "world"), [("adamw", 2), ("muon", 2), ("muon", 4)])
def test_two_hundred_steps(tmp_path: Path, optim: str, world: int) -> None:
    """Every step's loss."""
    wish = {"steps": 200, "optim": optim}
    one_of_many.train(tmp_path / "one", wish)
    shared(tmp_path, [("many", wish)], world)
    found = apart(losses(tmp_path / "one"), losses(tmp_path / "many"))
    print(f"{optim}, {world} processes: the losses differ by {found:.1e} at most")
    assert found <= 1e-5
    assert_same_weights(*weights(tmp_path / "many", 0, world))


def test_one_bad_block_is_left_out_by_all(two: Any) -> None:
    """A loss that is not finite in one process: none makes that step."""
    folder, reports = two
    assert [r["steps"] for r in history(folder / "nan") if r["kind"] == "skipped"] == [[3]]
    assert_same_weights(*weights(folder / "nan", 1))
    assert all(t.isfinite().all() for t in weights(folder / "nan", 1)[0].values())
    assert [r["step"] for r in reports[1]] == [6, 6]


def test_the_first_ones_clock_decides_for_all(two: Any) -> None:
    folder, reports = two
    pace = [e for e in read_rows(folder / "timed" / "events.jsonl") if e["kind"] == "pace"]
    assert pace and [r["step"] for r in reports[7]] == [pace[-1]["total"]] * 2
    assert_same_weights(*weights(folder / "timed", 7))


# -- stopping, resuming, dying ---------------------------------------------------------------------------


def test_a_signal_to_one_stops_all_and_resume_goes_on_exactly(two: Any) -> None:
    folder, reports = two
    assert [(r["interrupted"], r["step"]) for r in reports[3]] == [(True, 8)] * 2
    assert [(r["interrupted"], r["step"]) for r in reports[4]] == [(False, 14)] * 2
    assert_same_weights(*weights(folder / "straight", 2), *weights(folder / "broken", 4))
    assert history(folder / "straight") == history(folder / "broken")


def test_another_number_of_processes_can_resume(two: Any, tmp_path: Path) -> None:
    folder, reports = two
    notices: list[str] = []

    class Listen(Hooks):
        def on_event(self, event: dict[str, Any]) -> None:
            notices.extend([event["text"]] if event["kind"] == "notice" else [])

    assert [r["step"] for r in reports[5]] == [7, 7]
    shutil.copytree(folder / "mixed", tmp_path / "mixed")
    one_of_many.train(tmp_path / "mixed", MIXED | {"resume": True}, hooks=Listen())
    assert notices == ["begun with 2 process(es), resumed with 1: last digits may differ"]
    one_of_many.train(tmp_path / "one", MIXED)
    assert apart(losses(tmp_path / "one"), losses(tmp_path / "mixed")) <= 1e-5


def test_an_error_of_all_is_told_by_the_first(two: Any) -> None:
    """Here: a run is never overwritten."""
    first, second = two[1][6]
    assert "holds a training already" in first["error"] and first["error"] == second["error"]
    assert (first["told"], second["told"]) == (False, True)


def test_a_dead_process_ends_the_others_with_a_reason(tmp_path: Path) -> None:
    done = ended(start(tmp_path, [("run", {"steps": 10_000, "harm": [1, "SIGKILL", 5]})]))
    assert [code for code, _, _ in done] == [2, -signal.SIGKILL]
    line = done[0][2].strip().splitlines()[-1]
    assert line.startswith("process 0 of 2 lost another one") and "kakusan resume" in line
    assert state.load(tmp_path / "run" / "state", pytest.fail) is not None


@pytest.mark.slow
def test_a_process_that_hangs_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    first, second = start(tmp_path, [("run", {"steps": 10_000, "harm": [1, "SIGSTOP", 5]})], 2, "20")
    try:
        complained = first.communicate(timeout=LIMIT)[1]
    finally:
        first.kill()
        second.kill()
        second.communicate()
    assert first.returncode == 2
    assert "process 0 of 2 lost another one" in complained and "imed out" in complained


# -- the environment -------------------------------------------------------------------------------------


WHOLE = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def environment(monkeypatch: pytest.MonkeyPatch, **given: str) -> None:
    for name in NEEDED:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("given", [{}, {"RANK": "0", "WORLD_SIZE": "1"}, {"MASTER_ADDR": "node"}], ids=str)
def test_without_others_nothing_is_set_up(monkeypatch: pytest.MonkeyPatch, given: dict[str, str]) -> None:
    environment(monkeypatch, **given)
    with join() as found:
        assert found is ALONE
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("absent", NEEDED)
def test_half_an_environment_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, absent: str) -> None:
    environment(monkeypatch, **{k: v for k, v in WHOLE.items() if k != absent})
    with pytest.raises(KakusanError, match=f"but {absent} not: start several processes with torchrun"), join():
        pass


@pytest.mark.parametrize("wrong", [{"RANK": "two"}, {"RANK": "2"}, {"RANK": "-1"}, {"LOCAL_RANK": "-1"}], ids=str)
def test_a_place_that_can_not_be_is_refused(monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str]) -> None:
    environment(monkeypatch, **(WHOLE | wrong))
    with pytest.raises(KakusanError, match="RANK="), join():
        pass


def test_each_process_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def place(world: int, local: int, wanted: str, count: int) -> str:
        seat = module.Ranks()
        seat.world, seat.local = world, local
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        return seat.device(wanted)

    assert place(1, 0, "auto", 8) == "auto" and place(1, 0, "cuda:3", 8) == "cuda:3"
    assert place(2, 1, "auto", 0) == "cpu" and place(2, 1, "cpu", 8) == "cpu"
    assert place(8, 5, "auto", 8) == "cuda:5" and place(8, 5, "cuda:0", 8) == "cuda:5"
    assert place(8, 5, "cuda", 1) == "cuda:0"  # each process is shown its own GPU alone
    with pytest.raises(KakusanError, match="number 5 of a machine with 4 GPUs"):
        place(8, 5, "auto", 4)
    with pytest.raises(KakusanError, match="mps with 2 processes"):
        place(2, 0, "mps", 1)


def test_buckets_hold_every_trained_parameter_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kakusan.training.gradients.BUCKET", 100)
    params = [nn.Parameter(torch.zeros(n)) for n in (3, 30, 5, 5, 20, 1)]
    params[2].requires_grad_(False)
    params[5].data = params[5].data.double()
    found = _buckets(params)
    assert [id(p) for b in found for p in b] == [id(params[i]) for i in (5, 4, 3, 1, 0)]
    assert [len(b) for b in found] == [1, 2, 1, 1]
