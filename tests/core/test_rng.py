"""Draws belong to (seed, purpose, step) of one sample: not to the batch, the padding or the version."""

from __future__ import annotations

import itertools

import pytest
import torch

from kakusan.core.rng import Rng, mix


def test_a_sample_draws_the_same_alone_and_in_a_batch():
    together = Rng([7, 8, 9]).normal([(3, 5, 5)] * 3, "eps", 4)
    for i, seed in enumerate((7, 8, 9)):
        alone = Rng([seed]).normal([(3, 5, 5)], "eps", 4)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-6, rtol=0)
    assert torch.equal(Rng([7, 8, 9]).subset([2]).uniform("level"), Rng([9]).uniform("level"))
    assert torch.equal(Rng([7, 8, 9]).uniform("level")[2:], Rng([9]).uniform("level"))


def test_asking_twice_gives_the_same():
    rng = Rng([3])
    first = rng.normal([(100,)], "eps")
    rng.uniform("level")
    torch.manual_seed(0)
    assert torch.equal(first, rng.normal([(100,)], "eps"))


def test_padded_shapes_draw_what_unpadded_ones_do():
    shapes = [(2, 3), (2, 5), (2, 1)]
    padded = Rng([1, 2, 3]).normal(shapes, "eps")
    assert padded.shape == (3, 2, 5)
    for i, shape in enumerate(shapes):
        alone = Rng([i + 1]).normal([shape], "eps")[0]
        torch.testing.assert_close(padded[i, :, : shape[1]], alone, atol=1e-6, rtol=0)
        assert not padded[i, :, shape[1] :].any()


def test_every_part_of_the_key_matters():
    base = Rng([1]).normal([(64,)], "eps", 0)
    for other in (Rng([2]).normal([(64,)], "eps", 0), Rng([1]).normal([(64,)], "climb", 0)):
        assert not torch.allclose(base, other)
    assert not torch.allclose(base, Rng([1]).normal([(64,)], "eps", 1))


def test_moments_and_quantiles_of_normals():
    draws = Rng([0]).normal([(200_000,)], "eps")[0].double()
    for power, moment, error in ((1, 0, 0.01), (2, 1, 0.015), (3, 0, 0.04), (4, 3, 0.12)):
        assert float((draws**power).mean()) == pytest.approx(moment, abs=error)
    place = (torch.arange(len(draws), dtype=torch.float64) + 0.5) / len(draws)
    distance = (torch.special.ndtr(draws.sort().values) - place).abs().max()
    assert float(distance) < 1.95 / len(draws) ** 0.5  # Kolmogorov-Smirnov, p = 0.001


def test_moments_and_quantiles_of_uniforms():
    draws = Rng(list(range(20_000))).uniform("level", count=4)
    assert draws.dtype == torch.float64
    assert draws.shape == (20_000, 4)
    assert bool(((draws >= 0) & (draws < 1)).all())
    flat = draws.flatten().sort().values
    place = (torch.arange(len(flat), dtype=torch.float64) + 0.5) / len(flat)
    assert float((flat - place).abs().max()) < 1.95 / len(flat) ** 0.5
    assert float((torch.corrcoef(draws.T) - torch.eye(4)).abs().max()) < 0.03


def test_streams_do_not_correlate():
    """Neighbouring seeds, steps and purposes, and neighbours inside a stream (sine and cosine of one pair)."""
    n = 40_000
    streams = [Rng([s]).normal([(n,)], "eps", step)[0] for s, step in itertools.product((0, 1, 2), (0, 1, 2))]
    streams += [Rng([0]).normal([(n,)], "climb")[0], streams[0].roll(1), streams[0].roll(2), streams[0] ** 2 - 1]
    correlation = torch.corrcoef(torch.stack(streams).double()) - torch.eye(len(streams))
    assert float(correlation.abs().max()) < 5 / n**0.5


def test_the_generator_never_changes():
    """A change here breaks every published seed: make a new generator instead."""
    assert mix(0, "eps", 0) == 2602220061456039517
    torch.testing.assert_close(
        Rng([0]).normal([(4,)], "eps")[0],
        torch.tensor([-0.7274105, 0.9525762, 0.611659, -0.2606974]),
        atol=1e-6,
        rtol=0,
    )
    assert Rng([123]).uniform("level", 5, 3)[0].tolist() == [
        0.4472885801881775,
        0.24945019767329113,
        0.09800876548006798,
    ]


def test_odd_sizes_and_negative_and_huge_seeds():
    assert Rng([-1, 2**70]).normal([(1,), (1,)], "eps").shape == (2, 1)
    assert torch.equal(Rng([5]).normal([(3,)], "eps")[0], Rng([5]).normal([(4,)], "eps")[0][:3])
    with pytest.raises(ValueError, match="2 shapes for 1 seeds"):
        Rng([1]).normal([(1,), (1,)], "eps")
