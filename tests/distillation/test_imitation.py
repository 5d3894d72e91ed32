"""Imitation: the best projection and its gradient, features of equal sizes, a student that answers alike."""

from __future__ import annotations

import pytest
import torch

from distillation.conftest import made, taught
from kakusan.core.batch import Batch, Cond
from kakusan.core.denoiser import Denoiser
from kakusan.core.model import Model
from kakusan.core.param import Karras
from kakusan.core.process import VE
from kakusan.core.rng import Rng
from kakusan.core.space import Flat
from kakusan.distillation.imitation import Imitation, _tapped, unexplained
from kakusan.nets.dit import DiT
from kakusan.nets.unet import UNet
from kakusan.part import KakusanError


def test_features_that_follow_linearly_are_explained_and_others_not():
    s = torch.randn(8, 6, 5, 5)
    t = torch.einsum("bchw,dc->bdhw", s, torch.randn(9, 6)) + 3
    assert float(unexplained(s, t)) < 0.01
    assert float(unexplained(s, torch.randn(8, 9, 5, 5))) > 0.8
    assert float(unexplained(s.flatten(2).mT, t.flatten(2).mT)) == pytest.approx(float(unexplained(s, t)), rel=1e-3)


def test_the_gradient_is_that_of_the_projection_moving_along():
    """Against differences of the whole function, in which the projection is found anew each time."""
    s, t = torch.randn(1, 200, 3), torch.randn(1, 200, 4)
    t[..., :3] += s + 0.5 * s**2
    s.requires_grad_()
    unexplained(s, t).backward()
    toward = torch.randn_like(s)
    with torch.no_grad():
        ahead, behind = (float(unexplained(s + h * toward, t)) for h in (3e-3, -3e-3))
    assert (ahead - behind) / 6e-3 == pytest.approx(float((s.grad * toward).sum()), rel=0.05)


def unet(width: int) -> UNet:
    return UNet(1, width=width, mults=[1, 2], blocks=1, attention=[1], heads=2, unshuffle=2)


def dit(width: int) -> DiT:
    return DiT(1, patch=2, width=width, depth=3, heads=2)


@pytest.mark.parametrize("kind", [unet, dit])
def test_a_narrower_network_has_as_many_taps_of_the_same_sizes(kind):
    x, lam = torch.randn(2, 1, 8, 8), torch.zeros(2)
    found = []
    for width in (8, 16):
        net = kind(width)
        with _tapped(net.taps()) as features:
            net(x, lam, Cond())
        net(x, lam, Cond())
        found.append(features)
    assert len(found[0]) == len(found[1]) >= 2, "and none is kept after"
    for narrow, wide in zip(*found):
        assert narrow.ndim == 3 or narrow.shape[2:] == wide.shape[2:]
        assert narrow.ndim == 4 or narrow.shape[1] == wide.shape[1]


def test_the_loss_is_the_answers_error_and_the_features_share():
    def model(width: int) -> Model:
        torch.manual_seed(width)
        net = unet(width)
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.1)
        return Model(Denoiser(net, VE(), Karras(0.5), Flat()))

    student, teacher = model(8), model(16).requires_grad_(False)
    batch = Batch(torch.randn(4, 1, 8, 8), stratum=(torch.arange(4).double() + 0.5) / 4)
    rng = Rng(range(4))
    alone, lam = Imitation(features=0.0).terms(student, batch, rng, 1, teacher)
    both = Imitation(features=0.5).loss(student, batch, rng, 1, teacher)
    t = VE().time(lam)
    x = VE().noised(batch.x0, Flat().noise([(1, 8, 8)] * 4, rng, "eps", 1), t)
    with torch.no_grad(), _tapped(student.denoiser.net.taps()) as mine, _tapped(teacher.denoiser.net.taps()) as theirs:
        away = student.denoiser(x, t) - teacher.denoiser(x, t)
    expected = (torch.exp(2 * lam).float() + 4) * away.square().flatten(1).mean(1)
    torch.testing.assert_close(alone.detach(), expected, rtol=1e-4, atol=1e-6)
    shares = [unexplained(a, b) for a, b in zip(mine, theirs, strict=True)]
    torch.testing.assert_close(
        (both - alone).detach(), (0.5 * sum(shares) / len(shares)).expand(4), rtol=1e-3, atol=1e-5
    )


def test_a_student_answers_as_its_teacher_does():
    teacher, student = made(2, seed=1).requires_grad_(False), made(2, seed=2)
    data = torch.randn(2000, 2)
    t = VE().time(torch.zeros(()).double())
    x = torch.randn(200, 2)

    def away() -> float:
        with torch.no_grad():
            return float((student.denoiser(x, t) - teacher.denoiser(x, t)).square().mean())

    before = away()
    taught(student, Imitation(), data, 150, teacher)
    assert away() < 0.05 * before


def test_bad_arguments_are_named():
    with pytest.raises(KakusanError, match="features=-1"):
        Imitation(features=-1)
    with pytest.raises(KakusanError, match="kakusan distill"):
        Imitation().loss(made(), Batch(torch.randn(4, 2)), Rng(range(4)), 0)
