"""The weight of guidance as an input: each row's own in the teacher, and in a student that learns them all at once."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from distillation.conftest import STD, Mean, Shift, Small, told
from kakusan.conditions.guidance import Guidance
from kakusan.core.denoiser import Denoiser
from kakusan.core.grid import Every
from kakusan.core.grid import Karras as KarrasGrid
from kakusan.core.model import Model
from kakusan.core.objective import Objective
from kakusan.core.param import Karras
from kakusan.core.process import VE
from kakusan.core.rng import Rng
from kakusan.core.space import Flat
from kakusan.distillation.consistency import Consistency
from kakusan.distillation.progressive import Progressive
from kakusan.distillation.teacher import guided

FIRST = 20.0  # sigma that one step begins at
TWO = Every(KarrasGrid(k_min=0.05, k_max=FIRST), 2)


def shift() -> Model:
    """The exact denoiser of N(mean, STD^2)."""
    return Model(Denoiser(Shift(), VE(), Karras(STD), Flat()), None, {"mean": Mean()}).requires_grad_(False)


def test_every_row_is_guided_by_its_own_weight():
    teacher, weights = shift(), [1.0, 3.0, -0.5]
    inputs: dict[str, Any] = {"mean": {"mean": torch.tensor([[1.0], [-0.5], [2.0]])}}
    t, x = VE().time(torch.zeros(3).double()), torch.randn(3, 1)
    f = guided(teacher, inputs | {"guidance": {"guidance": torch.tensor(weights)}}, {}, 3)
    for i, w in enumerate(weights):
        alone = guided(teacher, inputs, {}, 3, guidance=w)
        torch.testing.assert_close(f(x, t, t)[i], alone(x, t, t)[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "objective",
    [
        Consistency(path="teacher", dropout=0.0),
        Progressive(1, Every(KarrasGrid(k_min=0.05, k_max=FIRST), 2), dropout=0.0),
    ],
    ids=["consistency", "progressive"],
)
def test_one_student_lands_where_each_weight_leads(objective: Objective):
    """Guidance of weight w moves the mean m to w m; one evaluation without any guidance does the same."""
    teacher = shift()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoders = {"mean": Mean(), "guidance": Guidance(1.0, 3.0, 2.0)}
        student = Model(Denoiser(Small(1, vector=9), VE(), Karras(STD), Flat()), None, encoders)
    told(student, objective, teacher, 250)
    t = VE().time(torch.tensor(-math.log(FIRST)).double())
    x = FIRST * Rng(range(400)).normal([(1,)] * 400, "x")
    for mean, w in ((0.8, 1.0), (0.8, 3.0), (-0.6, 2.0)):
        inputs: dict[str, Any] = {"mean": {"mean": torch.full((400, 1), mean)}}
        given = inputs | {"guidance": {"guidance": torch.full((400,), w)}}
        with torch.no_grad():
            landed = student.denoiser(x, t, student.cond(given, {}, 400))
        assert float(landed.mean()) == pytest.approx(w * mean, abs=0.25), (mean, w)
