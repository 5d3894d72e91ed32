"""read_latent: the autoencoder that ``--latent`` names, with the scale of its latent."""

from __future__ import annotations

from pathlib import Path

import torch

from kakusan.app.train import rundir
from kakusan.checkpoint import load_module, read_info
from kakusan.domains.latent import Latent
from kakusan.part import KakusanError

__all__ = ["read_latent"]


def read_latent(path: str | Path, device: torch.device | str = "cpu", flag: str = "--latent") -> Latent:
    """The autoencoder of a run or a file, with its pictures' domain and the scale of its latent."""
    file = rundir.find_model(path)
    kind = read_info(file)["spec"].get("kind")
    if kind != Latent.kind:
        what = "a diffusion model" if kind == "model" else f"a {kind!r}"
        raise KakusanError(f"{flag} {path}: is {what}, no autoencoder; make one: kakusan train DATA --autoencoder")
    found, _ = load_module(file, device)
    assert isinstance(found, Latent)
    return found
