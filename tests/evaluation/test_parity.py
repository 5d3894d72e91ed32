"""Fréchet and kernel distance agree with torchmetrics' on fixed features to 1e-6."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from kakusan.evaluation.frechet import frechet
from kakusan.evaluation.kernel import kernel_distance

DIM = 24


class Given(torch.nn.Module):
    """Features that are there already."""

    num_features = DIM

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.fixture(scope="module")
def features() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((200, DIM)), rng.standard_normal((200, DIM)) * 1.3 + 0.2


def updated(metric: torch.nn.Module, real: np.ndarray, fake: np.ndarray) -> torch.nn.Module:
    metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(fake), real=False)
    return metric


def test_frechet_distance_as_torchmetrics(features):
    from torchmetrics.image.fid import FrechetInceptionDistance

    real, fake = features
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = updated(FrechetInceptionDistance(feature=Given(), input_img_size=(DIM,)), real, fake[:150]).compute()
    assert frechet(real, fake[:150]) == pytest.approx(float(theirs), rel=1e-6)


def test_kernel_distance_as_torchmetrics(features):
    """Subsets of all samples, so that no draw differs."""
    from torchmetrics.image.kid import KernelInceptionDistance

    real, fake = features
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = updated(KernelInceptionDistance(feature=Given(), subsets=1, subset_size=200), real, fake).compute()
    assert kernel_distance(real, fake) == pytest.approx(float(theirs[0]), rel=1e-6)
    assert kernel_distance(real, fake, subsets=3, size=200) == pytest.approx(float(theirs[0]), rel=1e-6)
