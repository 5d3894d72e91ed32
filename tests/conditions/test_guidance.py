"""Guidance as a condition: its range, its usual weight, draws that fill the range, features that tell weights apart."""

from __future__ import annotations

import pytest
import torch

from kakusan.conditions.guidance import Guidance
from kakusan.core.rng import Rng
from kakusan.part import KakusanError


def test_weights_are_read_and_none_is_the_usual_one():
    encoder = Guidance(1, 4, 2.5)
    assert encoder.prepare([1, "3.5", None, ""])["guidance"].tolist() == [1.0, 3.5, 2.5, 2.5]
    assert encoder.null(2)["guidance"].tolist() == [2.5, 2.5]


def test_draws_fill_the_range_evenly_and_belong_to_their_rows():
    encoder, x = Guidance(1, 4), torch.zeros(2000, 1)
    drawn = encoder.draw(x, encoder.null(2000), Rng(range(2000)))["guidance"]
    assert 1 <= float(drawn.min()) < 1.02 and 3.98 < float(drawn.max()) <= 4
    assert float(drawn.mean()) == pytest.approx(2.5, abs=0.06) and float(drawn.std()) == pytest.approx(0.866, abs=0.03)
    alone = encoder.draw(x[:1], encoder.null(1), Rng([7]))["guidance"]
    assert torch.equal(alone[0], drawn[7])


def test_every_weight_has_features_of_its_own():
    encoder = Guidance(0.5, 5)
    weights = torch.linspace(0.5, 5, 46)
    vector = encoder({"guidance": weights}, torch.ones(46, dtype=torch.bool)).vector
    assert vector is not None and vector.shape == (46, 8)
    away = torch.cdist(vector, vector) + 10 * torch.eye(46)
    assert float(away.min()) > 0.1
    dropped = encoder({"guidance": weights}, torch.zeros(46, dtype=torch.bool)).vector
    assert torch.equal(dropped, vector), "it is never dropped"


@pytest.mark.parametrize("value", [0.9, 4.1, "strong", float("nan"), [2.0]], ids=str)
def test_other_weights_are_refused(value):
    with pytest.raises(KakusanError, match="made for weights from 1 to 4"):
        Guidance(1, 4).prepare([value])


@pytest.mark.parametrize("given", [(4, 1, 2), (1, 4, 5), (1, 1, 1), (-200, 1, 0)], ids=str)
def test_bad_ranges_are_named(given):
    with pytest.raises(KakusanError, match="need low <= usual <= high"):
        Guidance(*given)
    with pytest.raises(KakusanError, match="dim=3"):
        Guidance(dim=3)
