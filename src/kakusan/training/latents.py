"""Latents: the pictures of a run in an autoencoder's latent, encoded once where they fit memory."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from kakusan.core.autoencoder import drawn
from kakusan.core.rng import Rng
from kakusan.domains.image import Image
from kakusan.domains.latent import Latent

__all__ = ["LIMIT", "Latents"]

LIMIT = 1 << 30  # bytes of moments that are kept, at most
PIECE = 256  # pictures read at once


class Latents:
    """Mean and log-variance of every picture of a cache, (N, 1 or 2 with its mirror image, 2 C, h, w) in float16.

    Where they take more than ``limit`` bytes, or ``keep`` is False since pictures are augmented, nothing is ``kept``
    and each batch is encoded as it comes. What is kept is a function of the pixels and the autoencoder alone, computed
    in the same pieces by every process and again on resume, so that an interrupted run sees the same latents.
    """

    def __init__(
        self,
        latent: Latent,
        domain: Image,
        pixels: np.ndarray,
        flip: bool = False,
        keep: bool = True,
        limit: int = LIMIT,
    ) -> None:
        self.latent, self.domain, self.pixels, self.flip = latent.eval(), domain, pixels, flip
        shape = latent.shape(domain.size)
        self.shape = (1 + flip, 2 * shape[0], *shape[1:])
        self.kept = keep and 2 * len(pixels) * math.prod(self.shape) <= limit
        self._moments: Tensor | None = None
        self._lock = threading.Lock()

    def prepare(self, tell: Callable[[int, int], None] = lambda done, total: None) -> Tensor:
        """Encode what is to be kept; done by the first use where it was not before."""
        with self._lock:
            if self._moments is None:
                made = torch.empty(len(self.pixels), *self.shape, dtype=torch.float16)
                for first in range(0, len(made), PIECE):
                    made[first : first + PIECE] = self._encoded(np.array(self.pixels[first : first + PIECE]))
                    tell(min(first + PIECE, len(made)), len(made))
                self._moments = made
            return self._moments

    def rows(self, at: np.ndarray) -> Tensor:
        """What is kept of some pictures of the cache."""
        return self.prepare()[torch.from_numpy(np.asarray(at, np.int64))]

    def drawn(self, kept: Tensor, turned: Tensor | None, rng: Rng) -> Tensor:
        """Latents (n, C, h, w) of what ``rows`` gave, of the mirror image where ``turned`` (n,) says so."""
        which = torch.zeros(len(kept), dtype=torch.long) if turned is None else turned.long()
        own = kept[torch.arange(len(kept)), which.to(kept.device, non_blocking=True)].float()
        mean, logvar = own.chunk(2, 1)
        return self.latent.scaled(drawn(mean, logvar, rng))

    def means(self, at: np.ndarray, turned: Tensor | None = None) -> Tensor:
        """The mean latents (n, C, h, w) of some pictures on the CPU, of their mirror images where ``turned``."""
        which = torch.zeros(len(at), dtype=torch.long) if turned is None else turned.long()
        own = self.rows(at) if self.kept else self._encoded(np.array(self.pixels[at]))
        return self.latent.scaled(own[torch.arange(len(at)), which].float().chunk(2, 1)[0])

    @torch.no_grad()
    def _encoded(self, pixels: np.ndarray) -> Tensor:
        x = self.domain.floats(pixels)
        sides = [x, x.flip(3)] if self.flip else [x]
        return torch.stack([torch.cat(self.latent.moments(side), 1) for side in sides], 1).to("cpu", torch.float16)
