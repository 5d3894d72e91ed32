"""Autoencoding: its terms against what they are by definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kakusan.core.autoencoder import Autoencoder, Autoencoding, divergence, drawn
from kakusan.core.batch import Batch
from kakusan.core.rng import Rng
from kakusan.part import KakusanError


class Even(Autoencoder):
    """Keeps the mean of every 2 x 2 pixels."""

    kind = "test/even"

    def __init__(self) -> None:
        super().__init__()
        self.channels = self.latent = 1
        self.factor = 2
        self.gain = nn.Parameter(torch.ones(()))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = nn.functional.avg_pool2d(x, 2) * self.gain
        return mean, torch.full_like(mean, -50.0)

    def decode(self, z: Tensor) -> Tensor:
        return z.repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_the_divergence_is_that_of_the_distributions():
    mean, logvar = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    told = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (logvar / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    )
    assert torch.allclose(divergence(mean, logvar), told.flatten(1).mean(1), atol=1e-6)


def test_draws_have_the_distribution_and_do_not_depend_on_the_batch():
    mean, logvar = torch.full((200, 2, 8, 8), 3.0), torch.full((200, 2, 8, 8), -2.0)
    z = drawn(mean, logvar, Rng(range(200)), 5)
    assert abs(float(z.mean()) - 3) < 0.01 and abs(float(z.var()) - 2.718281828**-2) < 0.005
    assert torch.equal(drawn(mean[7:9], logvar[7:9], Rng([7, 8]), 5), z[7:9])
    assert not torch.equal(drawn(mean, logvar, Rng(range(200)), 6), z)


def test_hubers_loss_over_its_bend():
    far, near = torch.full((1, 1, 4, 4), 0.5), torch.full((1, 1, 4, 4), 0.01)
    loss = Autoencoding(bend=0.1)
    assert float(loss.distance(far)) == pytest.approx(0.5 - 0.05)  # even errors have no gradient term
    assert float(loss.distance(near)) == pytest.approx(0.01**2 / 0.2)


def test_the_gradient_term_is_of_differences_between_neighbours():
    error = torch.tensor([[0.0, 1.0], [0.0, 1.0]])[None, None]
    plain, more = Autoencoding(gradient=0, bend=0.1), Autoencoding(gradient=2, bend=0.1)
    assert float(more.distance(error) - plain.distance(error)) == pytest.approx(2 * (1 - 0.05))


def test_coverage_counts_what_shows_over_black_and_over_white():
    """The same error in colour and alpha shows over black only; one in colour alone over both."""
    loss = Autoencoding(gradient=0, bend=0.1, coverage=True)
    both, colour = torch.full((1, 4, 2, 2), 0.5), torch.full((1, 4, 2, 2), 0.5)
    colour[:, 3] = 0
    size = 0.5 - 0.05
    assert float(loss.distance(both)) == pytest.approx(size * 4 / 7)
    assert float(loss.distance(colour)) == pytest.approx(size * 6 / 7)


def test_the_loss_of_a_picture_that_comes_back_is_its_divergence():
    net, x = Even(), torch.randn(5, 1, 2, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    loss, lam = Autoencoding(kl=0.5).terms(net, Batch(x), Rng(range(5)), 0)
    mean, logvar = net.encode(x)
    assert torch.allclose(loss, 0.5 * divergence(mean, logvar), atol=1e-6)
    assert lam.shape == (5,) and lam.dtype == torch.float64


def test_bad_input():
    for arguments, said in (({"kl": -1}, "kl=-1"), ({"gradient": -1}, "gradient=-1"), ({"bend": 0}, "bend=0")):
        with pytest.raises(KakusanError, match=said):
            Autoencoding(**arguments)
    with pytest.raises(KakusanError, match="trains an autoencoder, not a Linear"):
        Autoencoding().terms(nn.Linear(1, 1), Batch(torch.zeros(1, 1, 2, 2)), Rng([0]), 0)
