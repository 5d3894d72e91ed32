"""Asking: the words of a user (how many, which prompt, which conditions) as a Request and the names of its samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kakusan.app.draw import branches, prompts, sampler
from kakusan.app.draw.sampler import Request
from kakusan.core.model import Model
from kakusan.core.rng import mix
from kakusan.distillation.teacher import WEIGHT
from kakusan.part import KakusanError
from kakusan.training.captions import PROMPT

__all__ = ["MOST", "ask", "per_line"]

MOST = 100_000  # samples at once
MOST_SIDE = 4096  # pixels
UNASKED = 64  # prompts of wildcards that are drawn without being counted
_ORDERS = ("turn", "seed")


def per_line(path: str | Path, count: int | None, seed: int, first: int = 1) -> tuple[list[str], list[int], list[str]]:
    """A file's prompts, ``count`` samples of each with seeds from ``seed`` on: prompts, seeds, names of files."""
    lines, each = prompts.read_prompts(path, first), range(seed, seed + _counted(count or 1))
    _counted(len(each) * len(lines))
    both = [(line, at) for line in lines for at in each]
    names = [f"line-{line.number:04d}-seed-{at:06d}" for line, at in both]
    return [line.text for line, _ in both], [at for _, at in both], names


def ask(
    model: Model,
    count: int | None,
    seed: int,
    cond: Mapping[str, Any],
    negative: Mapping[str, Any],
    seeds: Sequence[int] | None = None,
    wildcards: str = "turn",
    settings: Mapping[str, Any] | None = None,
) -> Request:
    """A Request; one value of a condition serves all samples, a list one each. ``count`` None: as many as a list or
    wildcards have, or one."""
    if wildcards not in _ORDERS:
        raise KakusanError(f"--wildcards {wildcards!r}: choose turn (one after another) or seed (by chance)")
    cond, negative = ({branches.known(model, n): v for n, v in named.items()} for named in (cond, negative))
    chosen = list(seeds) if seeds is not None else [seed + i for i in range(_many(model, count, cond, negative))]
    options = dict(settings or {})
    given = {n: _each(n, v, len(chosen)) for n, v in (dict(cond) | _weight(model, options, cond)).items()}
    against = {n: _each(n, v, len(chosen)) for n, v in negative.items()}
    _expand(model, given, against, chosen, wildcards)
    if "label" in model.encoders and not {"label", PROMPT} & {*given, *against}:
        given["label"] = list(sampler.random_labels(model.encoder("label").names, chosen))
    size = options.get("size")
    if isinstance(size, int):
        size = options["size"] = (size, size)
    if size is not None and not all(1 <= n <= MOST_SIDE for n in size):
        raise KakusanError(f"--size {' x '.join(map(str, size))}: sides go from 1 to {MOST_SIDE} pixels")
    return Request(seeds=chosen, cond=given, negative=against, **options)


def _weight(model: Model, options: dict[str, Any], cond: Mapping[str, Any]) -> dict[str, float]:
    """The weight of guidance as a condition, where the model is a student that takes it as one; out of ``options``."""
    weight = options.get("guidance")
    if WEIGHT not in model.encoders or weight is None:
        return {}
    if isinstance(weight, Mapping) or WEIGHT in cond:
        raise KakusanError("--guidance: this student takes one weight for all its conditions, told once; give a number")
    options["guidance"] = None
    return {WEIGHT: branches.weight_of("--guidance", weight)}


def _counted(count: int) -> int:
    if not 1 <= count <= MOST:
        raise KakusanError(f"-n {count}: ask for 1 to {MOST:,} samples at once")
    return count


def _many(model: Model, count: int | None, cond: Mapping[str, Any], negative: Mapping[str, Any]) -> int:
    """How many samples: as asked; else as many as there are values, or prompts that wildcards stand for."""
    if count is not None:
        return _counted(count)
    values = [(name, v) for named in (cond, negative) for name, v in named.items()]
    if lists := [len(v) for _, v in values if isinstance(v, (list, tuple))]:
        return _counted(lists[0])
    total = math.prod(len(_choices(model, name, v)) for name, v in values)
    if total > UNASKED:
        raise KakusanError(f"the wildcards stand for {total:,} prompts: say how many samples to draw, as -n {UNASKED}")
    return total


def _each(name: str, value: Any, count: int) -> list[Any]:
    """A value for each sample."""
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise KakusanError(f"condition {name!r}: {len(value)} values for {count} samples; give one, or one each")
    return list(value)


def _choices(model: Model, name: str, value: Any) -> list[Any]:
    return prompts.choices(value, getattr(model.encoder(name), "names", ()))


def _expand(
    model: Model, given: dict[str, list[Any]], against: dict[str, list[Any]], seeds: Sequence[int], order: str
) -> None:
    """Wildcards and mixes in place: a sample takes the combination that its seed counts to, or that it draws."""
    for i, seed in enumerate(seeds):
        at = seed if order == "turn" else mix(int(seed), "wildcard")
        for named in (against, given):  # the first condition given turns slowest
            for name in reversed(named):
                found = _choices(model, name, named[name][i])
                at, which = divmod(at, len(found))
                named[name][i] = prompts.parse(found[which], getattr(model.encoder(name), "names", ()))
