"""Doctor measures this machine and says what to do about it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch

from kakusan.app.judge import doctor


def test_examination_is_plain_complete_and_quick(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "a").write_bytes(b"x" * 1000)
    start = time.perf_counter()
    found = doctor.examine(seconds=0.1)
    assert time.perf_counter() - start < 20
    assert json.loads(json.dumps(found)) == found
    assert found["torch"] == torch.__version__ and found["threads"] >= 1 and found["gflops"] > 0.1
    assert found["devices"][-1]["device"] == "cpu" and found["disk_free"] > 0
    assert found["cache"] == str(tmp_path / "cache") and found["cache_bytes"] == 1000
    names = [name for name, _ in doctor.lines(found)]
    assert {"Python", "torch", "devices", "memory free", "disk free", "cache", "denormals"} <= set(names)


def test_missing_extras_come_with_the_line_that_installs_them(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    extras = doctor._extras()
    assert extras["diffusers"] == {"installed": False, "install": "pip install 'kakusan[diffusers]'"}


def test_short_memory_and_disk_are_advised_on(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(doctor, "memory_free", lambda: 100_000_000)
    monkeypatch.setattr(doctor, "_disk_free", lambda path: 5_000_000)
    said = " ".join(doctor._advice(False, tmp_path))
    assert "--size" in said and "--out" in said and "KAKUSAN_CACHE" in said and "denormal" in said
    monkeypatch.setattr(doctor, "memory_free", lambda: None)
    monkeypatch.setattr(doctor, "_disk_free", lambda path: None)
    assert doctor._advice(True, tmp_path) == []


def test_memory_is_a_sane_number():
    free = doctor.memory_free()
    assert free is None or 0 <= free < 1 << 50
