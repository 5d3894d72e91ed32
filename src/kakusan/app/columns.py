"""The columns through which vector conditions enter a network, for a model with other conditions than its source."""

from __future__ import annotations

import torch
from torch import Tensor

from kakusan.core.model import Model

__all__ = ["columns"]

NAME = "denoiser.net.vector_in.weight"


def columns(model: Model, source: Model) -> dict[str, Tensor]:
    """The source's weights of the vector port, column by column where ``model`` has them: a condition that only
    ``model`` has enters by zeros, so that it changes nothing at first. Empty where nothing has to move."""
    own, given = model.state_dict().get(NAME), source.state_dict().get(NAME)
    mine, theirs = _layout(model), _layout(source)
    if own is None or given is None or mine == theirs or len(own) != len(given):
        return {}
    moved = torch.zeros_like(own, device=given.device)
    for name, (first, last) in mine.items():
        begin, end = theirs.get(name, (0, 0))
        if last - first == end - begin:
            moved[:, first:last] = given[:, begin:end]
    return {NAME: moved}


def _layout(model: Model) -> dict[str, tuple[int, int]]:
    """First column and end of each condition's vector."""
    found: dict[str, tuple[int, int]] = {}
    place = 0
    for name in model.encoders:
        encoder = model.encoder(name)
        device = next(model.parameters()).device
        null = {k: v.to(device) for k, v in encoder.null(1).items()}
        with torch.no_grad():
            vector = encoder(null, torch.zeros(1, dtype=torch.bool, device=device)).vector
        if vector is not None:
            found[name] = (place, place + vector.shape[1])
            place += vector.shape[1]
    return found
