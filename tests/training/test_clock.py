"""Clocks: minutes on the wall, or of processor time, which waiting and other processes do not use up."""

from __future__ import annotations

import time

import pytest
import torch

from kakusan.core.objective import EDM, Denoising, LogNormal
from kakusan.part import KakusanError
from kakusan.training.adversarial import Adversarial
from kakusan.training.optim import AdamW
from kakusan.training.schedule import CLOCKS, Clock, due, passed, readings
from kakusan.training.settings import Training


def test_processor_time_counts_work_and_not_waiting():
    begun = readings()
    time.sleep(0.5)
    waited = {name: now - begun[name] for name, now in readings().items()}
    assert waited["wall"] > 0.45 and waited["processor"] < 0.2
    clock = Clock(now=CLOCKS["processor"])
    a = torch.randn(200, 200)
    while time.process_time() / torch.get_num_threads() - begun["processor"] < 0.4:
        a @ a
    assert clock.elapsed() > 0.15


def test_a_clock_that_does_not_exist_is_refused():
    for made in (
        lambda: Training(Denoising(LogNormal(), EDM(0.5)), AdamW(), steps=1, clock="sun"),
        lambda: Adversarial(steps=1, clock="sun"),
    ):
        with pytest.raises(KakusanError, match="clock='sun': choose one of wall, processor"):
            made()


@pytest.mark.parametrize(("total", "points", "power"), [(100, 12, 2.0), (43, 4, 2.0), (97, 10, 1.0), (5, 12, 1.0)])
def test_what_has_passed_at_a_step_is_what_a_run_of_that_length_has_acted_on(total, points, power) -> None:
    done = 0
    for step in range(total + 1):
        assert passed(step, total, points, power) == done, step
        while due(step, total, points, done, power):
            done += 1
