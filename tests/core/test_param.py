"""Parametrisations: the generic target is the published one, and x0 comes back from it exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kakusan.core.batch import Cond
from kakusan.core.denoiser import Denoiser, Net
from kakusan.core.param import X0, Eps, Karras, Param, V, Velocity
from kakusan.core.process import VE, VP, Flow, Process, Tabulated, ZeroTerminal
from kakusan.core.space import Flat
from kakusan.part import KakusanError

PARAMS: list[Param] = [Eps(), X0(), V(), Velocity(), Karras(0.5), Karras(1.3)]


class Zero(Net):
    """A network without parameters, for what needs none."""

    kind = "test/zero"

    def forward(self, x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
        self.seen = x, lam
        return x * 0


def allowed(param: Param, process: Process) -> bool:
    try:
        param.check(process)
    except KakusanError:
        return False
    return True


def target(param: Param, process: Process, x0: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    alpha, sigma = process.scales(t)
    c_in, c_skip, c_out = param.coefs(alpha, sigma)
    return ((1 - c_skip * alpha) / c_out) * x0 - (c_skip * sigma / c_out) * eps, (c_in, c_skip, c_out)


@pytest.mark.parametrize("param", PARAMS, ids=repr)
def test_x0_comes_back_from_the_target(param, process):
    t = torch.linspace(0.01, 1.0, 200, dtype=torch.float64)
    x0, eps = torch.randn(2, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    if not allowed(param, process):
        assert isinstance(param, Eps)
        assert process.zero_terminal
        return
    f, (_, c_skip, c_out) = target(param, process, x0, eps, t)
    alpha, sigma = process.scales(t)
    back = c_skip * (alpha * x0 + sigma * eps) + c_out * f
    scale = 1 / alpha if isinstance(param, Eps) else torch.ones_like(alpha)  # what rounding of eps is multiplied by
    assert float(((back - x0) / scale.clamp(min=1)).abs().max()) < 1e-11


def test_the_generic_target_is_the_published_one(process):
    t = torch.linspace(0.05, 0.95, 50, dtype=torch.float64)
    x0, eps = torch.randn(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alpha, sigma = process.scales(t)
    n = (alpha**2 + sigma**2).sqrt()
    for param, expected in (
        (Eps(), eps),
        (X0(), x0),
        (V(), (alpha * eps - sigma * x0) / n),
        (Velocity(), eps - x0),
        (Karras(0.5), (1 - alpha**2 * 0.25 / (sigma**2 + alpha**2 * 0.25)) * x0),
    ):
        if allowed(param, process):
            f, (_, c_skip, c_out) = target(param, process, x0, eps, t)
            if isinstance(param, Karras):  # Karras et al. 2022, eq. 144: (x0 - c_skip x_t)/c_out
                expected = (x0 - c_skip * (alpha * x0 + sigma * eps)) / c_out
            torch.testing.assert_close(f, expected, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_karras_has_unit_variance_input_and_target(process, sigma_data):
    t = torch.linspace(0.01, 1.0, 100, dtype=torch.float64)
    alpha, sigma = process.scales(t)
    c_in, c_skip, c_out = Karras(sigma_data).coefs(alpha, sigma)
    torch.testing.assert_close(c_in**2 * ((alpha * sigma_data) ** 2 + sigma**2), torch.ones_like(t))
    of_x0, of_eps = (1 - c_skip * alpha) / c_out, c_skip * sigma / c_out
    torch.testing.assert_close((of_x0 * sigma_data) ** 2 + of_eps**2, torch.ones_like(t), atol=1e-8, rtol=0)


def test_karras_is_edm_under_variance_exploding():
    sigma = torch.tensor([0.002, 0.1, 1.0, 80.0], dtype=torch.float64)
    c_in, c_skip, c_out = Karras(0.5).coefs(torch.ones_like(sigma), sigma)
    torch.testing.assert_close(c_in, 1 / (sigma**2 + 0.25).sqrt())
    torch.testing.assert_close(c_skip, 0.25 / (sigma**2 + 0.25))
    torch.testing.assert_close(c_out, sigma * 0.5 / (sigma**2 + 0.25).sqrt())


@pytest.mark.parametrize("process", [ZeroTerminal(VP()), Flow(), Tabulated(zero_terminal=True)], ids=lambda p: p.kind)
def test_eps_with_zero_terminal_is_refused_when_built(process):
    with pytest.raises(KakusanError, match="param/eps cannot be used"):
        Denoiser(Zero(), process, Eps(), Flat())
    Denoiser(Zero(), process, V(), Flat())


def test_denoiser_applies_the_coefficients_and_clamps_the_level():
    process, param = VE(), Karras(0.5)
    denoiser = Denoiser(Zero(), process, param, Flat())
    x = torch.randn(2, 1, 4)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    c_in, c_skip, _ = param.coefs(*process.scales(t))
    torch.testing.assert_close(denoiser(x, t), c_skip.float()[:, None, None] * x)
    seen, lam = denoiser.net.seen
    torch.testing.assert_close(seen, c_in.float()[:, None, None] * x)
    assert lam.tolist() == pytest.approx([10.0, -torch.log(torch.tensor(80.0)).item()])
    assert torch.equal(denoiser(x[:1], t[1]), denoiser(x[:1], t[1:]))


def test_denoiser_keeps_padding_empty():
    denoiser = Denoiser(Zero(), Flow(), Velocity(), Flat())
    mask = torch.tensor([[True, True, False]])
    out = denoiser(torch.randn(1, 2, 3), torch.tensor(0.5, dtype=torch.float64), Cond(mask=mask))
    assert torch.equal(out[..., 2], torch.zeros(1, 2))
    assert bool((out[..., :2] != 0).all())


def test_denoiser_refuses_a_tensor_without_a_batch():
    with pytest.raises(KakusanError, match="batch"):
        Denoiser(Zero(), Flow(), V(), Flat())(torch.zeros(3), torch.tensor(0.5, dtype=torch.float64))


def test_sigma_data_must_be_positive():
    with pytest.raises(KakusanError, match="sigma_data"):
        Karras(0.0)
