"""Landing: nothing where a step stays, features that tell jumps apart, and no user's to say."""

from __future__ import annotations

import pytest
import torch

from kakusan.conditions.landing import Landing
from kakusan.core.process import level, place
from kakusan.part import KakusanError


def test_staying_is_the_null_and_every_jump_has_features_of_its_own():
    encoder, keep = Landing(), torch.ones(40, dtype=torch.bool)
    high, low = torch.zeros(40).double(), torch.linspace(0, 12, 40).double()
    low[-1] = float("inf")  # the clean end
    vector = encoder(encoder.between(high, low), keep).vector
    assert vector is not None and vector.shape == (40, 8)
    assert float(vector[0].abs().max()) == 0
    away = torch.cdist(vector, vector) + 10 * torch.eye(40)
    assert float(away.min()) > 0.03
    assert torch.equal(encoder(encoder.null(1), keep[:1]).vector[0], vector[0])
    climbing = encoder(encoder.between(low, high), keep).vector
    assert climbing is not None and float(climbing.abs().max()) == 0


def test_places_are_levels_and_back():
    k = torch.tensor([0.0, 0.01, 1.0, 80.0, float("inf")]).double()
    at = place(-k.log())
    torch.testing.assert_close(at, torch.tensor([0.0, 0.2403, 0.5, 0.7494, 1.0]).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(level(at), -k.log())


def test_others_are_refused():
    with pytest.raises(KakusanError, match=r"landing=0\.5: the sampler says"):
        Landing().prepare([None, 0.5])
    with pytest.raises(KakusanError, match="dim=3"):
        Landing(3)
