"""Kept samples in every batch: behind the own rows, which they leave as they were, in turn, a function of the step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kakusan.conditions.label import Label
from kakusan.conditions.scalar import Vector
from kakusan.core.denoiser import Denoiser
from kakusan.core.model import Model
from kakusan.core.objective import EDM, Denoising, LogNormal
from kakusan.core.param import Karras
from kakusan.core.process import VE
from kakusan.core.space import Flat
from kakusan.domains.augment import Affine
from kakusan.domains.image import Image
from kakusan.nets.unet import UNet
from kakusan.training.data import Batches, Dataset
from kakusan.training.kept import Kept, Mixed

SIDE = 8


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    augment = Vector(Affine.parameters, 4, null="zero")
    net = UNet(1, width=8, mults=[1], blocks=1, attention=[], vector=8)
    return Model(Denoiser(net, VE(), Karras(), Flat()), None, {"label": Label(["a", "b"], 4), "augment": augment})


def batches(labels: bool = True, augment: bool = True) -> Batches:
    pixels = np.random.default_rng(0).integers(0, 255, (5, SIDE, SIDE, 1)).astype(np.uint8)
    marked = np.array([0, 1, 0, 1, -1]) if labels else None
    data = Dataset.arrays(pixels, marked, ("a", "b") if labels else ())
    return Batches(data, Image([SIDE, SIDE], "L"), 4, seed=3, augment=Affine() if augment else None, ahead=0)


def test_kept_rows_come_behind_the_own_ones_and_change_nothing_of_them(model):
    own, kept = batches(), Kept(torch.arange(6.0)[:, None, None, None].expand(6, 1, SIDE, SIDE), {"label": [1] * 6})
    mixed = Mixed(batches(), kept, model)
    assert mixed.batch == 8
    seen = []
    for step in (0, 1, 2):
        alone, both = own.at(step), mixed.at(step)
        assert torch.equal(both.x0[:4], alone.x0)
        for name in ("label", "augment"):
            for key, value in alone.inputs[name].items():
                assert torch.equal(both.inputs[name][key][:4], value)
        assert mixed.rng(step).seeds[:4] == own.rng(step).seeds and len(set(mixed.rng(step).seeds)) == 8
        assert both.inputs["label"]["index"][4:].tolist() == [1] * 4
        assert not both.inputs["augment"]["value"][4:].any()  # as they were drawn: not augmented
        assert torch.equal(both.stratum, torch.cat([alone.stratum, alone.stratum]))
        seen += both.x0[4:, 0, 0, 0].tolist()
    assert seen == [i % 6 for i in range(12)]
    again = Mixed(batches(), kept, model)
    assert torch.equal(again.at(2).x0, mixed.at(2).x0)


def test_a_condition_of_one_half_is_unsaid_in_the_other(model):
    kept = Kept(torch.zeros(3, 1, SIDE, SIDE), {"label": [0, 1, None]})
    both = Mixed(batches(labels=False, augment=False), kept, model).at(0)
    assert both.inputs["label"]["index"].tolist() == [2, 2, 2, 2, 0, 1, 2, 0]
    assert set(both.inputs) == {"label"}
    bare = Mixed(batches(labels=True, augment=False), Kept(torch.zeros(3, 1, SIDE, SIDE), {}), model).at(0)
    assert bare.inputs["label"]["index"][4:].tolist() == [2] * 4


def test_the_two_losses_count_alike(model):
    """The mean over a mixed batch is half the own loss and half that of the kept samples."""
    kept = Kept(torch.randn(4, 1, SIDE, SIDE), {"label": [0, 1, 0, 1]})
    mixed, objective = Mixed(batches(), kept, model), Denoising(LogNormal(), EDM(), dropout=0.0)
    with torch.no_grad():
        both = objective.loss(model, mixed.at(0), mixed.rng(0), 0)
        own = objective.loss(model, batches().at(0), batches().rng(0), 0)
    assert torch.allclose(both[:4], own, rtol=1e-5)
    assert torch.isclose(both.mean(), (own.mean() + both[4:].mean()) / 2)
