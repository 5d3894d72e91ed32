"""guided: a teacher's whole denoiser, with the guidance that a student is to have inside."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kakusan.core.batch import Inputs
from kakusan.core.guide import Autoguidance, ClassifierFree, Denoise, Guide, Plain, pair
from kakusan.core.model import Model
from kakusan.part import KakusanError

__all__ = ["guided"]


def guided(
    model: Model,
    inputs: Inputs,
    keep: Mapping[str, Tensor],
    count: int,
    mask: Tensor | None = None,
    guidance: float = 1.0,
    autoguidance: float = 1.0,
) -> Denoise:
    """(x (B, C, *S), t () or (B,), s) to x0: classifier-free guidance of these weights, 1 being none.

    Rows whose conditions are not kept have nothing to be guided by: there the guided estimate is the plain one. A
    condition that is never dropped (``droppable``), or not by the weight of all (``guided``), is in both branches.
    """
    full = model.cond(inputs, keep, count, mask)
    guide: Guide = Plain()
    conds = [full]
    if guidance != 1:
        guide = ClassifierFree(guidance)
        left = [name for name in inputs if model.encoder(name).droppable and model.encoder(name).guided]
        off = {name: torch.zeros(count, dtype=torch.bool) for name in left}
        conds = [model.cond(inputs, dict(keep) | off, count, mask), full]
    branches = model.branches(conds)
    if autoguidance != 1:
        if model.weak is None:
            raise KakusanError(f"autoguidance={autoguidance:g}: the teacher has no weak model beside it; leave it out")
        guide = Autoguidance(autoguidance, guide)
        branches = pair(model.weak.branches([model.weak.cond(inputs, keep, count, mask)]), branches)
    return guide(branches)
