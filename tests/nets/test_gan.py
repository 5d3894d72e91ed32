"""Generators and discriminators: sizes, classes, initial state, batch statistics."""

from __future__ import annotations

import pytest
import torch

from kakusan.catalog import build
from kakusan.nets.dcgan import DCDiscriminator, DCGenerator
from kakusan.nets.gan import Discriminator, Generator, sides
from kakusan.part import KakusanError


def test_stages_halve_down_to_four_pixels():
    assert sides([28, 28], 2) == [(4, 4), (7, 7), (14, 14)]
    assert sides([64, 64], 2) == [(4, 4), (8, 8), (16, 16), (32, 32)]
    assert sides([30, 18], 1) == [(4, 3), (8, 5), (15, 9), (30, 18)]
    assert sides([4, 4], 1) == [(4, 4)]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("size", [(16, 16), (28, 28), (21, 30), (64, 64)])
def test_pictures_come_out_at_the_size_asked_and_are_judged_one_by_one(channels, classes, size):
    levels = len(sides(size, 2))
    pairs = [
        (Generator(channels, list(size), [8] * levels, 1, classes=classes),
         Discriminator(channels, list(size), [8] * levels, 1, classes=classes)),
        (DCGenerator(channels, list(size), [8, 6, 4], classes=classes),
         DCDiscriminator(channels, list(size), [8, 6, 4], classes=classes)),
    ]  # fmt: skip
    label = torch.tensor([0, classes]) if classes else None
    for generator, discriminator in pairs:
        generator.eval(), discriminator.eval()
        with torch.no_grad():
            x = generator(torch.randn(2, generator.latent), label)
            assert x.shape == (2, channels, *size) and torch.isfinite(x).all()
            both = discriminator(x, label)
            assert both.shape == (2,)
            one = discriminator(x[:1], None if label is None else label[:1])
            torch.testing.assert_close(one, both[:1], rtol=1e-4, atol=1e-5)
        assert build(generator.spec()).spec() == generator.spec()


def test_classes_change_the_picture_and_the_score():
    torch.manual_seed(0)
    generator, discriminator = Generator(1, [16, 16], [8, 8], classes=2), Discriminator(1, [16, 16], [8, 8], classes=2)
    z, label, unknown = torch.randn(1, 64), torch.tensor([1]), torch.tensor([2])
    with torch.no_grad():
        assert not torch.equal(generator(z, torch.tensor([0])), generator(z, label))
        assert torch.equal(generator(z), generator(z, unknown))
        x = generator(z, label)
        assert not torch.equal(discriminator(x, torch.tensor([0])), discriminator(x, label))


def test_residual_branches_start_at_zero_and_scores_at_order_one():
    torch.manual_seed(0)
    generator, discriminator = Generator(3, [32, 32]), Discriminator(3, [32, 32])
    blocks = [b for stage in (*generator.blocks, *discriminator.blocks) for b in stage]
    x = torch.randn(2, 256, 4, 4)
    assert torch.equal(generator.blocks[0](x), x)
    assert all(not b.out.weight.any() and b.widen.weight.any() for b in blocks)
    with torch.no_grad():
        pictures = generator(torch.randn(256, 64))
        scores = discriminator(torch.randn(256, 3, 32, 32))
    assert 0.3 < pictures.std() < 3 and 0.1 < scores.std() < 10


def test_batch_statistics_are_taken_anew():
    torch.manual_seed(0)
    net = DCGenerator(1, [16, 16], [8, 4])
    batches = [(torch.randn(64, 100), None) for _ in range(4)]
    net.settle(batches)
    assert not net.norms[0].training or net.training
    first = net.norms[0].running_mean.clone()
    net.settle(batches)
    assert torch.equal(first, net.norms[0].running_mean) and net.norms[0].momentum == 0.1
    lifted = torch.cat([net.lift(z[:, :, None, None]) for z, _ in batches])
    torch.testing.assert_close(first, lifted.mean((0, 2, 3)).detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Generator(1, [28, 28], [64, 32]), "3 multiples of 8"),
        (lambda: Generator(1, [28, 28], [64, 32, 12]), "multiples of 8"),
        (lambda: Discriminator(0, [28, 28]), "channels=0"),
        (lambda: DCGenerator(1, [28], [8]), "height, width"),
    ],
)
def test_wrong_sizes_are_named(make, said):
    with pytest.raises(KakusanError, match=said):
        make()
