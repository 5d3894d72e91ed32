"""A model's weights in one with other conditions: vectors enter by columns, pictures by ways of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from kakusan.core.model import Model

__all__ = ["columns", "pasted"]

NAME = "denoiser.net.vector_in.weight"
BIAS = "denoiser.net.embed.0.bias"  # what the vectors are added to


def pasted(model: Model, source: Model) -> dict[str, Tensor]:
    """The source's weights that fit into ``model`` by name and shape, those of vector conditions as ``columns`` moves
    them.

    A picture as a condition (``Cond.field``) has layers of its own (``field_stem``, ``field_bypass``, ``field_gain``),
    which begin at zero: a model that takes the picture to change then gives what its source, a model of words, gives
    (Brooks et al. 2023, section 3.2, who add channels of zeros to the first layer).
    """
    own, given = model.state_dict(), source.state_dict() | columns(model, source)
    return {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}


def columns(model: Model, source: Model) -> dict[str, Tensor]:
    """The source's weights of the vector port, column by column where ``model`` has them: a condition that only
    ``model`` has enters by zeros, so that it changes nothing at first; one that only the source has stays at its null,
    in the bias. Empty where nothing has to move."""
    own, given = model.state_dict().get(NAME), source.state_dict().get(NAME)
    mine, theirs = _layout(model), _layout(source)
    if given is None or mine == theirs or (own is not None and len(own) != len(given)):
        return {}
    bias = source.state_dict().get(BIAS)
    found: dict[str, Tensor] = {}
    if bias is not None and len(bias) == len(given):
        gone = [(given[:, theirs[n][0] : theirs[n][1]] @ _null(source, n)) for n in theirs if n not in mine]
        found[BIAS] = bias + sum(gone, torch.zeros_like(bias))
    if own is None:
        return found
    moved = torch.zeros_like(own, device=given.device)
    for name, (first, last) in mine.items():
        begin, end = theirs.get(name, (0, 0))
        if last - first == end - begin:
            moved[:, first:last] = given[:, begin:end]
    return found | {NAME: moved}


def _layout(model: Model) -> dict[str, tuple[int, int]]:
    """First column and end of each condition's vector."""
    found: dict[str, tuple[int, int]] = {}
    place = 0
    for name in model.encoders:
        vector = _null(model, name)
        if vector is not None:
            found[name] = (place, place + len(vector))
            place += len(vector)
    return found


@torch.no_grad()
def _null(model: Model, name: str) -> Tensor | None:
    """The vector (D,) of a condition that is not given; None where it has no vector."""
    encoder, device = model.encoder(name), next(model.parameters()).device
    null = {k: v.to(device) for k, v in encoder.null(1).items()}
    vector = encoder(null, torch.zeros(1, dtype=torch.bool, device=device)).vector
    return None if vector is None else vector[0]
