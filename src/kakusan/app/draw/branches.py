"""From settled options and conditions to one guided denoiser: which branches are evaluated, and how they are joined."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from kakusan.app.draw import given
from kakusan.app.draw.prompts import Mix, Term
from kakusan.core.batch import Cond, Inputs
from kakusan.core.guide import (
    Apart,
    Autoguidance,
    Branches,
    Chain,
    ClassifierFree,
    Denoise,
    Guide,
    Interval,
    Plain,
    Relaxed,
    Share,
    mixed,
    pair,
)
from kakusan.core.model import Model
from kakusan.core.rng import Rng
from kakusan.core.strong import APG, Rescaled, Thresholded
from kakusan.part import KakusanError

__all__ = ["MOST_WEIGHT", "count", "denoiser", "known", "settle", "weight_of"]

MOST_WEIGHT = 100.0  # of any guidance, either way
MOST_BRANCHES = 32  # evaluated for one sample
MOST_LEVEL = 1e6  # a noise level sigma/alpha
_BOUNDS = {"guidance_rescale": (0.0, 1.0), "apg": (0.0, 1e3), "threshold": (0.5, 1.0), "chaos": (0.0, 100.0)}

Values = Mapping[str, Sequence[Any]]  # condition name -> one value a sample
Tree = dict[str, Any]
Where = tuple[slice, slice]


def known(model: Model, name: str) -> str:
    """The name of a condition of this model, or the one that is called so; raises KakusanError with the nearest."""
    if name in model.encoders:
        return name
    called = {str(getattr(model.encoder(n), "called", n)): n for n in model.encoders if _asked(model, n)}
    if name in called:
        return called[name]
    names = list(called)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? it has: " if near else "it has: "
    raise KakusanError(f"this model has no condition {name!r}; {hint}{', '.join(names) or 'none: it is unconditional'}")


def _asked(model: Model, name: str) -> bool:
    """Whether a condition is for users to ask for."""
    return name != "augment" and not model.encoder(name).timed


def _guided(model: Model, name: str) -> bool:
    """Whether a condition is guided by the weight of all; augmentation and pictures are in every branch."""
    return name != "augment" and model.encoder(name).guided


def weight_of(name: str, value: Any) -> float:
    """A guidance weight as a number within its bounds."""
    try:
        weight = float(value)
    except (TypeError, ValueError):
        weight = math.nan
    if not math.isfinite(weight):
        raise KakusanError(f"{name} {value}: need a number; 1 is no guidance, 2 to 4 is usual")
    if abs(weight) > MOST_WEIGHT:
        raise KakusanError(f"{name} {weight:g}: weights go from -{MOST_WEIGHT:g} to {MOST_WEIGHT:g}; 2 to 4 is usual")
    return weight


def settle(
    model: Model, asked: Tree, defaults: Tree, cond: Iterable[str], negative: Iterable[str], autoguidance: float
) -> Tree:
    """The options of guidance, checked: ``guidance`` always, or the model's default; the others where they are used."""
    told = defaults["guidance"] if asked.get("guidance") is None else asked["guidance"]
    own = told if isinstance(told, Mapping) else {}
    active = [n for n in model.encoders if n in {*cond, *negative} and (n in own or _guided(model, n))]
    weights = _weights(model, asked.get("guidance"), defaults["guidance"], active)
    out: Tree = {"guidance": weights}
    guided = any(w != 1 for w in (weights.values() if isinstance(weights, dict) else [weights]))
    for name, flag in (("guidance_interval", "--guidance-interval"), ("guidance_rescale", "--guidance-rescale"),
                       ("apg", "--apg"), ("negative", "--negative")):  # fmt: skip
        wanted = list(negative) if name == "negative" else asked.get(name)
        if wanted not in (None, []) and not guided:
            raise KakusanError(f"{flag}: steers guidance, and there is none: add --guidance 3")
    if isinstance(weights, dict) and _leading(model, weights) and asked.get("apg") is not None:
        raise KakusanError(f"--apg {asked['apg']:g}: does not go with a picture that has a weight of its own")
    for name in negative if isinstance(weights, dict) else ():
        if weights[name] == 1:
            raise KakusanError(f"--negative {name}: steers its guidance, and there is none: add --guidance {name}=3")
    if (interval := asked.get("guidance_interval")) is not None:
        out["guidance_interval"] = _interval(interval)
    for name, (low, high) in _BOUNDS.items():
        if (value := asked.get(name)) is not None:
            out[name] = _between(f"--{name.replace('_', '-')}", value, low, high)
    if out.get("chaos") and not guided and autoguidance == 1:
        raise KakusanError("--chaos: loosens guidance, and there is none: add --guidance 3")
    return out


