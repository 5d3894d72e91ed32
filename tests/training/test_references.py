"""References: of the same group, never the picture itself, each other one alike; by seed and step the same again."""

from __future__ import annotations

import numpy as np
import torch

from kakusan.core.rng import Rng, mix
from kakusan.domains.image import Image
from kakusan.training.data import Batches, Dataset
from kakusan.training.references import STYLE, References

GROUPS = np.array([2, 0, 2, -1, 0, 2, 1, 2], np.int32)
DOMAIN = Image([2, 2], "L")
PIXELS = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)


def references() -> References:
    return References(PIXELS, np.arange(8), GROUPS, DOMAIN)


def rng(n: int, step: int = 0) -> Rng:
    return Rng([mix(step, i) for i in range(n)])


def test_every_other_picture_of_the_group_is_drawn_as_often_and_nothing_else():
    found = references()
    assert found.alone == 2
    for row, group in enumerate(GROUPS):
        drawn = found.drawn(np.full(4000, row), rng(4000, row))
        others = [i for i in np.flatnonzero(group == GROUPS) if i != row] if group >= 0 else []
        if not others:
            assert set(drawn) == {-1}
            continue
        assert sorted(set(drawn)) == others
        share = np.array([(drawn == i).mean() for i in others])
        assert np.abs(share - 1 / len(others)).max() < 0.04  # four standard deviations


def test_a_view_draws_from_itself_alone():
    """What is kept aside is no reference of what is trained on."""
    at = np.array([0, 2, 6, 1, 4])
    view = references().subset(at)
    drawn = view.drawn(np.repeat(np.arange(5), 50), rng(250))
    assert set(drawn[:50]) == {1} and set(drawn[50:100]) == {0}  # rows of the view
    assert set(drawn[100:150]) == {-1}
    x = view.inputs(np.array([0, 1, 2]), rng(3))
    torch.testing.assert_close(x["picture"][:2], DOMAIN.floats(PIXELS[[2, 0]]))
    assert x["given"].tolist() == [True, True, False]


def test_batches_draw_them_anew_at_every_step_and_the_same_again():
    data = Dataset.arrays(PIXELS)
    data = Dataset(**{**data.__dict__, "references": references()})
    made = [Batches(data, DOMAIN, 4, seed, ahead=ahead) for seed, ahead in ((0, 0), (0, 2), (1, 0))]
    try:
        several = [[b.at(step).inputs[STYLE]["picture"] for step in range(6)] for b in made]
        late = Batches(data, DOMAIN, 4, 0, ahead=0).at(5).inputs[STYLE]["picture"]
    finally:
        for b in made:
            b.close()
    assert all(torch.equal(a, b) for a, b in zip(several[0], several[1], strict=True))
    assert torch.equal(several[0][5], late)  # whatever was asked before
    assert not all(torch.equal(a, b) for a, b in zip(several[0], several[2], strict=True))
    halves = [Batches(data, DOMAIN, 4, 0, rank=rank, world=2, ahead=0) for rank in (0, 1)]
    parts = torch.cat([b.at(3).inputs[STYLE]["picture"] for b in halves])
    assert torch.equal(parts, several[0][3])
