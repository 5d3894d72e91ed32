"""Stable targets: the posterior mean over a reference, by closed forms and by what the loss becomes."""

import math

import torch

from kakusan.conditions.label import Label
from kakusan.core.batch import Batch, Cond
from kakusan.core.denoiser import Denoiser, Net
from kakusan.core.model import Model
from kakusan.core.objective import EDM, Denoising, LogNormal
from kakusan.core.param import Karras
from kakusan.core.process import VE, VP, Flow
from kakusan.core.rng import Rng
from kakusan.core.space import Flat
from kakusan.core.target import matches, stable


def test_two_points_give_the_logistic_posterior():
    """For data at +-1 and equal priors, E[x0 | x_t] = tanh(alpha x_t / sigma^2) in one dimension."""
    alpha = torch.tensor([1.0, 0.6, 0.0], dtype=torch.float64)
    sigma = torch.tensor([1.3, 0.8, 1.0], dtype=torch.float64)
    x_t = torch.tensor([0.7, -0.2, 2.0]).reshape(3, 1, 1)
    x0, reference = torch.ones(3, 1, 1), -torch.ones(1, 1, 1)
    expected = torch.tanh(alpha * x_t.reshape(3) / sigma**2)
    assert torch.allclose(stable(x0, x_t, alpha, sigma, reference).reshape(3).double(), expected, atol=1e-6)


def test_against_the_sum_written_out():
    generator = torch.Generator().manual_seed(0)
    x0, reference = torch.randn(5, 2, 3, 3, generator=generator), torch.randn(40, 2, 3, 3, generator=generator)
    alpha, sigma = torch.rand(5, generator=generator).double(), torch.rand(5, generator=generator).double() * 3 + 1
    x_t = alpha.float().view(-1, 1, 1, 1) * x0 + sigma.float().view(-1, 1, 1, 1) * torch.randn_like(x0)
    match = torch.rand(5, 40, generator=generator) < 0.5
    for row, mean in enumerate(stable(x0, x_t, alpha, sigma, reference, match)):
        points = torch.cat([x0[row : row + 1], reference[match[row]]]).double()
        squares = (x_t[row].double() - alpha[row] * points).square().flatten(1).sum(1)
        weights = torch.softmax(-squares / (2 * sigma[row] ** 2), 0)
        assert torch.allclose(mean.double(), (weights.view(-1, 1, 1, 1) * points).sum(0), atol=1e-5)


def test_a_row_without_a_match_and_a_row_with_little_noise_keep_their_picture():
    x0, reference = torch.randn(2, 1, 8, 8), torch.randn(30, 1, 8, 8)
    alpha, sigma = torch.ones(2, dtype=torch.float64), torch.tensor([50.0, 0.05], dtype=torch.float64)
    match = torch.stack([torch.zeros(30, dtype=torch.bool), torch.ones(30, dtype=torch.bool)])
    x_t = x0 + sigma.float().view(2, 1, 1, 1) * torch.randn_like(x0)
    assert torch.allclose(stable(x0, x_t, alpha, sigma, reference, match), x0, atol=1e-6)


class Nothing(Net):
    """A network that says zero, so that the loss is the target's square."""

    kind = "test/nothing"

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, lam, cond: Cond):
        return x * self.scale


def model(process=None, encoders=None) -> Model:
    return Model(Denoiser(Nothing(), process or VE(), Karras(1.0), Flat()), encoders=encoders)


def data(count: int, classes: int = 0) -> tuple[torch.Tensor, dict]:
    generator = torch.Generator().manual_seed(count)
    inputs = {"label": {"index": torch.arange(count) % classes}} if classes else {}
    return torch.randn(count, 1, 6, 6, generator=generator), inputs


def losses(process, mean: float, reference: Batch | None, classes: int = 0) -> torch.Tensor:
    encoders = {"label": Label(classes, 4)} if classes else None
    x0, inputs = data(64, classes)
    objective = Denoising(LogNormal(mean, 0.1), EDM(1.0), dropout=0.0)
    batch = Batch(x0, inputs=inputs, reference=reference)
    return objective.loss(model(process, encoders), batch, Rng(range(64)), 3)


def test_at_high_noise_the_targets_variance_goes_and_at_low_noise_nothing_changes():
    x0, _ = data(500)
    for process in (VE(), VP(), Flow()):
        high = math.log(20.0)
        plain, steady = (losses(process, high, r) for r in (None, Batch(x0)))
        assert steady.mean() < 0.3 * plain.mean()  # the mean over 500 draws of unit variance is near zero
        assert torch.equal(losses(process, -3.0, None), losses(process, -3.0, Batch(x0)))


def test_the_mean_target_over_many_draws_is_the_same():
    """What is learned does not change: the gradient's mean with and without reference agrees within its noise."""
    pool = torch.randn(4000, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    alpha, sigma = torch.ones(1000, dtype=torch.float64), torch.full((1000,), 3.0, dtype=torch.float64)
    x0, reference = pool[:1000], pool[1000:]
    x_t = x0 + 3 * torch.randn(x0.shape, generator=torch.Generator().manual_seed(2))
    steady = stable(x0, x_t, alpha, sigma, reference)
    # for unit Gaussian data E[x0 | x_t] = x_t / (1 + sigma^2): both regress to it, the steady one with less noise
    exact = x_t / 10
    slope = [(t * x_t).sum() / x_t.square().sum() for t in (x0, steady)]
    assert all(abs(s - 0.1) < 0.01 for s in slope)
    assert (steady - exact).square().mean() < 0.25 * (x0 - exact).square().mean()


def test_only_pictures_of_the_same_class_are_mixed():
    x0, inputs = data(300, 3)
    encoders = {"label": Label(3, 4)}
    batch, reference = Batch(*_first(x0, inputs, 6)), Batch(x0, inputs=inputs)
    keep = {"label": torch.tensor([True, True, True, True, True, False])}
    found = matches(model(encoders=encoders), batch, reference, keep)
    assert found is not None
    assert torch.equal(found[:5], inputs["label"]["index"][:5, None] == inputs["label"]["index"])
    assert found[5].all()  # its label was left out: any picture may have been the one


def _first(x0, inputs, count):
    return x0[:count], None, {n: {k: v[:count] for k, v in given.items()} for n, given in inputs.items()}


def test_a_condition_that_can_not_be_compared_gives_plain_targets():
    x0, _ = data(64, 3)
    assert torch.equal(losses(VE(), 3.0, None, 3), losses(VE(), 3.0, Batch(x0), 3))  # the reference has no labels
