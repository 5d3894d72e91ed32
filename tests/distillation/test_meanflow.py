"""Mean flow: the target against a forward-mode derivative and closed forms, zero start, students of Gaussians."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distillation.conftest import STD, Mean, Shift, Small, gaussian, made, taught
from harness.tiny import Data, Kind, Tiny, assert_same, settings
from harness.tiny import model as tiny_model
from kakusan.app.train.columns import pasted
from kakusan.catalog import build
from kakusan.conditions.label import Label
from kakusan.conditions.landing import Landing
from kakusan.core.batch import Batch, Cond
from kakusan.core.denoiser import Denoiser, Net
from kakusan.core.grid import Every, UniformLam
from kakusan.core.grid import Karras as KarrasGrid
from kakusan.core.model import Model
from kakusan.core.param import X0, Karras
from kakusan.core.process import VE, VP, Flow, Process, ZeroTerminal
from kakusan.core.rng import Rng
from kakusan.core.sample import run, sample
from kakusan.core.solver import DDIM, fall
from kakusan.core.space import Flat
from kakusan.distillation.meanflow import MeanFlow, chord, mean_target, straight
from kakusan.distillation.teacher import guided
from kakusan.part import KakusanError
from kakusan.training import loop
from kakusan.training.hooks import Hooks
from kakusan.training.stop import Stop

MU = 0.4
PROCESSES = [VE(), VP("cosine"), Flow(), ZeroTerminal(VP("linear"))]


def denoised(x: Tensor, t: Tensor, process: Process) -> Tensor:
    """The posterior mean of N(MU, STD^2)."""
    alpha, sigma = (v[:, None] for v in process.scales(t))
    return MU + alpha * STD**2 / ((alpha * STD) ** 2 + sigma**2) * (x - alpha * MU)


def landed(x: Tensor, t: Tensor, r: Tensor, process: Process) -> Tensor:
    """Where the probability flow of N(MU, STD^2) leads, exactly: the standardised value stays."""
    (at, st), (ar, sr) = ([v[:, None] for v in process.scales(w)] for w in (t, r))
    share = (((ar * STD) ** 2 + sr**2) / ((at * STD) ** 2 + st**2)).sqrt()
    return ar * MU + share * (x - at * MU)


def jumps(process: Process) -> tuple[Tensor, Tensor]:
    """Twelve pairs t > r, down to the clean end and, where there is one, from alpha = 0."""
    k = torch.tensor([60.0, 8.0, 2.0, 0.4]).double().repeat_interleave(3)
    lower = k * torch.tensor([0.0, 0.2, 0.7]).double().repeat(4)
    t, r = process.time(-k.log()), process.time(-lower.log())
    if process.zero_terminal:
        t[0] = 1.0
    return t, r


def between(t: Tensor, r: Tensor, gap: float, process: Process) -> Tensor:
    return MeanFlow(gap=gap)._between(t, r, process)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_the_exact_mean_velocity_is_its_own_target(process):
    """For any point between, where the step there is exact; with the teacher's step, up to the gap, of first order."""
    t, r = jumps(process)
    x = process.noised(torch.randn(12, 1).double(), torch.randn(12, 1).double(), t)
    own = chord(x, landed(x, t, r, process), t, r, process)
    torch.testing.assert_close(fall(x, own, t, r, process), landed(x, t, r, process))
    errors = []
    for gap in (0.3, 0.02, 0.01, 0.005):
        m = between(t, r, gap, process)
        x_m = landed(x, t, m, process)
        first, second = chord(x, x_m, t, m, process), landed(x_m, m, r, process)
        second = torch.where((m > r)[:, None], chord(x_m, second, m, r, process), denoised(x_m, m, process))
        torch.testing.assert_close(mean_target(own, first, second, t, m, r, process), own, rtol=1e-7, atol=1e-7)
        first = denoised(x, t, process)
        x_m = fall(x, first, t, m, process)
        second = chord(x_m, landed(x_m, m, r, process), m, r, process)
        second = torch.where((m > r)[:, None], second, denoised(x_m, m, process))
        errors.append((mean_target(own, first, second, t, m, r, process) - own).abs().amax())
    assert float(errors[3]) < 0.05
    assert 1.6 < float(errors[1] / errors[2]) < 2.4 and 1.6 < float(errors[2] / errors[3]) < 2.4


