"""Adapters: nothing at first, exactly a low-rank change, the same merged as beside, and no more than that."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kakusan.core.batch import Cond
from kakusan.nets.dit import DiT
from kakusan.nets.lora import LoRA, factors, merge
from kakusan.nets.unet import UNet
from kakusan.part import KakusanError

NETS = {
    "unet": lambda: UNet(2, width=8, mults=[1, 2], blocks=1, attention=[1], heads=2, tokens=6),
    "unet-1d": lambda: UNet(2, dims=1, width=8, mults=[1, 2], blocks=1, attention=[], heads=2),
    "dit": lambda: DiT(2, patch=2, width=16, depth=1, heads=2, tokens=6),
}


def net(name: str) -> nn.Module:
    """A network none of whose weights is zero, so that every layer counts."""
    torch.manual_seed(0)
    made = NETS[name]().eval()
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(0.2 * torch.randn(p.shape))
    return made


def inputs(name: str):
    sides = (8,) if name == "unet-1d" else (8, 8)
    tokens = None if name == "unet-1d" else torch.randn(3, 4, 6)
    return torch.randn(3, 2, *sides), torch.tensor([-1.0, 0.0, 2.0]), Cond(tokens=tokens)


def learnt(made: nn.Module) -> None:
    """As if trained: both factors are something."""
    with torch.no_grad():
        for value in factors(made).values():
            value.copy_(0.1 * torch.randn(value.shape))


@pytest.mark.parametrize("name", NETS)
def test_a_fresh_adapter_changes_no_bit_and_a_merged_one_is_the_trained_one(name):
    plain, given = net(name), inputs(name)
    before = plain(*given)
    adapted = copy.deepcopy(plain)
    count = LoRA(3, alpha=6.0).attach(adapted)
    assert torch.equal(adapted(*given), before)
    trained = [p for p in adapted.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == count == sum(t.numel() for t in factors(adapted).values())
    assert {f"{key.rpartition('.')[0]}.weight" for key in factors(adapted)} == plain.hidden()
    learnt(adapted)
    after = copy.deepcopy(adapted)(*given)
    assert not torch.allclose(after, before, atol=1e-3)
    merged = copy.deepcopy(plain)
    merge(merged, factors(adapted), 6.0 / 3)
    assert torch.allclose(merged(*given), after, atol=1e-5)
    for key, value in merged.state_dict().items():
        difference = (value - plain.state_dict()[key]).flatten(1) if value.ndim > 1 else value - plain.state_dict()[key]
        if value.ndim == 1:
            assert not difference.any(), key
        else:
            assert torch.linalg.matrix_rank(difference, rtol=1e-3) <= 3, key


def test_weights_on_adapters_are_linear_and_zero_is_nothing():
    plain = net("unet")
    pairs = []
    for _ in range(2):
        adapted = copy.deepcopy(plain)
        LoRA(2).attach(adapted)
        learnt(adapted)
        pairs.append(factors(adapted))
    none, both, one = (copy.deepcopy(plain) for _ in range(3))
    merge(none, pairs[0], 0.0)
    assert all(torch.equal(a, b) for a, b in zip(none.parameters(), plain.parameters(), strict=True))
    merge(both, pairs[0], 0.8)
    merge(both, pairs[1], 0.5)
    merge(one, pairs[1], 0.5)
    merge(one, pairs[0], 0.8)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(both.parameters(), one.parameters(), strict=True))
    merge(both, pairs[1], -0.5)
    merge(both, pairs[0], -0.8)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(both.parameters(), plain.parameters(), strict=True))


def test_training_moves_only_the_adapter_and_finds_a_change_of_its_rank():
    torch.manual_seed(1)
    layer = nn.Sequential(nn.Linear(6, 5))
    target = layer[0].weight.detach() + torch.outer(torch.randn(5), torch.randn(6))
    frozen = {k: v.clone() for k, v in layer.state_dict().items()}
    LoRA(1).attach(layer)
    optimiser = torch.optim.Adam([p for p in layer.parameters() if p.requires_grad], lr=0.03)
    x = torch.randn(64, 6)
    wanted = x @ target.T + frozen["0.bias"]
    for _ in range(600):
        loss = (layer(x) - wanted).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert loss < 1e-6
    assert torch.equal(layer[0].parametrizations.weight.original, frozen["0.weight"])
    assert torch.equal(layer[0].bias, frozen["0.bias"])


def test_what_does_not_fit_is_named():
    adapted = net("unet")
    LoRA(2).attach(adapted)
    pairs = factors(adapted)
    other = net("dit")
    with pytest.raises(KakusanError, match="fits no layer"):
        merge(other, pairs, 1.0)
    name = next(iter(pairs))
    with pytest.raises(KakusanError, match="the layer is not"):
        merge(net("unet"), {k: v[:, :-1] if k == name else v for k, v in pairs.items()}, 1.0)
    with pytest.raises(KakusanError, match="rank=0"):
        LoRA(0)
    with pytest.raises(KakusanError, match="alpha=-1"):
        LoRA(4, alpha=-1)
    with pytest.raises(KakusanError, match="train it in full"):
        LoRA(4).attach(nn.Sequential(nn.ReLU()))
