"""Copies planted among samples of real pictures are found, new pictures are not; so are those that a model learned."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from evaluation.real import fashion, tensor
from kakusan.core.batch import Batch
from kakusan.core.denoiser import Denoiser
from kakusan.core.grid import Karras as KarrasGrid
from kakusan.core.model import Model
from kakusan.core.objective import EDM, Denoising, LogNormal
from kakusan.core.param import Karras
from kakusan.core.process import VE
from kakusan.core.rng import Rng, mix
from kakusan.core.sample import run, sample, start
from kakusan.core.solver import DPM2M
from kakusan.core.space import Flat
from kakusan.evaluation.memorisation import copies, copies_by_features
from kakusan.nets.unet import UNet

PLANTED = 200


@pytest.fixture(scope="module")
def sets() -> tuple[Tensor, Tensor, Tensor]:
    """3,000 training, 1,000 held-out and 1,000 fresh pictures."""
    x = tensor(fashion()[0])
    return x[:3000], x[3000:4000], x[4000:5000]


def noised(x: Tensor, level: float) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return (x + level * torch.randn(x.shape, generator=generator)).clamp(-1, 1)


WAYS = {
    "exact": lambda x: x,
    "noised": lambda x: noised(x, 0.05),  # 6 of 255 levels
    "noisier": lambda x: noised(x, 0.1),
    "one pixel aside": lambda x: torch.roll(x, 1, -1),
    "one pixel up and aside": lambda x: torch.roll(x, (-1, 1), (-2, -1)),
    "aside and noised": lambda x: noised(torch.roll(x, -1, -1), 0.05),
    "paler": lambda x: 0.85 * x + 0.05,
}


@pytest.mark.parametrize("way", WAYS)
def test_planted_copies_are_found(sets, way):
    train, held, fresh = sets
    found = copies(torch.cat([fresh[:PLANTED], WAYS[way](train[1000 : 1000 + PLANTED])]), train, held[:500])
    flagged = [p for p in found.pairs if p.copy]
    planted = [p for p in flagged if p.sample >= PLANTED]
    assert len(planted) >= 0.95 * PLANTED
    assert sum(p.train == 1000 + p.sample - PLANTED for p in planted) >= 0.99 * len(planted)
    assert found.verdict != "original" and found.pairs[0] in planted


def test_mirrored_copies_are_found_where_training_mirrors(sets):
    train, held, fresh = sets
    found = copies(torch.cat([fresh[:PLANTED], train[:PLANTED].flip(-1)]), train, held[:500], mirror=True)
    assert sum(p.copy for p in found.pairs if p.sample >= PLANTED) >= 0.95 * PLANTED


def test_new_pictures_are_flagged_as_rarely_as_held_out_ones(sets):
    train, held, fresh = sets
    found = copies(fresh, train, held)
    assert found.verdict == "original"
    assert found.expected == pytest.approx(0.01, abs=1e-4)
    assert abs(found.share - found.expected) <= 0.01


def test_what_the_data_repeats_is_found(sets):
    """Of a picture that is there fifty times, the next nearest training pictures are copies too."""
    train, held, fresh = sets
    repeated = torch.cat([train, train[:20].repeat(50, 1, 1, 1)])
    found = copies(torch.cat([fresh[:180], noised(train[:20], 0.05)]), repeated, held)
    assert found.verdict == "some copies"
    assert {p.sample for p in found.pairs if p.copy} >= set(range(180, 200))


def test_duplicates_across_the_split_are_said(sets):
    train, _, fresh = sets
    found = copies(train[:50], train, torch.cat([train[500:600], fresh[:50]]))
    assert found.share == 0 and "duplicates" in found.message


def test_a_verdict_allows_for_few_held_out_pictures(sets):
    """With 20 of them, one in 21 new pictures is flagged, give or take: seven of 64 are no proof."""
    train, held, fresh = sets
    few = copies(torch.cat([fresh[:57], train[:7]]), train, held[:20])
    assert few.expected == pytest.approx(1 / 21) and few.verdict == "original"
    assert copies(torch.cat([fresh[:57], train[:7]]), train, held).verdict == "some copies"


def test_copies_in_a_feature_space(sets):
    """Features that do not see where a picture is (its brightnesses, sorted) find copies moved far."""
    train, held, fresh = sets

    def features(x: Tensor) -> Tensor:
        return x.flatten(1).sort(1).values

    moved = torch.roll(train[:PLANTED], (9, -7), (-2, -1))
    assert copies(moved, train, held).verdict == "original"
    found = copies_by_features(features(moved), iter(features(train).split(700)), features(held))
    assert found.share >= 0.95 and all(p.train == p.sample for p in found.pairs)
    new = copies_by_features(features(fresh), features(train), features(held))
    assert abs(new.share - new.expected) <= 0.01


@pytest.mark.slow
def test_what_a_model_learned_by_heart_is_found():
    """Trained on ten pictures forty times each among 400 others, it draws the ten: all its copies are flagged."""
    x = F.avg_pool2d(tensor(fashion()[0]), 2)
    once, repeated, held, fresh = x[:400], x[400:410], x[410:1010], x[1010:1610]
    data = torch.cat([once, repeated.repeat(40, 1, 1, 1)])
    model = trained(data, steps=3000)
    samples = drawn(model, 200)

    found = copies(samples, data, held)
    apart = torch.cdist(samples.flatten(1), repeated.flatten(1)) / samples[0].numel() ** 0.5
    copied = set(torch.nonzero(apart.amin(1) < 0.1)[:, 0].tolist())  # RMS: 13 of 255 levels
    flagged = {p.sample for p in found.pairs if p.copy}
    assert len(copied) >= 40
    assert len(flagged & copied) >= 0.95 * len(copied)
    assert found.verdict in ("some copies", "copying")
    assert copies(fresh, data, held).share <= found.expected + 0.01


def trained(data: Tensor, steps: int, batch: int = 64) -> Model:
    """A small network on (N, C, H, W), until it knows by heart what it sees often."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = UNet(data.shape[1], width=32, mults=[1, 2], blocks=1, attention=[])
    model = Model(Denoiser(net, VE(), Karras(0.5), Flat()))
    objective = Denoising(LogNormal(), EDM(0.5))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    stratum = (torch.arange(batch).double() + 0.5) / batch
    for step in range(steps):
        rows = torch.tensor([mix("row", step, i) % len(data) for i in range(batch)])
        rng = Rng([mix("draw", step, i) for i in range(batch)])
        optimiser.zero_grad()
        objective.loss(model, Batch(data[rows], stratum=stratum), rng, step).mean().backward()
        optimiser.step()
        falling.step()
    return model.requires_grad_(False)


def drawn(model: Model, count: int) -> Tensor:
    process, space = model.denoiser.process, model.denoiser.space
    times = KarrasGrid().times(20, process)
    rng = Rng(range(count))
    x = start(times, process, space, [(1, 14, 14)] * count, rng)

    def f(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return model.denoiser(x, t)

    return run(sample(f, x, times, DPM2M(), process, space, rng)).clamp(-1, 1)