@pytest.mark.parametrize("process", PROCESSES[:3], ids=repr)
def test_the_difference_is_the_paper_s_derivative(process):
    """u = v - (t - r) du/dt of a student that is not exact, by torch.func.jvp in the straight path's own time."""

    def g(x: Tensor, t: Tensor, r: Tensor) -> Tensor:  # an estimate, by z and times of the straight path
        return torch.sin(1.3 * x + t[:, None]) * (1 - t[:, None] * r[:, None]) + 0.3 * r[:, None] ** 2

    t, r = jumps(process)
    alpha, sigma = (v[:, None] for v in process.scales(t))
    x = process.noised(torch.randn(12, 1).double(), torch.randn(12, 1).double(), t)
    z, (a, b) = x / (alpha + sigma), (straight(v, process) for v in (t, r))
    first = denoised(x, t, process)
    v = (z - first) / a[:, None]
    _, change = torch.func.jvp(
        lambda z, a, b: (z - g(z, a, b)) / a[:, None], (z, a, b), (v, torch.ones_like(a), torch.zeros_like(b))
    )
    expected = v - (a - b)[:, None] * change

    def student(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (w[:, None] for w in process.scales(t))
        return g(x / (alpha + sigma), straight(t, process), b)

    m = between(t, r, 1e-5, process)
    target = mean_target(student(x, t), first, student(fall(x, first, t, m, process), m), t, m, r, process)
    torch.testing.assert_close((z - target) / a[:, None], expected, rtol=2e-3, atol=2e-3)


NETS: list[dict[str, Any]] = [
    {"kind": "net/unet", "channels": 1, "width": 8, "mults": [1, 2], "attention": [1], "blocks": 1, "heads": 2},
    {"kind": "net/dit", "channels": 1, "width": 16, "depth": 1, "heads": 2},
    {"kind": "net/unet2d", "channels": 1, "widths": [8, 16], "groups": 4, "attention": [1], "head_dim": 8},
]


@pytest.mark.parametrize("net", NETS, ids=lambda net: net["kind"])
@pytest.mark.parametrize("process", [VP("cosine"), Flow()], ids=repr)
def test_a_student_begins_as_its_teacher_and_stays_a_velocity_where_nothing_is_jumped(net, process):
    def model(landing: bool) -> Model:
        encoders: dict[str, Any] = {"label": Label(["a", "b"], 4)} | ({"landing": Landing()} if landing else {})
        body = build(net | {"vector": 4 + 8 * landing}, "net")
        assert isinstance(body, Net)
        return Model(Denoiser(body, process, Karras(0.5), Flat()), None, encoders)

    teacher, student = model(False), model(True)
    with torch.no_grad():
        for p in teacher.parameters():
            p.copy_(0.2 * torch.randn_like(p))
    student.load_state_dict(pasted(student, teacher), strict=False)
    x, (t, r) = torch.randn(4, 1, 8, 8), (v[::3] for v in jumps(process))
    inputs = {"label": teacher.encoder("label").prepare(["a", "b", None, "a"])}

    def both(s: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            mine = student.branches([student.cond(inputs, {}, 4), student.cond({}, {}, 4)])(x, t, s)
            theirs = teacher.branches([teacher.cond(inputs, {}, 4), teacher.cond({}, {}, 4)])(x, t, s)
        return torch.cat(mine), torch.cat(theirs)

    torch.testing.assert_close(*both(r), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        student.state_dict()["denoiser.net.vector_in.weight"][:, -8:].normal_()
    torch.testing.assert_close(*both(t), rtol=1e-5, atol=1e-5)
    mine, theirs = both(r)
    assert not torch.allclose(mine, theirs, rtol=1e-2, atol=1e-2)


def told(process: Process, dropout: float = 0.0) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = Small(1, vector=8, dropout=dropout)
        return Model(Denoiser(net, process, Karras(STD), Flat()), None, {"landing": Landing()})


@pytest.mark.parametrize(
    ("process", "align"), [(VE(), 0), (Flow(), 0), (VE(), None)], ids=["VE", "Flow", "the teacher's trajectories"]
)
def test_a_student_of_a_gaussian_is_its_closed_form(process, align):
    """N(0, STD^2): a jump lands near where the flow does; where the teacher's own step is far off, twice as near."""
    teacher, student = gaussian(process, Karras(STD)), told(process)
    steps = 160 if align == 0 else 80
    taught(student, MeanFlow(align=align, gap=0.05, power=0.5), STD * torch.randn(4000, 1), steps, teacher)
    k = torch.tensor([8.0, 8.0, 1.0]).double()
    t, r = process.time(-k.log()), process.time(-torch.tensor([0.0, 1.0, 0.0]).double().log())
    z = torch.linspace(-2, 2, 21)[:, None]
    for a, b in zip(t, r):
        alpha, sigma = (v.float() for v in process.scales(a))
        x = ((alpha * STD) ** 2 + sigma**2).sqrt() * z
        ar, sr = process.scales(b)
        exact = (((ar * STD) ** 2 + sr**2).sqrt()).float() * z
        with torch.no_grad():
            (mine,), (theirs,) = (m.branches([m.cond({}, {}, 21)])(x, a, b) for m in (student, teacher))
        scale = exact.square().mean().sqrt()
        away = [float((fall(x, g, a, b, process) - exact).square().mean().sqrt() / scale) for g in (mine, theirs)]
        assert away[0] < max(0.15, 0.5 * away[1]), (float(a), float(b), away)


@pytest.mark.parametrize("base", [KarrasGrid(k_min=0.01), UniformLam()], ids=repr)
@pytest.mark.parametrize("process", PROCESSES[:3], ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_jumps_compose(base, process, steps):
    """DDIM with an exact mean velocity ends where the flow does, whatever the list."""
    times = Every(base, 32).times(steps, process)
    alpha, sigma = process.scales(times[0])
    x = (alpha * MU + ((alpha * STD) ** 2 + sigma**2).sqrt()) * torch.ones(1, 1).double()

    def exact(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return chord(x, landed(x, t[None], s[None], process), t, s, process)

    end = run(sample(exact, x, times, DDIM(), process, Flat(), Rng([0])))
    torch.testing.assert_close(end, torch.tensor([[MU + STD]]).double())


def test_the_velocity_has_the_guidance_inside():
    """With r = t in every row the loss is that of the guided teacher's velocity, and nothing else."""
    process = VP("cosine")
    encoders: dict[str, Any] = {"mean": Mean()}
    teacher = Model(Denoiser(Shift(), process, Karras(STD), Flat()), None, encoders).requires_grad_(False)
    student = Model(Denoiser(Small(1, vector=9), process, Karras(STD), Flat()), None, encoders | {"landing": Landing()})
    inputs: Any = {"mean": {"mean": torch.randn(16, 1)}}
    batch, rng = Batch(torch.randn(16, 1), inputs=inputs), Rng(range(16))
    objective = MeanFlow(align=0, same=1.0, clean=0.0, power=0.0, guidance=3.0, dropout=0.3)
    loss, lam = objective.terms(student, batch, rng, 4, teacher)
    t = process.time(lam)
    x = process.noised(batch.x0, Flat().noise([(1,)] * 16, rng, "eps", 4), t)
    keep = objective.draws.keep(batch, rng, 4)
    with torch.no_grad():
        target = guided(teacher, inputs, keep, 16, guidance=3.0)(x, t, t)
        away = student.denoiser(x, t, student.cond(inputs, keep, 16)) - target
    expected = (away[:, 0] / straight(t, process).float()) ** 2
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-3, atol=1e-6)


def test_the_same_units_are_dropped_at_both_points_and_no_gradient_passes_the_target():
    """A student that is constant in x and t but for dropout: u changes with neither, so only v can be missed."""

    class Constant(Net):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.value = nn.Dropout(0.5), nn.Parameter(torch.ones(64))

        def forward(self, x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
            return self.drop(self.value).mean() + 0 * x

    process = Flow()
    student = Model(Denoiser(Constant(), process, X0(), Flat()), None, {"landing": Landing()}).train()
    teacher = gaussian(process, Karras(STD))
    objective = MeanFlow(align=0, same=0.0, clean=1.0, power=0.0)
    loss = objective.loss(student, Batch(torch.randn(32, 1)), Rng(range(32)), 0, teacher)
    assert float(loss.detach().max()) == pytest.approx(0, abs=1e-6), (
        "at r = 0 consistency is all, and a constant is consistent"
    )


class Halfway(Hooks):
    """Asks to stop at the tenth step."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def on_log(self, row: dict[str, Any]) -> None:
        if row["step"] == 10:
            self.stop.request()


@pytest.mark.parametrize("align", [0, 12])
def test_a_student_that_is_stopped_and_resumed_ends_bit_identical(tmp_path, align):
    def student() -> Model:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            encoders: dict[str, Any] = {"kind": Kind(), "landing": Landing(2)}
            return Model(Denoiser(Tiny(0.1, 4), VE(), Karras(0.5), Flat()), None, encoders)

    teacher = tiny_model()
    wish = settings(steps=20, weak=0.0).replace(objective=MeanFlow(align=align, points=4))
    loop.run(student(), Data(), wish, tmp_path / "straight", teacher=teacher)
    with Stop() as stop:
        broken = loop.run(student(), Data(), wish, tmp_path / "broken", hooks=Halfway(stop), stop=stop, teacher=teacher)
    assert broken.interrupted
    assert not loop.run(student(), Data(), wish, tmp_path / "broken", resume=True, teacher=teacher).interrupted
    assert_same(tmp_path / "straight", tmp_path / "broken")


@pytest.mark.parametrize("align", [0, None])
def test_everything_is_finite_where_no_picture_is_left(align):
    """At t = 1 of a flow process, alpha = 0."""
    process = Flow()
    student, batch = told(process), Batch(torch.randn(32, 1), stratum=torch.full((32,), 1 - 1e-4).double())
    loss = MeanFlow(align=align).loss(student, batch, Rng(range(32)), 0, gaussian(process, Karras(STD)))
    loss.sum().backward()
    assert bool(torch.isfinite(loss).all())
    assert all(bool(torch.isfinite(p.grad).all()) for p in student.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gap": 0.0}, "gap=0.0"),
        ({"same": 0.8, "clean": 0.3}, "same=0.8, clean=0.3"),
        ({"power": 2.0}, "power=2.0"),
        ({"align": -1}, "align=-1"),
        ({"points": 1}, "points=1"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(given, said):
    with pytest.raises(KakusanError, match=said):
        MeanFlow(**given)


def test_what_it_needs_is_said():
    batch, rng = Batch(torch.randn(4, 2)), Rng(range(4))
    with pytest.raises(KakusanError, match="kakusan distill"):
        MeanFlow().loss(made(), batch, rng, 0)
    with pytest.raises(KakusanError, match="needs a model with a condition/landing"):
        MeanFlow().loss(made(), batch, rng, 0, made())
