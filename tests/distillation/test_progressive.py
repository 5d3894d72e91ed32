"""Progressive: the target is two steps of the teacher as one, and a student lands where its teacher does in half."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distillation.conftest import STD, exact, gaussian, made, taught
from harness.tiny import Data, assert_same, settings
from harness.tiny import model as tiny_model
from kakusan.core.batch import Batch
from kakusan.core.grid import Every, Karras, UniformLam, UniformT
from kakusan.core.model import Model
from kakusan.core.param import Eps, V
from kakusan.core.param import Karras as KarrasParam
from kakusan.core.process import VE, VP, Flow, ZeroTerminal
from kakusan.core.rng import Rng
from kakusan.core.sample import run, sample, start
from kakusan.core.solver import DDIM, fall
from kakusan.core.space import Flat
from kakusan.distillation.progressive import Progressive, two_steps
from kakusan.part import KakusanError
from kakusan.training import loop
from kakusan.training.hooks import Hooks
from kakusan.training.stop import Stop

PROCESSES = [VE(), VP("cosine"), Flow(), ZeroTerminal(VP("linear"))]


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_one_step_to_the_target_is_two_steps_of_the_mixture_s_own_denoiser(process):
    """At every pair of the list, from alpha = 0 and to sigma = 0 too, each row at a time of its own."""
    times = Every(Karras(k_min=0.01), 8).times(8, process)
    t, mid, s = times[:-2:2], times[1:-1:2], times[2::2]
    f = exact(process)

    def each(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return torch.cat([f(row[None], at, at) for row, at in zip(x, t)])

    x = process.noised(torch.randn(4, 2).double(), torch.randn(4, 2).double(), t)
    between = fall(x, each(x, t, mid), t, mid, process)
    landed = fall(between, each(between, mid, s), mid, s, process)
    target = two_steps(each, x, t, mid, s, process)
    torch.testing.assert_close(fall(x, target, t, s, process), landed, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("base", [Karras(k_min=0.01), UniformLam(), UniformT()], ids=repr)
@pytest.mark.parametrize("process", PROCESSES[1:], ids=repr)
def test_lists_of_half_the_steps_lie_within_each_other(base, process):
    grid = Every(base, 16)
    for steps in (8, 4, 2, 1):
        assert torch.equal(grid.times(2 * steps, process)[::2], grid.times(steps, process))
    assert torch.equal(grid.times(5, process), base.times(5, process)), "what does not divide is the base's own"


def ends(model: Model, grid: Every, steps: int) -> Tensor:
    """Where DDIM of so many steps leads 200 fixed noises."""
    process, rng = model.denoiser.process, Rng(range(200))
    times = grid.times(steps, process)
    x = start(times, process, Flat(), [(1,)] * 200, rng)
    with torch.no_grad():
        return run(sample(lambda x, t, s: model.denoiser(x, t), x, times, DDIM(), process, Flat(), rng))


def test_students_of_students_end_where_the_first_teacher_does():
    """8 steps of the Gaussian's denoiser become 4, then 2, then 1, which ends nearer to the 8 steps than the teacher's
    own 1 and 2 do by far."""
    process, grid = VE(), Every(Karras(k_min=0.05, k_max=20.0), 8)
    teacher = first = gaussian(process, KarrasParam(STD))
    wanted = ends(first, grid, 8)
    for steps in (4, 2, 1):
        student = made(1, process, KarrasParam(STD))
        student.load_state_dict(teacher.state_dict())
        taught(student, Progressive(steps, grid), STD * torch.randn(2000, 1), 150, teacher)
        teacher = student.requires_grad_(False)

        def away(model: Model, steps: int) -> float:
            return float((ends(model, grid, steps) - wanted).square().mean().sqrt())

        assert away(student, steps) < 0.4 * away(first, steps), steps


@pytest.mark.parametrize("param", [Eps(), V(), KarrasParam(0.5)], ids=repr)
def test_the_loss_is_the_larger_of_the_errors_of_x0_and_of_eps(param):
    process, grid = VP("cosine"), Every(Karras(k_min=0.01), 8)
    student, teacher = made(2, process, param, seed=1), made(2, process, param, seed=2)
    batch = Batch(torch.randn(16, 2), stratum=(torch.arange(16).double() + 0.5) / 16)
    rng = Rng(range(16))
    loss, lam = Progressive(4, grid).terms(student, batch, rng, 5, teacher)
    times = grid.times(8, process)
    t = process.time(lam)
    at = (times[None] - t[:, None]).abs().argmin(1)
    assert sorted(set(at.tolist())) == [0, 2, 4, 6], "the student's own times, all of them"
    x = process.noised(batch.x0, Flat().noise([(2,)] * 16, rng, "eps", 5), t)
    with torch.no_grad():
        target = two_steps(lambda x, t, s: teacher.denoiser(x, t), x, t, times[at + 1], times[at + 2], process)
        away = student.denoiser(x, t) - target
    alpha, sigma = (v.float()[:, None] for v in process.scales(t))
    expected = torch.maximum(away.square().mean(1), (alpha / sigma * away).square().mean(1))
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-6)


class Halfway(Hooks):
    """Asks to stop at the tenth step."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def on_log(self, row: dict) -> None:
        if row["step"] == 10:
            self.stop.request()


def test_a_halving_that_is_stopped_and_resumed_ends_bit_identical(tmp_path):
    teacher = tiny_model()
    wish = settings(steps=20, weak=0.0).replace(objective=Progressive(2, Every(Karras(k_min=0.01), 4)))
    loop.run(tiny_model(), Data(), wish, tmp_path / "straight", teacher=teacher)
    with Stop() as stop:
        broken = loop.run(
            tiny_model(), Data(), wish, tmp_path / "broken", hooks=Halfway(stop), stop=stop, teacher=teacher
        )
    assert broken.interrupted
    assert not loop.run(tiny_model(), Data(), wish, tmp_path / "broken", resume=True, teacher=teacher).interrupted
    assert_same(tmp_path / "straight", tmp_path / "broken")


def test_bad_arguments_are_named():
    batch, rng = Batch(torch.randn(4, 2)), Rng(range(4))
    with pytest.raises(KakusanError, match="steps=0"):
        Progressive(0)
    with pytest.raises(KakusanError, match="kakusan distill"):
        Progressive().loss(made(), batch, rng, 0)
    with pytest.raises(KakusanError, match="not every second time"):
        Progressive(2, Karras()).loss(made(), batch, rng, 0, made())
