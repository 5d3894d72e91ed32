"""Copies of training pictures are found; new, blurred and noisy pictures are not called copies."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from kakusan.evaluation.memorisation import copies
from kakusan.part import KakusanError


def pictures(n: int, seed: int, channels: int = 3) -> torch.Tensor:
    """Each a few soft spots: smooth, and different."""
    g = torch.Generator().manual_seed(seed)
    return F.interpolate(torch.randn(n, channels, 5, 5, generator=g), size=(32, 32), mode="bilinear").tanh()


TRAIN, HELD = pictures(400, 0), pictures(60, 1)


def test_new_pictures_are_original():
    found = copies(pictures(64, 2), TRAIN, HELD)
    assert found.verdict == "original" and found.share <= 0.1 and found.ratio == pytest.approx(1, abs=0.15)


def test_what_is_said_of_smooth_samples_is_true():
    """They are nearer than held-out pictures without being copies."""
    found = copies(F.avg_pool2d(pictures(64, 2), 9, 1, 4), TRAIN, HELD)
    assert found.verdict == "original" and found.ratio < 0.97
    assert f"{found.ratio:.2f} times as far" in found.message


def test_copies_are_found_and_named():
    g = torch.Generator().manual_seed(3)
    x = TRAIN[100:132] * 0.9 + 0.05 + 0.05 * torch.randn(32, 3, 32, 32, generator=g)
    found = copies(x, TRAIN, HELD)
    assert found.verdict == "copying" and found.share == 1 and found.ratio < 0.5
    assert all(p.train == 100 + p.sample and p.copy for p in found.pairs)


def test_a_few_copies_among_new_pictures():
    x = torch.cat([pictures(48, 2), TRAIN[:12]])
    found = copies(x, TRAIN, HELD)
    assert found.verdict == "some copies" and {p.sample for p in found.pairs[:12]} == set(range(48, 60))
    assert "of 60 samples" in found.message
    assert all(p.distance < 1e-6 for p in found.pairs[:12])


@pytest.mark.parametrize(
    "change", [lambda x: F.avg_pool2d(x, 5, 1, 2), lambda x: x + 0.3 * torch.randn_like(x), torch.zeros_like]
)
def test_smooth_noisy_or_empty_is_not_a_copy(change):
    torch.manual_seed(0)
    assert copies(change(pictures(64, 2)), TRAIN, HELD).verdict == "original"


def test_mirrored_copies_are_found_when_asked():
    x = TRAIN[:32].flip(-1)
    assert copies(x, TRAIN, HELD).verdict == "original"
    assert copies(x, TRAIN, HELD, mirror=True).verdict == "copying"


def test_pieces_and_chunks_change_nothing():
    x = torch.cat([pictures(20, 2), TRAIN[300:310]])
    whole = copies(x, TRAIN, HELD)
    pieces = copies(x, iter(TRAIN.split(150)), HELD, chunk=64)
    assert [(p.sample, p.train) for p in whole.pairs] == [(p.sample, p.train) for p in pieces.pairs]
    assert pieces.ratio == pytest.approx(whole.ratio, rel=1e-4)


def test_too_few_held_out_pictures_is_said():
    found = copies(TRAIN[:4], TRAIN, HELD[:10])
    assert found.verdict == "unknown" and "10" in found.message and len(found.pairs) == 4


def test_sets_that_cannot_be_compared():
    with pytest.raises(KakusanError, match="differ"):
        copies(pictures(4, 0), pictures(40, 0, channels=1), HELD)
    with pytest.raises(KakusanError, match="at least 2"):
        copies(pictures(4, 0), TRAIN[:1], HELD)
