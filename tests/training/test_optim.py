"""Muon's update is the nearest orthogonal matrix in any memory format; state is exact; a skipped step is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from kakusan.part import KakusanError
from kakusan.training.optim import AdamW, Muon, Optimiser, _gram_steps, _plain_steps, hidden_names, orthogonalise
from kakusan.training.state import flatten_optimiser, restore_optimiser


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Operations this small only lose by sharing."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Toy(nn.Module):
    """Two hidden kernels of one shape, one matrix, and outer layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.one = nn.Conv2d(8, 8, 3, padding=1)
        self.two = nn.Conv2d(8, 8, 3, padding=1)
        self.mix = nn.Conv2d(8, 16, 1)
        self.out = nn.Conv2d(16, 2, 3, padding=1)

    def hidden(self) -> set[str]:
        return {"one.weight", "two.weight", "mix.weight"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.mix(torch.tanh(self.two(torch.tanh(self.one(self.stem(x))))))))


def toy(channels_last: bool = False) -> Toy:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Toy()
    return model.to(memory_format=torch.channels_last) if channels_last else model


def train(model: Toy, optimiser: Optimiser, steps: int, start: int = 0, bad: tuple[int, ...] = ()) -> list[float]:
    losses = []
    for step in range(start, start + steps):
        g = torch.Generator().manual_seed(step)
        x = torch.randn(4, 2, 6, 6, generator=g)
        loss = (model(x) - x.flip(-1)).square().mean()
        loss.backward()
        losses.append(loss.item())
        if step in bad:
            model.one.weight.grad[0, 0, 0, 0] = float("nan")
            model.stem.bias.grad[0] = float("inf")
        finite = torch.stack([p.grad.isfinite().all() for p in model.parameters()]).all()
        optimiser.step(finite=finite)
        optimiser.zero_grad()
    return losses


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 16, 144), (2, 40, 10), (1, 6, 14)])
def test_the_update_is_nearly_orthogonal_and_keeps_singular_vectors(shape: tuple[int, int, int]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u, s, vt = torch.linalg.svd(x, full_matrices=False)
    s = torch.linspace(1, 0.05, s.shape[-1], dtype=torch.float64).expand_as(s)
    y = orthogonalise(u @ torch.diag_embed(s) @ vt)
    inner = u.mT @ y @ vt.mT  # diagonal, within the published band of the quintic
    values = torch.diagonal(inner, dim1=-2, dim2=-1)
    assert (inner - torch.diag_embed(values)).abs().max() < 1e-9
    assert values.min() > 0.65 and values.max() < 1.25


def test_the_published_polynomial_value_by_value() -> None:
    s = torch.tensor([1.0, 0.3, 0.01], dtype=torch.float64)
    expected = s / s.norm()
    for _ in range(5):
        expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
    torch.testing.assert_close(torch.diagonal(orthogonalise(torch.diag(s)[None])[0]), expected, rtol=1e-6, atol=1e-8)


def test_iterating_on_the_gram_matrix_is_the_same_polynomial() -> None:
    x = torch.randn(3, 24, 216, generator=torch.Generator().manual_seed(2))
    x[0] = x[0, :1] * torch.randn(24, 1, generator=torch.Generator().manual_seed(3))  # rank 1: the hardest for fp32
    torch.testing.assert_close(_gram_steps(x, 5, 2.0), 2.0 * _plain_steps(x, 5), rtol=0, atol=5e-5)


def test_under_autocast_it_iterates_in_bf16() -> None:
    x = torch.randn(3, 24, 216, generator=torch.Generator().manual_seed(2))
    exact = orthogonalise(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = orthogonalise(x)
    assert half.dtype is torch.float32
    assert 1e-4 < (half - exact).norm() / exact.norm() < 0.03


def test_zero_gradients_move_nothing() -> None:
    assert orthogonalise(torch.zeros(2, 4, 9)).abs().max() == 0


def test_channels_last_weights_take_the_same_steps() -> None:
    plain, last = toy(), toy(channels_last=True)
    for model in (plain, last):
        train(model, Muon(lr=0.02).build(model), 5)
    assert last.one.weight.is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(plain.parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_one_step_has_the_documented_size() -> None:
    model = toy()
    before = model.mix.weight.detach().clone()
    train(model, Muon(lr=0.01).build(model), 1)
    values = torch.linalg.svdvals((model.mix.weight.detach() - before).flatten(1))
    assert values.min() > 0.6 * 0.01 * 2**0.5 and values.max() < 1.25 * 0.01 * 2**0.5  # (16, 8): factor sqrt(2)


def test_rest_follows_torch_adamw() -> None:
    ours, theirs = toy(), toy()
    train(ours, AdamW(lr=1e-3, decay=0.01).build(ours), 5)
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
    for step in range(5):
        x = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(step))
        (theirs(x) - x.flip(-1)).square().mean().backward()
        reference.step()
        reference.zero_grad()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("settings", [Muon(decay=0.01), AdamW()])
def test_a_step_that_is_not_finite_changes_nothing(settings: Muon | AdamW) -> None:
    model = toy()
    optimiser = settings.build(model)
    train(model, optimiser, 3)
    weights = [p.detach().clone() for p in model.parameters()]
    state = {k: v.clone() for k, v in flatten_optimiser(optimiser)[0].items()}
    train(model, optimiser, 1, start=3, bad=(3,))
    for a, b in zip(weights, model.parameters(), strict=True):
        assert torch.equal(a, b)
    for name, value in flatten_optimiser(optimiser)[0].items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("settings", [Muon(), AdamW()])
def test_state_restores_exactly(settings: Muon | AdamW, channels_last: bool) -> None:
    straight = toy(channels_last)
    train(straight, settings.build(straight), 6)
    model = toy(channels_last)
    optimiser = settings.build(model)
    train(model, optimiser, 3)
    tensors, plain = flatten_optimiser(optimiser)
    tensors = {k: v.clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}  # as a file holds them
    fresh = toy(channels_last)
    fresh.load_state_dict(model.state_dict())
    again = settings.build(fresh)
    restore_optimiser(again, tensors, plain)
    train(fresh, again, 3, start=3)
    for a, b in zip(straight.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_state_that_does_not_fit_is_refused() -> None:
    optimiser = Muon().build(toy())
    tensors, plain = flatten_optimiser(optimiser)
    tensors.popitem()
    with pytest.raises(KakusanError, match="does not fit"):
        restore_optimiser(optimiser, tensors, plain)


def test_muon_learns_faster_than_its_rest_alone() -> None:
    losses = {}
    for settings in (Muon(lr=0.02, lr_rest=3e-3), AdamW(lr=3e-3)):
        model = toy()
        losses[settings.kind] = sum(train(model, settings.build(model), 60)[-10:])
    assert losses["optim/muon"] < losses["optim/adamw"]


def test_hidden_names_come_from_the_network_or_are_all_but_the_outer_matrices() -> None:
    assert hidden_names(toy()) == {"one.weight", "two.weight", "mix.weight"}
    plain = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    assert hidden_names(plain) == {"1.weight"}


def test_frozen_parameters_are_left_out() -> None:
    model = toy()
    model.one.requires_grad_(False)
    optimiser = Muon().build(model)
    assert all(p is not model.one.weight for g in optimiser.param_groups for p in g["params"])


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"lr_rest": -1.0}, {"iterations": 0}])
def test_bad_settings_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(KakusanError, match=next(iter(wrong))):
        Muon(**wrong)


def test_spec_round_trip() -> None:
    assert Muon(lr=0.01).spec()["kind"] == "optim/muon"
    spec = AdamW(betas=[0.8, 0.9]).spec()
    assert AdamW(**{k: v for k, v in spec.items() if k != "kind"}).spec() == spec
