"""Picture: a vector that says how a picture looks: of any size, the same however its parts lie, null where none is."""

from __future__ import annotations

import pytest
import torch

from kakusan.conditions.picture import Picture
from kakusan.core.batch import Cond
from kakusan.part import KakusanError


def made(**given) -> Picture:
    """One that has seen a batch of pictures."""
    torch.manual_seed(0)
    encoder = Picture(3, dim=8, side=32, width=4, **given)
    vector(encoder, *(torch.rand(3, 32, 32) * scale - scale / 2 for scale in (0.2, 0.5, 1, 2)))
    return encoder.eval()


def vector(encoder: Picture, *values, keep=True) -> torch.Tensor:
    with torch.no_grad():
        cond: Cond = encoder(encoder.prepare(list(values)), torch.full((len(values),), keep))
    assert cond.tokens is None and cond.field is None
    return cond.vector


def test_pictures_of_any_size_are_read_as_one_of_the_fixed_size():
    encoder = made()
    x = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4) * 2 - 1, (32, 32), mode="bilinear")[0]
    twice = x.repeat_interleave(2, 1).repeat_interleave(2, 2)
    flat = torch.full((3, 1, 7), 0.5)
    both = vector(encoder, x, flat, None)
    assert both.shape == (3, 8)
    torch.testing.assert_close(vector(encoder, flat)[0], both[1])
    torch.testing.assert_close(vector(encoder, torch.full((3, 90, 41), 0.5))[0], both[1], atol=1e-5, rtol=1e-5)
    near = (vector(encoder, twice)[0] - both[0]).norm()
    assert near < 0.2 * (both[1] - both[0]).norm()  # twice as large is nearly the same, another picture is not


def test_where_things_stand_is_not_said():
    """A patch moved by whole strides; of one level, since deeper ones see where the border is."""
    encoder = made()
    x = torch.full((3, 32, 32), -1.0)
    x[:, 14:18, 14:18] = torch.rand(3, 4, 4)
    with torch.no_grad():
        for level in encoder.levels[1:]:
            level.weight.zero_()
    torch.testing.assert_close(vector(encoder, x), vector(encoder, x.roll((4, -6), (1, 2))), atol=1e-5, rtol=1e-4)


def test_none_and_what_is_left_out_are_the_null():
    encoder, x = made(), torch.rand(3, 16, 16)
    null = encoder.null_vector.detach()
    torch.testing.assert_close(vector(encoder, None)[0], null)
    torch.testing.assert_close(vector(encoder, x, keep=False)[0], null)
    assert (vector(encoder, x)[0] - null).abs().max() > 0.1
    assert encoder.null(2)["picture"].shape == (2, 3, 32, 32)


def test_rows_of_several_sizes_become_one_batch():
    encoder = made()
    rows = [encoder.prepare([None]), {"picture": torch.rand(2, 3, 12, 12), "given": torch.tensor([True, True])}]
    assert encoder.stack(rows)["picture"].shape == (3, 3, 32, 32)


def test_what_all_pictures_share_is_left_out():
    """After a batch its statistics have mean 0 and deviation 1; later ones count little, missing pictures nothing."""
    encoder = Picture(3, dim=8, side=32, width=4)
    some = [torch.rand(3, 32, 32) * 0.1 + 0.05 * i for i in range(6)]
    heard = []
    encoder.linear.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    vector(encoder, *some, None)
    torch.testing.assert_close(heard[-1][:6].mean(0), torch.zeros(len(encoder.mean)), atol=1e-4, rtol=0)
    far = heard[-1][:6].std(0)
    assert (far < 1.001).all() and (far > 0.999).float().mean() > 0.5, "but for what varies too little to be told"
    before = encoder.mean.clone()
    vector(encoder, *(p + 1 for p in some))
    after = encoder.mean.clone()
    assert not torch.equal(before, after)
    vector(encoder.eval(), *some)
    assert torch.equal(encoder.mean, after)
    vector(encoder.train(), some[0], None)
    assert torch.equal(encoder.mean, after), "one picture has no deviation"


def test_every_level_is_learnt_from():
    encoder = made()
    inputs = encoder.prepare([torch.rand(3, 20, 20), torch.rand(3, 20, 20)])
    encoder(inputs, torch.tensor([True, False])).vector.square().sum().backward()
    for name, p in encoder.named_parameters():
        if name in ("mean", "std"):
            assert not p.requires_grad
            continue
        assert p.grad is not None and p.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("value", "said"),
    [("cat.png", "--style-image PICTURE"), (torch.zeros(1, 4, 4), "3 channel"), (torch.zeros(3, 4), "3 channel")],
)
def test_bad_values_are_one_line(value, said):
    with pytest.raises(KakusanError, match=said) as caught:
        made().prepare([value])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [{"channels": 0}, {"channels": 3, "side": 8}, {"channels": 3, "width": 0}])
def test_bad_arguments_are_refused(given):
    with pytest.raises(KakusanError, match=str(next(reversed(given)))):
        Picture(**given)
