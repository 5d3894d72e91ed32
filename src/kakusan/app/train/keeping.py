"""What a model keeps while it is trained on: samples of its own, drawn once at the start and kept in the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from kakusan.app.draw import sampler
from kakusan.app.draw.loaded import Loaded
from kakusan.app.draw.prompts import read_prompts
from kakusan.app.draw.sampler import Request
from kakusan.app.train.rundir import RunDir
from kakusan.catalog import build
from kakusan.checkpoint import canonical, write_tensors
from kakusan.conditions.prompt import escape
from kakusan.core.model import Encoder, Model
from kakusan.core.rng import mix
from kakusan.part import KakusanError, Spec
from kakusan.training.captions import PROMPT
from kakusan.training.kept import Kept

__all__ = ["COUNT", "check", "draw", "listed", "read"]

COUNT = 64  # samples, where no number is said and there are no more prompts
MOST = 10_000
AT_ONCE = 16


def listed(words: str | Sequence[str] | None) -> list[str] | None:
    """What is to be kept as a list, files of prompts (``.txt``, one a line) by their prompts."""
    found: list[str] = []
    for word in [words] if isinstance(words, str) else words or ():
        if word.lower().endswith(".txt"):
            if not Path(word).is_file():
                raise KakusanError(f"--keep {word}: no such file; it is a text file with one prompt a line")
            found += [line.text for line in read_prompts(word)]
        else:
            found.append(word)
    return None if words is None else found


def check(words: Sequence[str], encoders: Mapping[str, Spec]) -> None:
    """Refuses what a model with these encoders cannot be asked to keep."""
    said, count = _parsed(words)
    if not 1 <= count <= MOST:
        raise KakusanError(f"--keep {count}: keep between 1 and {MOST:,} samples; {COUNT} are usual")
    if said and PROMPT not in encoders and "label" not in encoders:
        raise KakusanError(f"--keep {said[0]!r}: this model takes neither words nor classes; say how many, --keep 64")
    if said and PROMPT not in encoders:
        label = build(encoders["label"], "model.encoders.label")
        assert isinstance(label, Encoder)
        label.prepare(list(said))


def _parsed(words: Sequence[str]) -> tuple[list[str], int]:
    """What is to be kept, and how many samples in all."""
    numbers = [int(word) for word in words if word.strip().isdecimal()]
    if len(numbers) > 1:
        raise KakusanError(f"--keep {numbers[0]} and --keep {numbers[1]}: say once how many")
    return [word for word in words if not word.strip().isdecimal()], numbers[0] if numbers else max(COUNT, len(words))


def asked(model: Model, words: Sequence[str], seed: int) -> Request:
    """The request that draws what is kept: words as prompts (of a model that reads none as classes) in turn; classes
    that are not said by each sample's seed."""
    said, count = _parsed(words)
    seeds = [mix(seed, "kept", i) & 0x7FFFFFFF for i in range(count)]
    cond: dict[str, list[Any]] = {}
    if "label" in model.encoders:
        cond["label"] = list(sampler.random_labels(model.encoder("label").names, seeds))
    if said:
        name = PROMPT if PROMPT in model.encoders else "label"
        cond[name] = [said[i % len(said)] for i in range(count)]
    return Request(seeds=seeds, cond=cond)


def draw(
    run: RunDir, base: Loaded, words: Sequence[str], seed: int, size: tuple[int, ...],
    tell: Callable[[int, int], None], stop: Callable[[], bool],
) -> bool:  # fmt: skip
    """Draw what is kept with the model's own defaults and write it; False when asked to stop on the way."""
    request = asked(base.model, words, seed)
    shapes = base.domain.blank(1, size=size)
    made: list[torch.Tensor] = []
    while len(made) < len(request.seeds):
        rows = range(len(made), min(len(request.seeds), len(made) + AT_ONCE))
        for step in sampler.steps(base.model, _literal(request.rows(rows)), shapes * len(rows)):
            if stop():
                return False
            if step.t == 0:
                made += list(step.x.float().cpu())
        tell(len(made), len(request.seeds))
    write_tensors(run.kept, {"x0": torch.stack(made)}, {"cond": canonical(request.cond)})
    return True


def _literal(request: Request) -> Request:
    """The same with prompts that mean themselves, as captions do."""
    if PROMPT in request.cond:
        request.cond[PROMPT] = [escape(str(words)) for words in request.cond[PROMPT]]
    return request


def read(run: RunDir, words: Sequence[str], model: Model, seed: int) -> Kept:
    """What was drawn, with what each was asked to be."""
    x0 = safetensors.torch.load_file(run.kept)["x0"]
    cond = asked(model, words, seed).cond
    if any(len(values) != len(x0) for values in cond.values()):
        raise KakusanError(f"{run.kept}: holds {len(x0)} samples, another number than this run keeps; delete it")
    return Kept(x0, cond)
