"""Every combination that makes sense works, from the loss to a sample; what does not is refused with the reason."""

from __future__ import annotations

from itertools import cycle

import pytest
import torch
from torch import Tensor, nn

from kakusan.core import grid as grids
from kakusan.core import objective, param, process, solver
from kakusan.core.batch import Batch, Cond
from kakusan.core.denoiser import Denoiser, Net
from kakusan.core.model import Model
from kakusan.core.rng import Rng
from kakusan.core.sample import run, sample, start
from kakusan.core.space import Flat
from kakusan.part import KakusanError

PROCESSES = [
    process.VP("linear"), process.VP("cosine"), process.VP("sigmoid"), process.VE(), process.Flow(),
    process.Shifted(process.VP("cosine"), 2.0), process.Shifted(process.Flow(), 3.0),
    process.ZeroTerminal(process.VP()), process.Tabulated(), process.Tabulated(zero_terminal=True),
]  # fmt: skip
PARAMS = [param.Eps(), param.X0(), param.V(), param.Velocity(), param.Karras()]
DENSITIES = [objective.UniformT(), objective.LogNormal(), objective.LogitNormal(), objective.Laplace()]
WEIGHTS = [objective.EpsUniform(), objective.MinSNR(), objective.EDM(), objective.Sigmoid(), objective.FlowUniform()]
GRIDS = [grids.Karras(), grids.UniformLam(), grids.UniformT()]
SOLVERS = [solver.DDIM(), solver.Heun(), solver.DPM2M(), solver.UniPC(), solver.UniPC(3), solver.IPNDM()]


class Tiny(Net):
    """An affine map that sees the noise level."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 2)

    def forward(self, x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
        return self.mix(torch.cat([x, lam[:, None] / 10], 1))


@pytest.mark.parametrize("p", PARAMS, ids=lambda p: p.kind)
@pytest.mark.parametrize("of", PROCESSES, ids=repr)
def test_loss_and_samples_are_finite(of, p):
    torch.manual_seed(0)
    if isinstance(p, param.Eps) and of.zero_terminal:
        with pytest.raises(KakusanError, match="alpha is 0"):
            Denoiser(Tiny(), of, p, Flat())
        return
    model = Model(Denoiser(Tiny(), of, p, Flat()))
    data = Batch(torch.randn(16, 2), stratum=torch.arange(16, dtype=torch.float64) / 16)
    for density, weight in [*zip(DENSITIES, cycle(WEIGHTS)), *zip(cycle(DENSITIES), WEIGHTS)]:
        loss = objective.Denoising(density, weight).loss(model, data, Rng(range(16)), 0)
        assert torch.isfinite(loss).all(), (density, weight)
        loss.mean().backward()
    assert all(torch.isfinite(q.grad).all() for q in model.parameters())
    rng, shapes = Rng(range(4)), [(2,)] * 4
    choices = [
        *GRIDS,
        *([grids.Discrete(s) for s in ("leading", "trailing", "linspace")] if hasattr(of, "steps") else []),
    ]
    for grid in choices:
        for solve in SOLVERS:
            for eta in (0.0, 1.0):
                times = grids.climb(grid.times(5, of), of, eta)
                x = start(times, of, Flat(), shapes, rng)
                with torch.no_grad():
                    x = run(sample(lambda x, t, s: model.denoiser(x, t), x, times, solve, of, Flat(), rng, shapes))
                assert torch.isfinite(x).all(), (grid, solve, eta)
