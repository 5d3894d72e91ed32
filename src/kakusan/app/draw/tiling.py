"""Seamless pictures: the same weights in networks whose convolutions see the opposite border."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from kakusan.core.denoiser import Denoiser, Net
from kakusan.core.model import Model
from kakusan.domains.latent import Latent
from kakusan.part import KakusanError

__all__ = ["tiled"]


def tiled(model: Model, shapes: Sequence[tuple[int, ...]]) -> Model:
    """A model with circular padding that shares the weights of this one, which is left as it is: others may be
    sampling from it. ``shapes`` are those of the samples, (C, *S)."""
    if isinstance(model.domain, Latent):
        raise KakusanError("--tile: this model diffuses in a latent, whose decoder sees borders; use a model of pixels")
    _fits(model.denoiser.net, shapes)
    twin = Model(_round(model.denoiser), model.domain, {n: model.encoder(n) for n in model.encoders}, model.defaults)
    if model.weak is None:
        return twin.train(model.training)
    weak = Model(_round(model.weak.denoiser), encoders={n: model.weak.encoder(n) for n in model.weak.encoders})
    return twin.beside(weak)


def _round(denoiser: Denoiser) -> Denoiser:
    net = denoiser.net
    with torch.device("meta"):
        twin = net.replace(padding="circular")
    twin.load_state_dict(net.state_dict(), assign=True)
    return Denoiser(twin.train(net.training), denoiser.process, denoiser.param, denoiser.space)


def _fits(net: Net, shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuses networks that cannot tile, and sizes that would not tile exactly."""
    if "padding" not in net.signature().parameters:
        raise KakusanError(f"--tile: {net.kind} has no borders to join; it needs a net/unet")
    step = int(getattr(net, "multiple", 1))
    for size in {tuple(s[1:]) for s in shapes}:
        if any(n % step for n in size):
            near = step * max(1, math.ceil(max(size) / step))
            raise KakusanError(
                f"--tile: sides of {' x '.join(map(str, reversed(size)))} do not join exactly in this network, "
                f"multiples of {step} do: use --size {near}"
            )
