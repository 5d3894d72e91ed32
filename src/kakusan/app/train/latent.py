"""read_latent: the autoencoder that ``--latent`` names, with the scale of its latent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from kakusan.app.train import rundir
from kakusan.checkpoint import load_model, load_module, read_info
from kakusan.domains.latent import Latent
from kakusan.part import KakusanError

__all__ = ["read_latent"]


def read_latent(path: str | Path, device: torch.device | str = "cpu", flag: str = "--latent") -> Latent:
    """The autoencoder of a run or a file, with its pictures' domain and the scale of its latent: a file of its own, or
    that inside a model of its latent."""
    file = rundir.find_model(path)
    spec = read_info(file)["spec"]
    kind, domain = spec.get("kind"), spec.get("domain")
    if kind == "model" and isinstance(domain, Mapping) and domain.get("kind") == Latent.kind:
        inside = load_model(file, device)[0].domain
        assert isinstance(inside, Latent)
        return inside
    if kind != Latent.kind:
        what = "a diffusion model of pictures themselves" if kind == "model" else f"a {kind!r}"
        raise KakusanError(f"{flag} {path}: is {what}, no autoencoder; make one: kakusan train DATA --autoencoder")
    found, _ = load_module(file, device)
    assert isinstance(found, Latent)
    return found
