"""Adopted: a folder of Diffusers as a model file, made once and kept beside other things that can be made again."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["adopted", "recognised"]

_FILES = ("model_index.json", "config.json", "unet/config.json")  # what a folder of that library has, any of them
_VERSION = 1  # of how folders are read


def recognised(folder: Path) -> bool:
    """Whether a folder is one of Diffusers."""
    return any((folder / name).is_file() for name in _FILES)


def adopted(folder: Path) -> Path:
    """The model file of a Diffusers folder; made again only where one of its files has changed."""
    from kakusan.checkpoint import save_model
    from kakusan.runtime.fromdiffusers import members, model_from
    from kakusan.training.cache import cache_root

    digest = hashlib.sha256(f"{_VERSION}".encode())
    for name, file in sorted(members(folder).items()):
        with file.open("rb") as opened:
            digest.update(f"\0{name}\0{hashlib.file_digest(opened, 'sha256').hexdigest()}".encode())
    kept = cache_root() / "adopted" / f"{digest.hexdigest()[:32]}.safetensors"
    if not kept.is_file():
        save_model(kept, model_from(folder), {"from": str(folder), "made_by": "Diffusers"})
    return kept
