"""Augmentation: exact where it can be, told to the network, and the same for a sample in any batch."""

from __future__ import annotations

import pytest
import torch

from kakusan.core.rng import Rng
from kakusan.domains.augment import Affine
from kakusan.part import KakusanError

OFF = {"x_flip": 0, "shift": 0, "scale": 0, "rotate": 0, "stretch": 0, "slide": 0}


def pictures(count: int, channels: int = 3, side: int = 16) -> torch.Tensor:
    x = torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return x.contiguous(memory_format=torch.channels_last)


def test_nothing_done_is_nothing_changed():
    x = pictures(64)
    out, value = Affine(p=0).apply(x, Rng(range(64)))
    assert torch.equal(out, x) and value.eq(0).all() and value.shape == (64, Affine.parameters)
    out, value = Affine().apply(x, Rng(range(64)))
    still = value.eq(0).all(1)
    assert 5 < still.sum() < 60 and torch.equal(out[still], x[still])
    assert (out[~still] != x[~still]).flatten(1).any(1).float().mean() > 0.95
    assert out.is_contiguous(memory_format=torch.channels_last) and value.dtype == torch.float32


@pytest.mark.parametrize("name, column, flipped", [("x_flip", 0, 3), ("y_flip", 1, 2)])
def test_flips_are_exact_and_told(name, column, flipped):
    x = pictures(40)
    out, value = Affine(p=1, **(OFF | {name: 1.0})).apply(x, Rng(range(40)))
    turned = value[:, column] == 1
    assert 8 < turned.sum() < 32 and torch.allclose(out[turned], x[turned].flip(flipped), atol=2e-6)
    assert torch.equal(out[~turned], x[~turned])


def test_quarter_turns_are_exact_and_told():
    x = pictures(40)
    out, value = Affine(p=1, **(OFF | {"rotate90": 1.0})).apply(x, Rng(range(40)))
    seen = set()
    for a, b, (cos, sin) in zip(x, out, (value[:, 2:4] + torch.tensor([1.0, 0.0])).round().tolist(), strict=True):
        turns = {(1, 0): 0, (0, 1): 3, (-1, 0): 2, (0, -1): 1}[int(cos), int(sin)]
        seen.add(turns)
        assert torch.allclose(b, torch.rot90(a, turns, (1, 2)), atol=5e-6)
    assert seen == {0, 1, 2, 3}


def test_whole_pixel_shifts_are_exact_and_transparent_outside():
    x = pictures(30, 4)
    x[:, :3] = torch.minimum(x[:, :3], x[:, 3:])
    out, value = Affine(p=1, transparent=True, **(OFF | {"shift": 1.0})).apply(x, Rng(range(30)))
    for a, b, (dx, dy) in zip(x, out, (value[:, 4:6] * 16).round().int().tolist(), strict=True):
        expected = torch.full_like(a, -1)
        into = (slice(max(dy, 0), 16 + min(dy, 0)), slice(max(dx, 0), 16 + min(dx, 0)))
        out_of = (slice(max(-dy, 0), 16 + min(-dy, 0)), slice(max(-dx, 0), 16 + min(-dx, 0)))
        expected[:, into[0], into[1]] = a[:, out_of[0], out_of[1]]
        assert torch.allclose(b, expected, atol=5e-6)


def test_scale_moves_content_as_told():
    x = torch.full((20, 1, 32, 32), -1.0)
    x[:, :, 12:20, 12:20] = 1
    out, value = Affine(p=1, **(OFF | {"scale": 1.0})).apply(x, Rng(range(20)))
    area = ((out + 1) / 2).sum((1, 2, 3)) / 64
    assert torch.allclose(area.log2(), 2 * value[:, 6], atol=0.25)
    assert value[:, 6].std() > 0.05


def test_colour_border_continues_and_others_mirror():
    white = torch.ones(40, 3, 16, 16)
    white[:, :, 5:11, 5:11] = -0.5
    out, _ = Affine(p=1).apply(white, Rng(range(40)))
    assert (out[:, :, 0, 0] > 0.99).float().mean() > 0.5
    assert torch.isfinite(out).all() and out.min() >= -1 and out.max() <= 1
    ramp = torch.linspace(-0.5, 0.9, 16).expand(40, 1, 16, 16)
    moved, _ = Affine(p=1).apply(ramp, Rng(range(40)))
    assert moved.min() > -0.75  # reflection brings in no foreign black


def test_premultiplied_colour_never_exceeds_alpha():
    x = pictures(32, 4)
    x[:, :3] = torch.minimum(x[:, :3], x[:, 3:])
    out, _ = Affine(p=1, transparent=True, brightness=1.0).apply(x, Rng(range(32)))
    assert (out[:, :3] <= out[:, 3:] + 1e-6).all()


def test_a_sample_is_augmented_alike_in_any_batch():
    x, rng = pictures(16), Rng(range(100, 116))
    out, value = Affine(p=0.7).apply(x, rng, step=3)
    for i in (0, 7, 15):
        one, its = Affine(p=0.7).apply(x[i : i + 1], rng.subset([i]), step=3)
        assert torch.allclose(one[0], out[i], atol=1e-6) and torch.equal(its[0], value[i])
    _, other = Affine(p=0.7).apply(x, rng, step=4)
    assert not torch.equal(other, value)


def test_rates_are_met_and_refused():
    _, value = Affine(p=0.12).apply(torch.zeros(4000, 1, 2, 2), Rng(range(4000)))
    assert (value[:, 6] != 0).float().mean() == pytest.approx(0.12, abs=0.02)
    assert (value[:, 0] != 0).float().mean() == pytest.approx(0.06, abs=0.015)
    assert (value[:, [1, 2, 3, 13]] == 0).all()
    with pytest.raises(KakusanError, match="rotate"):
        Affine(rotate=-1)
    assert Affine().spec()["kind"] == "augment/affine"
