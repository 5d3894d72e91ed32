"""What a student hears: its teacher's denoiser with the guidance that it is to have inside, and conditions drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from kakusan.core.batch import Batch, Inputs
from kakusan.core.guide import Autoguidance, ClassifierFree, Denoise, Guide, Plain, Relaxed, pair
from kakusan.core.model import Model
from kakusan.core.objective import Denoising
from kakusan.core.rng import Rng
from kakusan.part import KakusanError

__all__ = ["WEIGHT", "conditions", "dropped_again", "guided", "needed"]

WEIGHT = "guidance"  # the condition, and its input, of a student that takes the weight of guidance as an input


def needed(teacher: Model | None, kind: str) -> Model:
    """The teacher, where an objective cannot do without."""
    if teacher is None:
        raise KakusanError(f"{kind} follows a teacher here: run it with kakusan distill")
    return teacher


def conditions(
    model: Model, batch: Batch, rng: Rng, draws: Denoising, step: int, count: int | None = None
) -> tuple[Inputs, dict[str, Tensor]]:
    """The conditions of the batch's first ``count`` rows with what is random about them drawn, and which are kept.

    A student that takes the weight of guidance as an input has one drawn for every row.
    """
    rows = slice(None if count is None else count)
    x0 = batch.x0[rows]
    given = {name: {k: v[rows] for k, v in values.items()} for name, values in batch.inputs.items()}
    if WEIGHT in model.encoders:
        given[WEIGHT] = model.encoder(WEIGHT).null(len(x0))
    part = model.drawn(replace(batch, x0=x0, inputs=given), rng)
    return part.inputs, {n: k for n, k in draws.keep(part, rng, step).items() if model.encoder(n).droppable}


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
    Weights among the ``inputs``, one a row, take the place of ``guidance``, unless the teacher is a student that takes
    them itself.
    """
    each = None
    if WEIGHT in inputs and WEIGHT not in model.encoders:
        each = inputs[WEIGHT][WEIGHT].tolist()
        inputs = {name: values for name, values in inputs.items() if name != WEIGHT}
    full = model.cond(inputs, keep, count, mask)
    guide: Guide = Plain()
    conds = [full]
    if each is not None or guidance != 1:
        guide = ClassifierFree(guidance) if each is None else Relaxed(ClassifierFree(2.0), [w - 1 for w in each])
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


@contextmanager
def dropped_again(device: torch.device) -> Iterator[None]:
    """What is evaluated next after this drops the same units as what is evaluated inside."""
    cuda = device.type == "cuda"
    before = torch.cuda.get_rng_state(device) if cuda else torch.get_rng_state()
    yield
    if cuda:
        torch.cuda.set_rng_state(before, device)
    else:
        torch.set_rng_state(before)