def _weights(model: Model, asked: Any, default: Any, active: list[str]) -> float | dict[str, float]:
    """One weight for all conditions together, or one for each that is there."""
    if isinstance(asked, Mapping):
        asked = {known(model, name): weight for name, weight in asked.items()}
        for name in asked:
            if name not in active:
                raise KakusanError(f"--guidance {name}={asked[name]}: no {name} is asked for; add --cond {name}=VALUE")
    elif asked is not None:
        weight = weight_of("--guidance", asked)
        if weight != 1 and not [n for n in model.encoders if _asked(model, n)]:
            raise KakusanError(f"--guidance {weight:g}: this model has no conditions to be guided by; leave it out")
        return weight
    elif not isinstance(default, Mapping):
        return float(default) if active else 1.0
    rest = default if isinstance(default, Mapping) else dict.fromkeys(active, default)
    each = {**{n: float(rest.get(n, 1.0)) for n in active}, **dict(asked or {})}
    named = {n: weight_of(f"--guidance {n}", w) for n, w in each.items() if n in active}
    alone = len(named) < 2 and all(_guided(model, n) for n in named)
    return next(iter(named.values()), 1.0) if alone else named


def _interval(value: Any) -> list[float]:
    """(low, high) noise levels sigma/alpha."""
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not 0 <= low < high <= MOST_LEVEL:
        shown = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        raise KakusanError(
            f"--guidance-interval {shown}: need LOW,HIGH with 0 <= LOW < HIGH <= {MOST_LEVEL:g}, both sigma/alpha"
        )
    return [low, high]


def _between(flag: str, value: Any, low: float, high: float) -> float:
    number = float(value)
    if not low <= number <= high:
        raise KakusanError(f"{flag} {number:g}: choose a number from {low:g} to {high:g}")
    return number


