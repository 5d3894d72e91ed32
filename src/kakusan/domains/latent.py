"""Latent: pictures (or whatever a domain holds) diffused in the space of an autoencoder."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from kakusan.core.autoencoder import Autoencoder, drawn
from kakusan.core.rng import Rng
from kakusan.core.space import Flat
from kakusan.domains.domain import Domain, Record
from kakusan.part import KakusanError

__all__ = ["Latent", "seen"]

PIECE = 64  # samples that go through the autoencoder at once


class Latent(Domain, nn.Module):
    """A domain seen through an autoencoder: ``encode(x) = (E(x) - mean) / std`` by channel, ``decode`` its inverse.

    ``mean`` and ``std``: of each of the latent's channels over the data (Rombach et al. 2022, section 4.3.1, have one
    number for all), so that what is diffused has mean 0 and variance 1; None leaves it as it is. Records, files and
    units are ``domain``'s own. It is a module: a model's file holds the autoencoder's weights beside the denoiser's,
    and they are frozen here.
    """

    kind = "domain/latent"
    level = 0.19  # -0.5, that of 32 pixels, at a spread of 1 instead of 0.5: an autoencoder has taken redundancy out
    hint = "train one in its latent: kakusan train DATA --latent FILE"

    def __init__(
        self,
        domain: Domain,
        autoencoder: Autoencoder,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        super().__init__()
        channels = getattr(domain, "channels", autoencoder.channels)
        if channels != autoencoder.channels:
            raise KakusanError(f"the domain has {channels} channels, the autoencoder {autoencoder.channels}")
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != autoencoder.latent:
                raise KakusanError(f"{name} has {len(values)} numbers; the latent has {autoencoder.latent} channels")
        if std is not None and not min(std) > 0:
            raise KakusanError(f"std={std}: every channel's is above 0")
        self.domain, self.autoencoder, self.space = domain, autoencoder.requires_grad_(False), Flat()
        self.mean, self.std = list(mean or [0.0] * autoencoder.latent), list(std or [1.0] * autoencoder.latent)
        self.sigma_data = 1.0
        self.shape(())  # a domain whose own size does not fit is refused

    def shape(self, size: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """(C, *S) of the latent of a sample whose sides are ``size`` (the domain's own where that is empty)."""
        factor, sides = self.autoencoder.factor, tuple(size or getattr(self.domain, "size", ()))
        if any(n % factor or not n for n in sides):
            near = factor * math.ceil(max(1, *sides) / factor)
            said = " x ".join(map(str, reversed(sides)))
            raise KakusanError(f"size {said}: this autoencoder folds by {factor}; give a multiple, as --size {near}")
        return (self.autoencoder.latent, *(n // factor for n in sides))

    @classmethod
    def fit(cls, records: Iterable[Record], **choices: Any) -> Self:
        """Refused: a latent belongs to an autoencoder that is trained."""
        raise KakusanError("a latent is trained, not fitted to records: kakusan train DATA --autoencoder")

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent of x, as the autoencoder gives them."""
        x = x.to(next(self.parameters()).device)
        means, logvars = zip(*(self.autoencoder.encode(piece) for piece in x.split(PIECE)), strict=True)
        return torch.cat(means), torch.cat(logvars)

    def scaled(self, z: Tensor) -> Tensor:
        """The autoencoder's z at unit scale."""
        return (z - _spread(self.mean, z)) / _spread(self.std, z)

    def encode(self, x: Tensor, mask: Tensor | None = None, rng: Rng | None = None) -> Tensor:
        """x (B, C, *S) to what is diffused: drawn where there is an ``rng``, the mean where there is none."""
        mean, logvar = self.moments(x)
        return self.scaled(mean if rng is None else drawn(mean, logvar, rng))

    def decode(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Back to x, differentiably."""
        z = z * _spread(self.std, z) + _spread(self.mean, z)
        return torch.cat([self.autoencoder.decode(piece) for piece in z.split(PIECE)])

    def resized(self, size: tuple[int, ...]) -> Self:
        """The same autoencoder for samples of other sides."""
        return self.replace(domain=self.domain.resized(size))

    def measured(self, mean: Tensor, logvar: Tensor) -> Self:
        """The same with ``mean`` and ``std`` by channel of these latents (N, C, *S): the spread of their means, and
        their own variance."""
        rows = mean.double().movedim(1, 0).flatten(1)
        within = logvar.double().exp().movedim(1, 0).flatten(1).mean(1)
        std = (rows.var(1, correction=0) + within).sqrt().clamp(min=1e-6)
        return self.replace(mean=[round(v, 6) for v in rows.mean(1).tolist()], std=[round(v, 6) for v in std.tolist()])

    def load(self, data: bytes, name: str) -> Record:
        return self.domain.load(data, name)

    def tensor(self, record: Record) -> Tensor:
        return self.domain.tensor(record)

    def collate(self, xs: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        return self.domain.collate(xs)

    def records(self, x: Tensor, mask: Tensor | None = None) -> list[Record]:
        """Decoded samples as records; ``decode`` comes before it."""
        return self.domain.records(x, mask)

    def shown(self, record: Record) -> np.ndarray:
        return self.domain.shown(record)

    def save(self, record: Record, path: Path, recipe: Mapping[str, Any] | None = None) -> Path:
        return self.domain.save(record, path, recipe)

    def blank(self, count: int, **request: Any) -> list[tuple[int, ...]]:
        """The shapes of ``count`` latents to fill; ``size`` is in the domain's own units."""
        return [self.shape(shape[1:]) for shape in self.domain.blank(count, **request)]


def seen(domain: Domain) -> Domain:
    """What a domain's samples are once decoded: the one inside a latent, any other itself."""
    return domain.domain if isinstance(domain, Latent) else domain


def _spread(values: list[float], like: Tensor) -> Tensor:
    """One number a channel, to broadcast."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).reshape(-1, *[1] * (like.ndim - 2))
