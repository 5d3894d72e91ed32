"""Pictures as conditions: what is drawn belongs to its sample, null is what dropping gives, and the truth is learnt."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kakusan.conditions.spatial import LowResolution, Map, Mask, Source
from kakusan.conditions.strokes import edges, holes
from kakusan.core.batch import Batch, Cond
from kakusan.core.denoiser import Denoiser, Net
from kakusan.core.model import Encoder, Model
from kakusan.core.objective import Denoising, EpsUniform, LogNormal
from kakusan.core.param import X0
from kakusan.core.process import VE
from kakusan.core.rng import Rng
from kakusan.core.space import Flat
from kakusan.part import KakusanError


def pictures(count: int, channels: int = 3, side: int = 16) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


ENCODERS = [LowResolution(3, 4, dim=8), Mask(3), Map("L", edges=True)]


@pytest.fixture(params=ENCODERS, ids=lambda e: e.kind)
def encoder(request) -> Encoder:
    made = request.param
    torch.manual_seed(0)
    for p in made.parameters():
        nn.init.normal_(p)
    return made


def test_what_is_drawn_belongs_to_its_sample(encoder):
    x0, rng = pictures(5), Rng([11, 12, 13, 14, 15])
    whole = encoder.draw(x0, {}, rng)
    for i in range(5):
        alone = encoder.draw(x0[i : i + 1], {}, rng.subset([i]))
        assert all(torch.equal(alone[name][0], whole[name][i]) for name in whole)
    other = encoder.draw(x0, {}, Rng([1, 2, 3, 4, 5]))
    assert isinstance(encoder, Map) or any(not torch.equal(other[n], whole[n]) for n in whole)


def test_a_dropped_condition_is_no_condition(encoder):
    x0 = pictures(3)
    drawn = encoder.draw(x0, {}, Rng([1, 2, 3]))
    mixed = encoder(drawn, torch.tensor([True, False, True]))
    null = encoder(encoder.null(3), torch.ones(3, dtype=torch.bool)).over((16, 16))
    assert null.field.shape == mixed.field.shape == (3, type(encoder).field(encoder.spec()), 16, 16)
    torch.testing.assert_close(mixed.field[1], null.field[1])
    assert not torch.allclose(mixed.field[0], null.field[0])
    if null.vector is not None:
        torch.testing.assert_close(mixed.vector[1], null.vector[1])


def test_low_resolution_is_area_means_under_noise_of_the_level_that_it_tells():
    low, x0 = LowResolution(4, 4, most=0.8), pictures(64, 4, 32)
    drawn = low.draw(x0, {}, Rng(range(64)))
    noise = drawn["low"] - x0.unflatten(2, (8, 4)).unflatten(4, (8, 4)).mean((3, 5))
    torch.testing.assert_close(noise.flatten(1).std(1), drawn["level"], atol=0.03, rtol=0.15)
    assert float(drawn["level"].min()) >= 0 and 0.6 < float(drawn["level"].max()) <= 0.8


def test_what_users_give_is_what_training_draws(encoder):
    x0, keep = pictures(2), torch.ones(2, dtype=torch.bool)
    drawn = encoder.draw(x0, {}, Rng([3, 4]))
    if isinstance(encoder, LowResolution):
        values = [(drawn["low"][i], float(drawn["level"][i])) for i in range(2)]
    elif isinstance(encoder, Mask):
        values = [(x0[i], drawn["hole"][i]) for i in range(2)]
    else:
        values = list(drawn["map"])
    torch.testing.assert_close(encoder(encoder.prepare(values), keep).field, encoder(drawn, keep).field)


def test_holes_are_of_every_kind():
    hole = holes(Rng(range(600)), 24, 32)
    share = hole.mean((1, 2, 3))
    assert hole.shape == (600, 1, 24, 32) and set(hole.unique().tolist()) == {0.0, 1.0}
    assert 0.01 < float((share == 0).float().mean()) < 0.06
    assert 0.03 < float((share == 1).float().mean()) < 0.12
    assert 0.13 < float((share == 0.5).float().mean()) < 0.28
    assert 0.2 < float(share.mean()) < 0.5


def test_edges_are_where_pictures_change():
    x = torch.full((1, 3, 8, 8), -1.0)
    x[:, 1, :, 4:] = 1
    found = edges(x)
    assert found.shape == (1, 1, 8, 8)
    assert torch.equal(found[0, 0, 3], torch.tensor([-1.0, -1, -1, 1, 1, -1, -1, -1]))
    torch.testing.assert_close(edges(x.flip(3)), found.flip(3))


def test_conditions_side_by_side_take_each_others_size():
    joint = Cond.merge([Cond(field=torch.zeros(2, 1, 4, 6)), Cond(field=torch.ones(2, 2, 1, 1))])
    assert joint.field.shape == (2, 3, 4, 6) and bool((joint.field[:, 1:] == 1).all())
    assert joint.within(slice(1, 3), slice(0, 4)).field.shape == (2, 3, 2, 4)


class Linear(Net):
    """F = W [x, field, 1], over all pixels."""

    kind = "test/linear"

    def __init__(self, pixels: int, field: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(pixels, pixels + field))

    def forward(self, x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
        return (torch.cat([x.flatten(1), cond.field.flatten(1)], 1) @ self.weight.T).reshape(x.shape)


def test_a_linear_network_learns_the_exact_posterior_of_a_gaussian():
    """x0 ~ N(0, C) seen as x0 + sigma eps and as means of 2 x 2 pixels: what least squares finds is the posterior."""
    side, sigma = 4, 0.7
    place = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    cov = torch.exp(-torch.cdist(place, place).square() / 4) + 0.05 * torch.eye(side * side)
    root = torch.linalg.cholesky(cov)
    low = LowResolution(1, 2, dim=1, most=1e-6, level=0.0)
    model = Model(Denoiser(Linear(16, 16), VE(), X0(), Flat()), encoders={"low": low})
    task = Denoising(LogNormal(torch.tensor(sigma).log().item(), 1e-6), EpsUniform(), dropout=0.0)
    optimiser = torch.optim.Adam([model.denoiser.net.weight], 0.02)
    for step in range(300):
        draws = Rng([1000 * step + i for i in range(128)])
        x0 = (draws.normal([(16,)] * 128, "x0") @ root.T).reshape(-1, 1, side, side)
        for group in optimiser.param_groups:
            group["lr"] = 0.02 * (1 - step / 300)
        optimiser.zero_grad()
        task.loss(model, Batch(x0), draws, step).mean().backward()
        optimiser.step()
    draws = Rng(range(500))
    x0 = draws.normal([(16,)] * 500, "x0") @ root.T
    x_t = x0 + sigma * draws.normal([(16,)] * 500, "eps")
    pooled = torch.nn.functional.avg_pool2d(torch.eye(16).reshape(16, 1, side, side), 2).flatten(1).T  # (4, 16)
    seen = torch.cat([torch.eye(16), pooled])
    noise = torch.diag(torch.cat([torch.full((16,), sigma**2), torch.full((4,), 1e-8)]))
    gain = cov @ seen.T @ torch.linalg.inv((seen @ cov @ seen.T + noise).double()).float()
    exact = torch.cat([x_t, x0 @ pooled.T], 1) @ gain.T
    small = x0.reshape(-1, 1, side, side)
    value = [(low.small(small)[i], 0.0) for i in range(500)]
    cond = model.cond({"low": low.prepare(value)}, {}, 500)
    t = model.denoiser.process.time(-torch.tensor(sigma, dtype=torch.float64).log())
    with torch.no_grad():
        found = model.denoiser(x_t.reshape(-1, 1, side, side), t, cond).flatten(1)
    unaware = x_t @ (cov @ torch.linalg.inv(cov + sigma**2 * torch.eye(16))).T
    assert float((found - exact).square().mean()) < 0.05 * float((unaware - exact).square().mean())


def test_a_picture_to_change_is_itself_and_a_channel_of_ones_its_null_a_channel_of_zeros():
    encoder, x = Source(2), pictures(3, 2)
    nn.init.constant_(encoder.null_picture, 0.7)
    field = encoder(encoder.prepare([x[0], None, x[2]]), torch.tensor([True, True, False])).field
    assert Source.field(encoder.spec()) == 3
    torch.testing.assert_close(field[0], torch.cat([x[0], torch.ones(1, 16, 16)]))
    for row in (1, 2):
        assert torch.equal(field[row, :2], torch.full((2, 16, 16), 0.7)) and not field[row, 2].any()


def test_bad_input_is_one_line():
    with pytest.raises(KakusanError, match="--instruct"):
        Source(3).prepare(["photo.png"])
    with pytest.raises(KakusanError, match="picture of 8"):
        Source(8).prepare([torch.zeros(4, 4, 4)])
    with pytest.raises(KakusanError, match="factor=1"):
        LowResolution(3, 1)
    with pytest.raises(KakusanError, match="multiples of 4"):
        LowResolution(3, 4).draw(pictures(1, 3, 18), {}, Rng([0]))
    with pytest.raises(KakusanError, match=r"level=0\.9"):
        LowResolution(3, 4, level=0.9)
    with pytest.raises(KakusanError, match="picture of 3"):
        Mask(3).prepare([(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4))])
    with pytest.raises(KakusanError, match="mode='CMYK'"):
        Map("CMYK")
    with pytest.raises(KakusanError, match="grey"):
        Map("RGB", edges=True)
    with pytest.raises(KakusanError, match="several sizes"):
        Map().prepare([torch.zeros(1, 4, 4), torch.zeros(1, 4, 5)])
