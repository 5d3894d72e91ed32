"""Autoencoder and Autoencoding: a smaller space to diffuse in, and the loss that an autoencoder of it is trained by."""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kakusan.core.batch import Batch
from kakusan.core.model import Model
from kakusan.core.objective import Objective
from kakusan.core.rng import Rng
from kakusan.part import KakusanError, Part

__all__ = ["Autoencoder", "Autoencoding", "drawn"]


class Autoencoder(Part, nn.Module, abc.ABC):
    """A pair of networks: x (B, channels, *S) to the normal distribution of z (B, latent, *S / factor), and z back."""

    channels: int
    latent: int
    factor: int

    @abc.abstractmethod
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of z, each (B, latent, *S / factor)."""

    @abc.abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """z (B, latent, *S) to x (B, channels, *S factor), differentiably."""


def drawn(mean: Tensor, logvar: Tensor, rng: Rng, step: int = 0) -> Tensor:
    """``z = mean + exp(logvar / 2) eps``, eps each sample's own (Kingma & Welling 2014, section 2.4)."""
    eps = rng.normal([tuple(mean.shape[1:])] * len(mean), "latent", step).to(mean)
    return mean + (0.5 * logvar).exp() * eps


class Autoencoding(Objective):
    """``|e|_b + gradient (|dx e| + |dy e|) + kl KL(q(z|x) || N(0, 1))`` of e = D(z) - x, z drawn from q(z|x).

    ``|e|_b`` is Huber's loss over its bend: ``e^2 / 2b`` below |e| = b, ``|e| - b/2`` above (Girshick 2015, eq. 3).
    ``coverage``: the last channel is the alpha of colours premultiplied by it (transparent = -1), and the loss is the
    mean of that of alpha, of the picture over black and of the same over white; so colours count by what shows of
    them. ``gradient``: weight of differences between neighbours, which blur gets wrong. ``kl``: of the divergence, a
    mean over z's numbers (Rombach et al. 2022, appendix G). Every mean is over a sample's own numbers.
    """

    kind = "objective/autoencoding"

    def __init__(self, kl: float = 1e-4, gradient: float = 1.0, bend: float = 0.05, coverage: bool = False) -> None:
        for name, value in (("kl", kl), ("gradient", gradient)):
            if not value >= 0:
                raise KakusanError(f"{name}={value}: a weight is 0 or more")
        if not bend > 0:
            raise KakusanError(f"bend={bend}: need bend > 0 (0.05 is usual, in the model's range of -1 to 1)")
        self.kl, self.gradient, self.bend, self.coverage = float(kl), float(gradient), float(bend), coverage

    def terms(  # a wider type of model than the others take
        self, model: nn.Module, batch: Batch, rng: Rng, step: int, teacher: Model | None = None
    ) -> tuple[Tensor, Tensor]:
        """Each sample's loss (B,); it has no noise level, and 0 stands for it."""
        if not isinstance(model, Autoencoder):
            raise KakusanError(f"objective/autoencoding trains an autoencoder, not a {type(model).__name__}")
        mean, logvar = (v.float() for v in model.encode(batch.x0))
        error = model.decode(drawn(mean, logvar, rng, step)).float() - batch.x0
        loss = self.distance(error) + self.kl * divergence(mean, logvar)
        return loss, torch.zeros(len(error), dtype=torch.float64)

    def distance(self, error: Tensor) -> Tensor:
        """The loss of errors (B, C, H, W), (B,)."""
        if self.coverage:  # over white: c + 1 - a
            error = torch.cat([error, error[:, :-1] - error[:, -1:]], 1)
        return sum((self.gradient * self._size(d) for d in (error.diff(dim=2), error.diff(dim=3))), self._size(error))

    def _size(self, error: Tensor) -> Tensor:
        return F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=self.bend).flatten(1).mean(1)


def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """``KL(N(mean, exp(logvar)) || N(0, 1)) = (mean^2 + exp(logvar) - 1 - logvar) / 2``, (B,): a mean over numbers."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).mean(1)
