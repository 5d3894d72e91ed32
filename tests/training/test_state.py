"""Checkpoints exist whole or not at all; damage is named and the one before is used; event and log files rewind."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from kakusan.part import KakusanError
from kakusan.training import state
from kakusan.training.events import Events, Log, read_rows


def groups(value: float) -> state.Groups:
    kernel = torch.full((4, 3, 2, 2), float(value)).to(memory_format=torch.channels_last)
    return {"weights": {"a": kernel, "b": torch.tensor(value, dtype=torch.float64)}, "best": {}}


def fill(folder: Path, count: int) -> list[Path]:
    return [state.save(folder, 10 * i, groups(i), {"note": i, "unit": 0.1 + i}) for i in range(1, count + 1)]


def load(folder: Path, **choices: bool) -> tuple[state.Saved, list[str]]:
    lines: list[str] = []
    saved = state.load(folder, lines.append, **choices)
    assert saved is not None
    return saved, lines


def test_round_trip_is_exact(tmp_path: Path) -> None:
    tensors = {
        "weights": {"a": torch.randn(3, 4), "b": torch.tensor(1e-40), "c": torch.tensor([True]), "d": torch.tensor(7)}
    }
    state.save(tmp_path, 5, tensors, {"loss": 0.1 + 0.2, "none": None, "big": 2**62 + 1})
    saved, lines = load(tmp_path)
    assert saved.step == 5 and not lines
    assert (saved.meta["loss"], saved.meta["none"], saved.meta["big"]) == (0.1 + 0.2, None, 2**62 + 1)
    for name, tensor in tensors["weights"].items():
        assert torch.equal(saved.groups["weights"][name], tensor)


def test_the_last_two_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    fill(tmp_path, 5)
    assert sorted(p.name for p in tmp_path.glob("save-*")) == ["save-00004", "save-00005"]
    saved, _ = load(tmp_path)
    assert saved.step == 50 and saved.groups["weights"]["a"].mean() == 5


def test_the_newest_scheduled_one_is_kept_for_roll_backs(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    for step in (31, 32, 33):
        state.save(tmp_path, step, groups(step), {}, scheduled=False)
    assert sorted(p.name for p in tmp_path.glob("save-*")) == ["save-00002", "save-00004", "save-00005"]
    assert load(tmp_path)[0].step == 33
    assert load(tmp_path, scheduled=True)[0].step == 20


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    assert state.load(tmp_path / "state", print) is None


def test_when_none_is_whole_that_is_an_error(tmp_path: Path) -> None:
    for path in fill(tmp_path, 2):
        (path / "state.json").unlink()
    with pytest.raises(KakusanError, match=r"save-00002 is damaged \(state.json is missing\).*no whole one"):
        state.load(tmp_path, print)


def test_other_failures_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        state.save(tmp_path, 20, groups(2), {})


# -- events and log --------------------------------------------------------------------------------------


def pace(step: int) -> dict[str, object]:
    return {"kind": "pace", "step": step, "total": 100 + step, "seconds": 0.1}


def test_decisions_after_a_checkpoint_are_replayed_and_notices_are_not(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = Events(path)
    events.append(pace(3))
    known = events.offset
    for event in (pace(8), {"kind": "skipped", "step": 9}, pace(20)):
        events.append(event)
    again = Events(path)
    again.rewind(known)
    assert [e["step"] for e in read_rows(path)] == [3, 8, 20]
    assert again.replay("pace", 8) == pace(8)
    again.append({"kind": "skipped", "step": 9})  # happens again while replaying: goes where it went before
    between = again.offset
    assert again.replay("pace", 20) == pace(20)
    assert again.replay("pace", 30) is None
    assert [e["step"] for e in read_rows(path)] == [3, 8, 9, 20]
    third = Events(path)
    third.rewind(between)
    assert third.replay("pace", 20) == pace(20)


def test_a_decision_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    events = Events(tmp_path / "events.jsonl")
    events.append(pace(8))
    events.rewind(0)
    with pytest.raises(KakusanError, match="step 8 where one of step 7"):
        events.replay("pace", 7)


def test_a_line_cut_short_by_a_crash_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = Events(path)
    events.append(pace(3))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind":"pa')
    again = Events(path)
    again.append(pace(8))
    assert [e["step"] for e in read_rows(path)] == [3, 8]


def test_the_log_is_written_at_flush_and_rewound_to_a_checkpoint(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl")
    log.append({"step": 1, "loss": 0.1 + 0.2})
    assert not (tmp_path / "log.jsonl").exists()
    known = log.flush()
    log.append({"step": 2})
    log.flush()
    again = Log(tmp_path / "log.jsonl")
    again.rewind(known)
    again.append({"step": 3})
    again.flush()
    assert read_rows(tmp_path / "log.jsonl") == [{"step": 1, "loss": 0.1 + 0.2}, {"step": 3}]
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])["loss"] == 0.1 + 0.2


def test_a_log_flush_that_failed_halfway_is_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(tmp_path / "log.jsonl")
    log.append({"step": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(state.DiskFull, match=r"log.jsonl needs 11 bytes"):
            log.flush()
    log.append({"step": 2})
    log.flush()
    assert [r["step"] for r in read_rows(tmp_path / "log.jsonl")] == [1, 2]


def test_a_file_shorter_than_the_checkpoint_knows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KakusanError, match="has 0 bytes where the checkpoint knows 10"):
        Log(tmp_path / "log.jsonl").rewind(10)
