"""The picture that each sample of a run's report was drawn by, to look at beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from kakusan.app.draw.given import Given
from kakusan.app.train import spatial
from kakusan.conditions.spatial import LowResolution, Map
from kakusan.domains.image import Image
from kakusan.domains.latent import seen
from kakusan.training.maps import MAP
from kakusan.training.pairs import SOURCE
from kakusan.training.references import STYLE

if TYPE_CHECKING:
    from kakusan.app.draw.loaded import Loaded
    from kakusan.app.train.project import Project

__all__ = ["WORDS", "shown_by"]

WORDS = {  # by the condition that the picture is
    SOURCE: "On the left is the picture to be changed.",
    spatial.LOW: "On the left is the small picture to be enlarged.",
    MAP: "On the left is the map that it was drawn by.",
    STYLE: "On the left is the picture whose style was asked for.",
}


def shown_by(loaded: Loaded, project: Project, count: int) -> tuple[str, list[np.ndarray | None]]:
    """What the pictures are, and that of each of the first ``count`` samples; empty where there are none.

    Of several kinds of pictures it is the one that decides most: the one to change, to enlarge, the map, the style.
    """
    asked = spatial.drawn_by(loaded.model, project, range(count))
    name = next((name for name in WORDS if name in asked), None)
    if name is None:
        return "", []
    return WORDS[name], [_shown(loaded, name, given) for given in asked[name]]


@torch.no_grad()
def _shown(loaded: Loaded, name: str, given: Given | None) -> np.ndarray | None:
    if given is None:
        return None
    encoder, domain, value = loaded.model.encoder(name), seen(loaded.domain), given.value
    if isinstance(encoder, LowResolution):
        small, _ = value  # and how much noise is in it
        value = small.repeat_interleave(encoder.factor, 1).repeat_interleave(encoder.factor, 2)
    elif isinstance(encoder, Map):
        domain = Image([int(n) for n in value.shape[1:]], encoder.mode, 8)
    elif name == SOURCE:
        value = loaded.domain.decode(value[None].to(loaded.device))[0]
    return domain.shown(domain.records(value[None].cpu())[0])
