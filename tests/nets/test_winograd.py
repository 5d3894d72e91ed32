"""Winograd's filtering: what the direct convolution gives, both ways, and only where it can pay."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kakusan.nets import winograd
from kakusan.nets.unet import UNet

WIDE = winograd.CHANNELS


@pytest.mark.parametrize("height, width", [(4, 4), (8, 8), (16, 12), (7, 9), (5, 16), (1, 1)])
@pytest.mark.parametrize("channels, results, biased", [(3, 5, True), (16, 16, False)])
def test_values_and_gradients_are_those_of_the_direct_one(height, width, channels, results, biased, monkeypatch):
    monkeypatch.setattr(winograd, "TILES", 5)  # several pictures at a time, and not as many the last time
    torch.manual_seed(0)
    x = torch.randn(7, channels, height, width).to(memory_format=torch.channels_last).requires_grad_()
    weight = (torch.randn(results, channels, 3, 3) / 3 / channels**0.5).requires_grad_()
    bias = torch.randn(results).requires_grad_() if biased else None
    given = [p for p in (x, weight, bias) if p is not None]
    made = winograd.conv3x3(x, weight, bias)
    away = torch.randn_like(made)
    grads = torch.autograd.grad(made, given, away)
    exact = [p.detach().double().requires_grad_() for p in given]
    wanted = F.conv2d(*exact, padding=1)
    assert made.shape == wanted.shape and made.is_contiguous(memory_format=torch.channels_last)
    for mine, true in zip(
        (made.detach(), *grads), (wanted.detach(), *torch.autograd.grad(wanted, exact, away.double())), strict=True
    ):
        assert float((mine - true).abs().max()) <= 5e-5 * float(true.abs().max())


def test_only_the_gradients_that_are_wanted_are_made():
    x, weight = torch.randn(2, 3, 4, 4), torch.randn(3, 3, 3, 3, requires_grad=True)
    winograd.conv3x3(x, weight, None).sum().backward()
    assert x.grad is None and weight.grad is not None
    x.requires_grad_()
    (slope,) = torch.autograd.grad(winograd.conv3x3(x, weight.detach(), None).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_wide_plain_3x3_layers_are_taken_and_the_others_stay():
    plain = nn.Conv2d(WIDE, WIDE, 3, padding=1)
    others = [
        nn.Conv2d(WIDE, WIDE - 1, 3, padding=1),
        nn.Conv2d(WIDE, WIDE, 3, stride=2, padding=1),
        nn.Conv2d(WIDE, WIDE, 3),
        nn.Conv2d(WIDE, WIDE, 1),
        nn.Conv2d(WIDE, WIDE, 3, padding=1, groups=2),
        nn.Conv2d(WIDE, WIDE, 3, padding=1, padding_mode="circular"),
        nn.Conv3d(WIDE, WIDE, 3, padding=1),
    ]
    net = nn.ModuleList([plain, *others])
    names = list(net.state_dict())
    assert winograd.layers(net) == [plain]
    assert winograd.install(net) is net and list(net.state_dict()) == names
    assert type(plain) is winograd._Winograd and all(type(m) in (nn.Conv2d, nn.Conv3d) for m in others)
    assert winograd.layers(net) == [plain]


@pytest.mark.parametrize("case", ["plain", "no gradient", "bf16", "double", "ragged"])
def test_it_is_for_float32_at_sizes_that_tiles_fill(case, monkeypatch):
    calls = []
    honest = winograd.conv3x3
    monkeypatch.setattr(winograd, "conv3x3", lambda *given: calls.append(1) or honest(*given))
    conv = nn.Conv2d(WIDE, WIDE, 3, padding=1)
    direct = copy.deepcopy(conv)
    winograd.install(conv)
    x = torch.randn(2, WIDE, *((7, 7) if case == "ragged" else (8, 8)))
    if case == "double":
        conv, direct, x = conv.double(), direct.double(), x.double()
    with torch.set_grad_enabled(case != "no gradient"), torch.autocast("cpu", torch.bfloat16, case == "bf16"):
        made, wanted = conv(x), direct(x)
    assert bool(calls) == (case in ("plain", "no gradient"))
    assert torch.allclose(made, wanted, atol=1e-4) and (calls or torch.equal(made, wanted))


def test_a_network_with_it_learns_as_one_without():
    torch.manual_seed(0)
    net = UNet(3, width=WIDE, mults=[1, 1], blocks=1, attention=[], unshuffle=2)
    for p in net.parameters():
        nn.init.normal_(p, std=0.05)
    other = copy.deepcopy(net)
    assert len(winograd.layers(winograd.install(other))) == 8
    from kakusan.core.batch import Cond

    x, lam = torch.randn(4, 3, 32, 32), torch.zeros(4)
    losses = []
    for each in (net, other):
        loss = each(x, lam, Cond()).square().mean()
        loss.backward()
        losses.append(float(loss.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for (name, mine), true in zip(other.named_parameters(), net.parameters()):
        assert (mine.grad is None) == (true.grad is None)
        if true.grad is not None:
            assert float((mine.grad - true.grad).norm()) <= 1e-4 * float(true.grad.norm()) + 1e-7, name
