"""The convolutional autoencoder: shapes, what it refuses, who moves its weights, that it moves with its input."""

from __future__ import annotations

import pytest
import torch

from kakusan.nets.autoencoder import ConvAutoencoder
from kakusan.part import KakusanError
from kakusan.training.optim import Muon


@pytest.mark.parametrize("channels, latent, factor, size", [(1, 4, 4, (8, 8)), (3, 16, 2, (6, 4)), (4, 8, 8, (8, 16))])
def test_shapes(channels, latent, factor, size):
    net = ConvAutoencoder(channels, latent, factor, width=8)
    mean, logvar = net.encode(torch.randn(2, channels, *size))
    assert mean.shape == logvar.shape == (2, latent, *(n // factor for n in size))
    assert net.decode(mean).shape == (2, channels, *size)


def test_every_weight_gets_a_gradient_once_the_branches_have_opened():
    net = ConvAutoencoder(3, 4, 4, width=8)
    for block in net.modules():
        if hasattr(block, "second"):
            torch.nn.init.normal_(block.second.weight, std=0.1)
    mean, logvar = net.encode(torch.randn(2, 3, 8, 8))
    net.decode(mean + (logvar / 2).exp()).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters())


def test_muon_moves_what_is_between_first_and_last_layers():
    net = ConvAutoencoder(3, 4, 4, width=8)
    outer = ("enter", "moments", "leave", "paint")
    assert net.hidden() == {n for n, p in net.named_parameters() if p.ndim == 4 and not n.startswith(outer)}
    assert [len(group["params"]) for group in Muon().build(net).param_groups] == [
        len(net.hidden()),
        len(list(net.parameters())) - len(net.hidden()),
    ]


def test_a_picture_moved_by_the_factor_has_its_latent_moved_by_one():
    """Far from the borders: convolutions, and nothing that looks at the whole picture."""
    net = ConvAutoencoder(1, 4, 4, width=8, blocks=0)
    x = torch.zeros(1, 1, 64, 64)
    x[..., 28:36, 28:36] = torch.randn(8, 8)
    here, there = (net.encode(v)[0] for v in (x, x.roll(4, 3)))
    assert torch.allclose(here.roll(1, 3)[..., 4:12, 4:12], there[..., 4:12, 4:12], atol=1e-6)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"factor": 3}, "factor=3"),
        ({"latent": 0}, "latent=0"),
        ({"width": 0}, "width=0"),
        ({"blocks": -1}, "blocks=-1"),
    ],
)
def test_arguments_that_make_no_network(arguments, said):
    with pytest.raises(KakusanError, match=said):
        ConvAutoencoder(**arguments)


def test_what_it_was_not_built_for_is_refused():
    net = ConvAutoencoder(3, 4, 4, width=8)
    for x, said in ((torch.randn(1, 4, 8, 8), r"\(batch, 3, H, W\)"), (torch.randn(1, 3, 8, 6), "multiples of 4")):
        with pytest.raises(KakusanError, match=said):
            net.encode(x)
    with pytest.raises(KakusanError, match=r"decodes \(batch, 4, h, w\)"):
        net.decode(torch.randn(1, 3, 8, 8))
