"""Consistency: pairs, gradients and dropout as they should be, and students held against closed forms of Gaussians."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from distillation.conftest import STD, Mean, Shift, Small, gaussian, made, taught, told
from harness.tiny import Data, assert_same, settings
from harness.tiny import model as tiny_model
from kakusan.core.batch import Batch
from kakusan.core.denoiser import Denoiser
from kakusan.core.grid import Consistency as ConsistencyGrid
from kakusan.core.model import Model
from kakusan.core.objective import LogNormal
from kakusan.core.param import X0, Eps, Karras, V, Velocity
from kakusan.core.process import VE, VP, Flow
from kakusan.core.rng import Rng
from kakusan.core.sample import run, sample, start
from kakusan.core.solver import DDIM
from kakusan.core.space import Flat
from kakusan.distillation.consistency import Consistency, _both, lower
from kakusan.distillation.teacher import guided
from kakusan.part import KakusanError
from kakusan.training import loop
from kakusan.training.hooks import Hooks
from kakusan.training.stop import Stop


def test_the_lower_point_comes_nearer_and_ends_at_the_clean_end():
    k = torch.tensor([80.0, 1.0, 0.1, 0.003], dtype=torch.float64)
    far, near = lower(k, 2.0), lower(k, 256.0)
    assert bool((far < near).all()) and bool((near < k).all())
    torch.testing.assert_close(near[0] / 80, torch.tensor(1 - 1 / 256).double(), rtol=1e-6, atol=0)
    assert float(far[2]) == 0.0, "(1 + 8 sigmoid(-k)) / 2 > 1 below k = 1: the lower point is the clean end"
    torch.testing.assert_close(lower(k, 2.0, 7), near)


@pytest.mark.parametrize("param", [Karras(0.5), Eps(), V(), X0()], ids=repr)
@pytest.mark.parametrize("process", [VE(), VP("cosine")], ids=repr)
def test_value_and_gradient_are_those_of_a_fixed_target(process, param):
    """Computed anew by hand, in x/alpha: nothing flows through the lower point."""
    model = made(2, process, param)
    batch = Batch(torch.randn(16, 2), stratum=(torch.arange(16).double() + 0.5) / 16)
    rng, objective = Rng(range(16)), Consistency(q=8.0, align=0)
    loss, lam = objective.terms(model, batch, rng, 3)
    loss.sum().backward()
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()

    k = torch.exp(-lam)
    r = lower(k, 8.0)
    eps = Flat().noise([(2,)] * 16, rng, "eps", 3)
    ratios = [v.float()[:, None] for v in (k, r)]
    alphas = [process.scales(process.time(-v.log()))[0].float()[:, None] for v in (k, r)]
    x_t, x_r = (a * (batch.x0 + v * eps) for a, v in zip(alphas, ratios))
    with torch.no_grad():
        target = torch.where(r[:, None] == 0, batch.x0, model.denoiser(x_r, process.time(-r.log())))
    away = (model.denoiser(x_t, process.time(lam)) - target).square().mean(1)
    mine = (away + 1e-16).sqrt() / (k - r).float()
    torch.testing.assert_close(loss, mine, rtol=2e-3, atol=1e-5)
    mine.sum().backward()
    for a, b in zip(found, [p.grad for p in model.parameters() if p.grad is not None]):
        torch.testing.assert_close(a, b, rtol=5e-3, atol=1e-3 * float(b.abs().max()))


def test_the_same_units_are_dropped_at_both_points():
    model = made(dropout=0.5)
    x, t = torch.randn(32, 2), torch.full((32,), 0.6, dtype=torch.float64)
    out, target = _both(model, {}, {}, None, (x, t), (x, t))
    assert torch.equal(out, target)
    assert not torch.equal(out, model.denoiser(x, t)), "a later call drops other units"


CASES: dict[str, dict[str, Any]] = {
    "the pictures' own noise": {"path": "data", "q": 4.0, "stage": 80, "align": 0},
    "the teacher's steps": {"path": "teacher", "q": 4.0, "stage": 80, "align": 0},
    "the teacher's trajectories": {"align": None},
}


@pytest.mark.parametrize(
    ("case", "process"),
    [("the pictures' own noise", VE()), ("the teacher's steps", Flow()), ("the teacher's trajectories", VE())],
    ids=str,
)
def test_a_student_of_a_gaussian_is_its_closed_form(case, process):
    """The flow of N(0, s^2): ``x0 = (x/alpha) s / sqrt(k^2 + s^2)`` from the levels where it is trained in seconds; the
    teacher's own one-step estimate is far from it."""
    teacher = gaussian(process, Karras(STD))
    student = made(1, process, Karras(STD), seed=3)
    steps = 120 if CASES[case]["align"] is None else 240
    taught(student, Consistency(LogNormal(0.0, 2.0), **CASES[case]), STD * torch.randn(4000, 1), steps, teacher)
    k = torch.tensor([60.0, 5.0, 1.0] if CASES[case]["align"] is None else [5.0, 1.0], dtype=torch.float64)
    z = torch.linspace(-2, 2, 21)[:, None]
    for level in k:
        t = process.time(-level.log())
        alpha = process.scales(t)[0].float()
        y = (level**2 + STD**2).sqrt().float() * z
        with torch.no_grad():
            mine, theirs = student.denoiser(alpha * y, t), teacher.denoiser(alpha * y, t)
        scale = STD * z.square().mean().sqrt()
        assert float((mine - STD * z).square().mean().sqrt() / scale) < 0.3, float(level)
        if level > 1:
            assert float((theirs - STD * z).square().mean().sqrt() / scale) > 0.8


