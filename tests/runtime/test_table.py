"""Coefficient tables: the same samples as the samplers themselves, by pure arithmetic."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from kakusan.catalog import build
from kakusan.core.batch import Cond
from kakusan.core.denoiser import Denoiser, Net
from kakusan.core.grid import climb
from kakusan.core.guide import Autoguidance, ClassifierFree, Guide, Interval, Plain
from kakusan.core.rng import Rng
from kakusan.core.sample import run, sample
from kakusan.part import KakusanError
from kakusan.runtime.table import rows

PROCESSES = [
    ({"kind": "process/vp", "schedule": "cosine"}, {"kind": "param/v"}),
    ({"kind": "process/ve"}, {"kind": "param/karras"}),
    ({"kind": "process/flow"}, {"kind": "param/velocity"}),
    ({"kind": "process/tabulated"}, {"kind": "param/eps"}),
]
SOLVERS = ["ddim", "heun", "dpm2m", "unipc", "ipndm"]


class Nothing(Net):
    """A network that is never asked: tables come from coefficients alone."""

    def forward(self, x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
        raise AssertionError("a table needs no evaluation")


def denoiser(process: dict, param: dict) -> Denoiser:
    return Denoiser(Nothing(), build(process), build(param), build({"kind": "space/flat"}))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", SOLVERS)
@pytest.mark.parametrize(("process", "param"), PROCESSES, ids=lambda p: p["kind"])
def test_a_table_is_its_sampler(process, param, kind, eta):
    """With a denoiser that no solver is exact for, followed by the table alone."""
    d, solver = denoiser(process, param), build({"kind": f"solver/{kind}"})
    times = climb(build({"kind": "grid/karras"}).times(7, d.process), d.process, eta)
    space, rng = d.space, Rng([3, 4])

    def f(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return 0.7 * torch.tanh(1.3 * x) + 0.1 * float(t)

    start = space.noise([(1, 4, 4)] * 2, rng, "start").double()
    x = d.process.scales(times[0])[1] * start
    truth = run(sample(f, x, times, solver, d.process, space, rng))
    falls = [i for i, (t, s) in enumerate(pairwise(times)) if s > t]
    noises = iter([space.noise([(1, 4, 4)] * 2, rng, "climb", i).double() for i in falls])
    past: list[Tensor] = []
    for row in rows(d, solver, times, Plain()):
        past.insert(0, f(x, torch.tensor(row.t, dtype=torch.float64), None))
        x = row.a * x + sum(b * x0 for b, x0 in zip(row.b, past, strict=False))
        x = x + row.noise * next(noises) if row.noise else x
    assert float((x - truth).abs().max()) < 1e-12
    assert next(noises, None) is None


def test_ddim_and_dpm2m_as_published():
    """Their textbook coefficients (Song et al. 2021, eq. 12; Lu et al. 2022b, algorithm 2)."""
    d = denoiser(*PROCESSES[0])
    times = build({"kind": "grid/uniform-lam"}).times(6, d.process)
    alpha, sigma = d.process.scales(times)
    lam = d.process.logsnr(times)
    first = rows(d, build({"kind": "solver/ddim"}), times, Plain())
    second = rows(d, build({"kind": "solver/dpm2m"}), times, Plain())
    for i in range(6):
        a, b = float(sigma[i + 1] / sigma[i]), float(alpha[i + 1] - alpha[i] * sigma[i + 1] / sigma[i])
        assert first[i].a == pytest.approx(a, abs=1e-12)
        assert first[i].b == pytest.approx([b], abs=1e-12)
        w = float((lam[i + 1] - lam[i]) / (2 * (lam[i] - lam[i - 1]))) if 0 < i < 5 else 0.0
        assert second[i].a == pytest.approx(a, abs=1e-12)
        assert second[i].b == pytest.approx([b * (1 + w), -b * w] if w else [b], abs=1e-12)


def test_rows_carry_the_denoisers_own_affine():
    d = denoiser(*PROCESSES[1])
    times = build({"kind": "grid/karras"}).times(5, d.process)
    for row, t in zip(rows(d, build({"kind": "solver/ddim"}), times, Plain()), times, strict=False):
        coefs = d.param.coefs(*d.process.scales(t))
        assert (row.c_in, row.c_skip, row.c_out) == tuple(float(c) for c in coefs)
        assert row.lam == max(-10.0, min(10.0, float(d.process.logsnr(t))))


def test_guidance_becomes_weights():
    d, solver = denoiser(*PROCESSES[0]), build({"kind": "solver/ddim"})
    times = build({"kind": "grid/karras"}).times(9, d.process)
    both = Autoguidance(1.5, ClassifierFree(3.0))  # (weak, none, conditioned)
    assert all(row.weights == pytest.approx([-0.5, -2.0, 3.5]) for row in rows(d, solver, times, both))
    part = rows(d, solver, times, Interval(ClassifierFree(3.0), d.process, -1.0, 1.0))
    assert {tuple(row.weights) for row in part if -1.0 < row.lam <= 1.0} == {(-2.0, 3.0)}
    assert {tuple(row.weights) for row in part if not -1.0 < row.lam <= 1.0} == {(0.0, 1.0)}


class Bent(Guide):
    """Not a weighted sum."""

    kind = "guide/bent"
    branches = 1

    def combine(self, estimates, *rest):
        return estimates[0].clamp(-1, 1) ** 2


def test_what_no_table_can_hold_is_refused():
    d, solver = denoiser(*PROCESSES[0]), build({"kind": "solver/ddim"})
    times = build({"kind": "grid/karras"}).times(3, d.process)
    with pytest.raises(KakusanError, match="guide/bent is not a weighted sum"):
        rows(d, solver, times, Bent())
    with pytest.raises(KakusanError, match="the first of them to fall"):
        rows(d, solver, times.flip(0), Plain())
