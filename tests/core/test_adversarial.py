"""Losses against written-out values, penalties against finite differences, augmentation that moves both alike."""

from __future__ import annotations

import math

import pytest
import torch

from kakusan.core.adversarial import losses, moved, penalties
from kakusan.core.rng import Rng
from kakusan.nets.gan import Conv, Discriminator, towards_input

REAL, FAKE = torch.tensor([2.0, -1.0], dtype=torch.float64), torch.tensor([0.5, 3.0], dtype=torch.float64)


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


def test_the_losses_are_their_formulas():
    d, g = losses("relativistic", REAL, FAKE)
    assert d.tolist() == pytest.approx([softplus(-(2.0 - 0.5)), softplus(-(-1.0 - 3.0))], rel=1e-12)
    assert g.tolist() == pytest.approx([softplus(2.0 - 0.5), softplus(-1.0 - 3.0)], rel=1e-12)
    d, g = losses("non-saturating", REAL, FAKE)
    assert d.tolist() == pytest.approx([softplus(-2.0) + softplus(0.5), softplus(1.0) + softplus(3.0)], rel=1e-12)
    assert g.tolist() == pytest.approx([softplus(-0.5), softplus(-3.0)], rel=1e-12)


def judge() -> Discriminator:
    """A small discriminator in float64 whose residual branches are awake."""
    torch.manual_seed(0)
    net = Discriminator(2, [12, 10], widths=[16, 8], blocks=1, unshuffle=2, classes=3).double()
    for name, p in net.named_parameters():
        if name.endswith("out.weight"):
            torch.nn.init.normal_(p, 0, 0.3)
    return net


def test_penalties_are_squared_gradients():
    net, label = judge(), torch.tensor([0, 2])
    x = torch.randn(2, 2, 12, 10, dtype=torch.float64, requires_grad=True)
    found = penalties(net(x, label), x)
    step, slopes = 1e-6, torch.zeros_like(x)
    with torch.no_grad():
        for at in range(x[0].numel()):
            nudge = torch.zeros_like(x).reshape(2, -1)
            nudge[:, at] = step
            up, down = (net(x + s * nudge.reshape(x.shape), label) for s in (1, -1))
            slopes.reshape(2, -1)[:, at] = (up - down) / (2 * step)
    assert found.double().tolist() == pytest.approx(slopes.square().flatten(1).sum(1).tolist(), rel=1e-5)


def test_the_penalty_s_own_gradient_is_exact():
    """Against finite differences of the penalty, in every weight that matters and with the short way of ``Conv``."""
    net, label = judge(), torch.tensor([0, 2])
    x = torch.randn(2, 2, 12, 10, dtype=torch.float64, requires_grad=True)

    def penalty() -> torch.Tensor:
        (gradient,) = torch.autograd.grad(net(x, label).sum(), x, create_graph=True)
        return gradient.square().sum()

    with towards_input():
        value = penalty()
    value.backward()
    checked = 0
    for p in net.parameters():
        if p.grad is None or not p.grad.abs().max():
            continue  # biases behind the last kink: the penalty does not depend on them
        at = int(p.grad.abs().argmax())
        flat, slope = p.data.reshape(-1) if p.is_contiguous() else None, p.grad.reshape(-1)[at]
        if flat is None:
            continue
        values = []
        for step in (1e-6, -1e-6):
            flat[at] += step
            values.append(float(penalty().detach()))
            flat[at] -= step
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(float(slope), rel=1e-4)
        checked += 1
    assert checked >= 8


@pytest.mark.parametrize(("kernel", "groups", "bias"), [(1, 1, True), (3, 2, True), (3, 1, False)])
def test_a_conv_differentiates_twice_as_the_built_in_one(kernel, groups, bias):
    torch.manual_seed(0)
    ours = Conv(4, 6, kernel, groups=groups, bias=bias).double()
    theirs = torch.nn.Conv2d(4, 6, kernel, padding=kernel // 2, groups=groups, bias=bias).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    grads = []
    for conv in (ours, theirs):
        y = x.clone().requires_grad_(True)
        with towards_input():
            (first,) = torch.autograd.grad(conv(y).pow(3).sum(), y, create_graph=True)
        (first.square().sum() + conv(y).sum()).backward()
        grads.append([y.grad, *(p.grad for p in conv.parameters())])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_pictures_are_moved_and_cut_by_their_own_seeds():
    x = torch.arange(1.0, 257.0).reshape(1, 1, 16, 16).repeat(3, 1, 1, 1)
    out = moved(x, Rng([5, 6, 5]))
    assert torch.equal(out[0], out[2]) and not torch.equal(out[0], out[1])
    assert set(out.unique().tolist()) <= {0.0, *range(1, 257)}
    kept = (out[0] != 0).float().mean()
    assert 0.4 < kept < 0.97
    row, column = (int(v) for v in (out[0, 0] != 0).nonzero()[-1])
    shift = int(out[0, 0, row, column]) - 1 - (16 * row + column)
    values = out[0, 0][out[0, 0] != 0] - 1
    places = (out[0, 0] != 0).nonzero()
    assert torch.equal(values.long(), 16 * places[:, 0] + places[:, 1] + shift)  # one shift for the whole picture