def test_guidance_inside_is_the_guided_gaussian():
    """All of one spread: guidance of weight w moves the mean m to w m; dropped rows keep 0."""
    teacher = Model(Denoiser(Shift(), VE(), Karras(STD), Flat()), None, {"mean": Mean()}).requires_grad_(False)
    inputs, keep = {"mean": {"mean": torch.tensor([[1.0], [-0.5], [1.0]])}}, {"mean": torch.tensor([True, True, False])}
    t = VE().time(torch.tensor([0.5, -1.0, 0.0], dtype=torch.float64))
    x = torch.randn(3, 1)
    k2 = VE().ratio(t).float()[:, None] ** 2
    centre = 3.0 * torch.tensor([[1.0], [-0.5], [0.0]])
    f = guided(teacher, inputs, keep, 3, guidance=3.0)
    torch.testing.assert_close(f(x, t, t), (STD**2 * x + k2 * centre) / (k2 + STD**2), rtol=1e-5, atol=1e-5)


def test_a_student_has_the_guidance_inside():
    """One evaluation, without any guidance, lands around w m where the teacher alone would land around m."""
    teacher = Model(Denoiser(Shift(), VE(), Karras(STD), Flat()), None, {"mean": Mean()}).requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = Model(Denoiser(Small(1, vector=1), VE(), Karras(STD), Flat()), None, {"mean": Mean()})
    objective = Consistency(path="teacher", guidance=2.0, dropout=0.0)
    told(student, objective, teacher, 150)
    t = VE().time(torch.tensor(math.log(1 / 80)).double())
    x = 80 * Rng(range(400)).normal([(1,)] * 400, "x")
    for mean in (0.8, -0.6):
        cond = student.cond({"mean": {"mean": torch.full((400, 1), mean)}}, {}, 400)
        with torch.no_grad():
            landed = student.denoiser(x, t, cond)
        assert float(landed.mean()) == pytest.approx(2 * mean, abs=0.15)
        assert float(landed.std()) == pytest.approx(STD, rel=0.2)


@pytest.mark.parametrize("process", [VE(), VP("linear"), VP("cosine"), Flow()], ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_multistep_sampling_of_the_closed_form_keeps_the_gaussian(process, steps):
    """However often it falls and climbs, and whatever the process: N(0, STD^2) comes out, at ``steps`` evaluations."""
    times = ConsistencyGrid().times(steps, process)
    assert len(times) == 2 * steps and bool((times[1::2] == 0).all()) and bool((times[::2].diff() < 0).all())
    calls = []

    def f(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        calls.append(float(t))
        alpha, sigma = process.scales(t)
        return x * STD / (sigma**2 + (alpha * STD) ** 2).sqrt()

    rng = Rng(range(4000))
    x = start(times, process, Flat(), [(1,)] * 4000, rng)
    out = run(sample(f, x, times, DDIM(), process, Flat(), rng))
    assert len(calls) == steps
    assert float(out.std()) == pytest.approx(STD, rel=0.04)


def test_a_flow_process_is_trained_where_it_has_no_picture_left():
    """At t = 1, where alpha = 0, everything stays finite."""
    model = made(2, Flow(), Velocity())
    batch = Batch(torch.randn(8, 2), stratum=torch.full((8,), 1 - 1e-4).double())
    loss, _ = Consistency(LogNormal(5.0, 3.0), align=0).terms(model, batch, Rng(range(8)), 0)
    loss.sum().backward()
    assert bool(torch.isfinite(loss).all())
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


class Halfway(Hooks):
    """Asks to stop at the tenth step."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def on_log(self, row: dict[str, Any]) -> None:
        if row["step"] == 10:
            self.stop.request()


@pytest.mark.parametrize("align", [0, 12])
def test_a_student_that_is_stopped_and_resumed_ends_bit_identical(tmp_path, align):
    """Dropout, both halves of the run and the teacher's draws included."""
    teacher = tiny_model()
    wish = settings(steps=20, weak=0.0).replace(objective=Consistency(path="teacher", align=align, points=4))
    loop.run(tiny_model(), Data(), wish, tmp_path / "straight", teacher=teacher)
    with Stop() as stop:
        broken = loop.run(
            tiny_model(), Data(), wish, tmp_path / "broken", hooks=Halfway(stop), stop=stop, teacher=teacher
        )
    assert broken.interrupted
    done = loop.run(tiny_model(), Data(), wish, tmp_path / "broken", resume=True, teacher=teacher)
    assert not done.interrupted
    assert_same(tmp_path / "straight", tmp_path / "broken")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"q": 1.0}, "q=1.0"),
        ({"path": "pictures"}, "path='pictures'"),
        ({"guidance": 2.0, "align": 0}, "guidance=2"),
        ({"align": -1}, "align=-1"),
        ({"points": 1}, "points=1"),
        ({"dropout": 2.0}, "dropout=2"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(given, said):
    with pytest.raises(KakusanError, match=said):
        Consistency(**given)


def test_a_teacher_is_needed_where_one_is_followed():
    batch = Batch(torch.randn(4, 2))
    with pytest.raises(KakusanError, match="kakusan distill"):
        Consistency().loss(made(), batch, Rng(range(4)), 0)