def count(settled: Tree) -> int:
    """Evaluations of a network at one noise level, for the sample (or default settings) that ``settled`` describes."""
    cond, negative = settled.get("cond") or {}, settled.get("negative") or {}
    parts = [_terms(v) for v in cond.values()]
    full = math.prod(parts)
    off = math.prod(_terms(v) for v in negative.values())
    weights = settled["guidance"]
    if isinstance(weights, dict):
        own = {n: _terms(cond[n]) if n in cond else 1 for n in weights}
        others = [full // own[n] * (_terms(negative[n]) if n in negative else 1) for n, w in weights.items() if w != 1]
    else:
        others = [off] if weights != 1 else []
    return full + sum(others) + (full if settled["autoguidance"] != 1 else 0)


def _terms(value: Any) -> int:
    if isinstance(value, Mix):
        return len(value.terms)
    return len(value["mix"]) if isinstance(value, dict) and "mix" in value else 1


def denoiser(
    model: Model, settled: Tree, cond: Values, negative: Values, seeds: Sequence[int], where: Where | None = None
) -> Denoise:
    """What the solver calls: the branches of a batch, evaluated together, joined as ``settled`` says.

    ``where``: the rows and columns of a window, to which fields are cut.
    """
    device = next(model.parameters()).device
    places = _places(model, settled["guidance"], cond, negative)
    branches = _branches(model, [*places, cond], len(seeds), where)
    guide = _guide(model, settled, len(places))
    if model.weak is not None and settled["autoguidance"] != 1:
        guide = Autoguidance(settled["autoguidance"], guide)
        branches = pair(_branches(model.weak, [cond], len(seeds), where), branches)
    if settled.get("chaos"):
        loose = settled["chaos"] / 100 * Rng(seeds, device).uniform("chaos")[:, 0]
        guide = Relaxed(guide, (1 - loose).tolist())
    if settled.get("threshold"):
        guide = Thresholded(guide, settled["threshold"])
    return guide(branches)


def _places(model: Model, weights: Any, cond: Values, negative: Values) -> list[Values]:
    """The conditions of every branch but the last, which has them all: none, or all but one; what is negative stands in
    their place. Where one is leading: none, that one, and so on."""
    kept = {n: v for n, v in cond.items() if not _guided(model, n)}
    if not isinstance(weights, dict):
        return [kept | dict(negative)] if weights != 1 else []
    if names := _leading(model, weights):
        always = {n: v for n, v in cond.items() if n not in names}
        ways = [({n: cond[n] for n in names[:i] if n in cond}, names[i:]) for i in range(len(names))]
        return [always | before | {n: negative[n] for n in rest if n in negative} for before, rest in ways]
    out: list[Values] = []
    for name, weight in weights.items():
        if weight != 1:
            rest = {n: v for n, v in cond.items() if n != name}
            out.append(rest | ({name: negative[name]} if name in negative else {}))
    return out


def _leading(model: Model, weights: Mapping[str, float]) -> list[str]:
    """The conditions with weights in the order of a chain, from the first whose weight is not 1 on, where one of them
    leads; else none."""
    names = sorted(weights, key=lambda n: not model.encoder(n).leading)
    while names and weights[names[0]] == 1:
        del names[0]
    return names if any(model.encoder(n).leading for n in weights) else []


def _guide(model: Model, settled: Tree, places: int) -> Guide:
    """The guide of ``places`` branches and the full one."""
    weights = settled["guidance"]
    chained = _leading(model, weights) if isinstance(weights, dict) else []
    each = [w for w in weights.values() if w != 1] if isinstance(weights, dict) else [weights]
    if not places:
        return Plain()
    guide: Guide
    if chained:
        guide = Chain([weights[name] for name in chained])
    elif settled.get("apg") is not None:
        guide = APG(each, limit=settled["apg"])
    else:
        guide = Apart(each) if isinstance(weights, dict) else ClassifierFree(weights)
    if settled.get("guidance_rescale"):
        guide = Rescaled(guide, settled["guidance_rescale"])
    if interval := settled.get("guidance_interval"):
        low, high = interval
        bottom = -math.log(low) if low else math.inf
        guide = Interval(guide, model.denoiser.process, -math.log(high), bottom)
    return guide


def _branches(model: Model, places: Sequence[Values], batch: int, where: Where | None = None) -> Branches:
    """A branch for each set of conditions, in one batched evaluation; blends are means of several."""
    conds: list[Cond] = []
    means: list[list[Share]] = []
    for values in places:
        rows = [_row({n: v[i] for n, v in values.items()}) for i in range(batch)]
        width = max(len(row) for row in rows)
        shares = []
        for j in range(width):
            here = [row[j] if j < len(row) else (row[0][0], 0.0, 0.0, math.inf) for row in rows]
            weight, low, high = (torch.tensor(v, dtype=torch.float64) for v in list(zip(*here, strict=True))[1:])
            shares.append(Share(len(conds), weight, low, high))
            made = model.cond(prepare(model, {n: [chosen[0][n] for chosen in here] for n in values}, batch), {}, batch)
            conds.append(made if where is None else made.within(*where))
        means.append(shares)
    if len(conds) > MOST_BRANCHES:
        raise KakusanError(
            f"blends and guidance make {len(conds)} branches of a sample; at most {MOST_BRANCHES}: blend fewer"
        )
    branches = model.branches(conds)
    return branches if len(conds) == len(means) else mixed(branches, means, model.denoiser.process)


def _row(values: Mapping[str, Any]) -> list[tuple[dict[str, Any], float, float, float]]:
    """One sample's conditions without mixes: (values, weight, low, high) for each combination of their terms."""
    terms = [v.terms if isinstance(v, Mix) else (Term(v),) for v in values.values()]
    out = []
    for chosen in itertools.product(*terms):
        low, high = max((t.low for t in chosen), default=0.0), min((t.high for t in chosen), default=math.inf)
        if low < high:
            named = dict(zip(values, (t.value for t in chosen), strict=True))
            out.append((named, math.prod(t.weight for t in chosen), low, high))
    return out


def prepare(model: Model, cond: Values, batch: int) -> Inputs:
    """Values by condition name to prepared inputs."""
    inputs: Inputs = {}
    for name, values in cond.items():
        if len(values) != batch:
            raise KakusanError(f"condition {name!r}: {len(values)} values for {batch} samples; give one, or one each")
        inputs[name] = model.encoder(name).prepare(given.values(values))
    return inputs
