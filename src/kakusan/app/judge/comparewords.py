"""What a comparison's figures say, in words: means over seeds, their intervals, and which differences are real."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

__all__ = ["METRICS", "Difference", "Metric", "Spread", "difference", "named", "rounded", "spread", "state", "story"]

# two-sided 95% quantiles of Student's t for 1, 2, ... degrees of freedom
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
COLLAPSED = 0.5  # pictures this much more alike than real ones of a class, in features and in their coarse shape
WORSENED = 2.0  # times the best kernel distance on the way


@dataclass(frozen=True)
class Metric:
    """A figure of a run: its key, its name, whether more is better."""

    key: str
    name: str
    higher: bool


METRICS = (
    Metric("frechet", "Fréchet distance", False),
    Metric("kernel", "kernel distance", False),
    Metric("precision", "precision", True),
    Metric("density", "density", True),
    Metric("recall", "recall", True),
    Metric("coverage", "coverage", True),
    Metric("accuracy", "label accuracy", True),
    Metric("seconds", "seconds a picture", False),
)
_BY_KEY = {m.key: m for m in METRICS}
_NAMES = {"diffusion": "the diffusion model", "gan-r3": "R3GAN", "gan-classic": "the classic GAN"}


@dataclass(frozen=True)
class Spread:
    """Values over seeds: their mean, standard error (None: unknown), degrees of freedom, how many."""

    mean: float
    error: float | None
    freedom: float
    count: int

    @property
    def half(self) -> float | None:
        """Half the width of the 95% interval of the mean."""
        return None if self.error is None else _quantile(self.freedom) * self.error


def _quantile(freedom: float) -> float:
    """Student's t, 95% two-sided; fractions of a degree round down, which is the safe side."""
    if freedom >= len(_T) + 1:
        return 1.96 + 2.5 / freedom
    return _T[max(1, math.floor(freedom)) - 1]


def spread(runs: Sequence[dict[str, Any]], key: str) -> Spread | None:
    """One figure over an arm's runs; None where no run has it.

    The error comes from the seeds. A single run has only the interval of its samples, where that is known.
    """
    values = [float(r["score"][key]) for r in runs if r["score"].get(key) is not None]
    if not values:
        return None
    mean, n = math.fsum(values) / len(values), len(values)
    if n > 1:
        variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
        return Spread(mean, math.sqrt(variance / n), n - 1, n)
    interval = runs[0]["score"].get(f"{key}_interval")
    return Spread(mean, (interval[1] - interval[0]) / 2 / 1.96 if interval else None, math.inf, 1)


@dataclass(frozen=True)
class Difference:
    """How one arm differs from another: first minus second with its 95% interval, and who is better for certain."""

    value: float
    half: float | None
    better: str  # "first", "second", or "" where the interval holds 0 or is unknown


def difference(first: Spread, second: Spread, higher: bool) -> Difference:
    """Welch's comparison of two means (Welch 1947); where an error is unknown nothing is certain."""
    value = first.mean - second.mean
    if first.error is None or second.error is None:
        return Difference(value, None, "")
    a, b = first.error**2, second.error**2
    if a + b == 0:
        return Difference(value, 0.0, "" if value == 0 else "first" if (value > 0) == higher else "second")
    shares = [(x, s.freedom) for x, s in ((a, first), (b, second))]
    below = sum(x * x / freedom for x, freedom in shares)
    half = _quantile((a + b) ** 2 / below if below else math.inf) * math.sqrt(a + b)
    if abs(value) <= half:
        return Difference(value, half, "")
    return Difference(value, half, "first" if (value > 0) == higher else "second")


def named(arm: str) -> str:
    """An arm in a sentence."""
    return _NAMES.get(arm, f"`{arm}`")


def state(run: dict[str, Any]) -> str:
    """How a run went: "diverged", "collapsed", "worsened" or "steady"; the same rules for every kind of model."""
    score, summary = run["score"], run.get("summary") or {}
    if summary.get("diverged") or not score["finite"]:
        return "diverged"
    few_classes = score.get("classes", 0) > 2 and score["covered"] <= score["classes"] / 2
    alike = max(score["spread"], score["spread_coarse"])  # blur alone narrows the first, never the second
    if alike < COLLAPSED or few_classes:
        return "collapsed"
    curve = [point["kernel"] for point in run.get("curve") or []]
    if len(curve) > 2 and min(curve) > 0 and curve[-1] > WORSENED * min(curve):
        return "worsened"
    return "steady"


def story(arms: Sequence[dict[str, Any]], minutes: float | None, seeds: int) -> dict[str, list[str]]:
    """The report's sentences by section: "answer", "stability", "quality", "diversity", "cost"."""
    said: dict[str, list[str]] = {"answer": [], "stability": [], "quality": [], "diversity": [], "cost": []}
    for first, second in combinations(arms, 2):
        said["answer"].append(_sentence(first, second, "frechet", _ANSWER))
        for section, keys in (("quality", ("precision", "accuracy")), ("diversity", ("recall", "coverage"))):
            said[section] += [_sentence(first, second, key, _PLAIN) for key in keys if _has(first, second, key)]
        said["cost"].append(_cost(first, second))
    if seeds == 1:
        said["answer"].append(
            "One seed each: the intervals come from the samples alone. Another seed may differ by more; three or more "
            "seeds would tell."
        )
    for arm in arms:
        said["stability"].append(_stability(arm))
        covered = _covered(arm)
        said["diversity"] += [covered] if covered else []
    for arm in arms:
        said["cost"] += _few(arm)
    return said


_ANSWER = ("{winner} came closer to the data than {loser}: ", "No difference between {a} and {b} that is certain: ")
_PLAIN = ("{winner} is better than {loser} in {metric}: ", "No certain difference in {metric} between {a} and {b}: ")


def _has(first: dict[str, Any], second: dict[str, Any], key: str) -> bool:
    return spread(first["runs"], key) is not None and spread(second["runs"], key) is not None


def _sentence(first: dict[str, Any], second: dict[str, Any], key: str, forms: tuple[str, str]) -> str:
    """One difference in words, whoever is ahead."""
    metric, a, b = _BY_KEY[key], spread(first["runs"], key), spread(second["runs"], key)
    assert a is not None and b is not None
    found = difference(a, b, metric.higher)
    names = (named(first["name"]), named(second["name"]))
    if found.half is None and forms is _PLAIN:
        said = f"{metric.name}: {names[0]} {rounded(a.mean)}, {names[1]} {rounded(b.mean)}; one seed has no interval."
        return _upper(said)
    if found.better:
        order = names if found.better == "first" else names[::-1]
        ahead, behind = (a, b) if found.better == "first" else (b, a)
        begin = forms[0].format(winner=order[0], loser=order[1], metric=metric.name)
    else:
        ahead, behind = a, b
        begin = forms[1].format(a=names[0], b=names[1], metric=metric.name)
    label = "" if forms is _PLAIN else f"{metric.name} "
    end = f"{label}{rounded(ahead.mean)} against {rounded(behind.mean)}"
    if found.half is None:
        return f"{_upper(begin)}{end}, without an interval."
    low, high = abs(found.value) - found.half, abs(found.value) + found.half
    return f"{_upper(begin)}{end}, a difference of {rounded(abs(found.value))} ({rounded(low)} to {rounded(high)})."


def _stability(arm: dict[str, Any]) -> str:
    """Runs that went wrong, and how far the seeds are apart."""
    states = [run["state"] for run in arm["runs"]]
    total = len(states)
    bad = [f"{states.count(s)} {s}" for s in ("diverged", "collapsed", "worsened") if s in states]
    runs = "its only run" if total == 1 else f"its {total} runs"
    went = f"of {runs}, {', '.join(bad)}" if bad else f"{runs} stayed steady" if total > 1 else f"{runs} was steady"
    skipped = sum(int((run.get("summary") or {}).get("skipped") or 0) for run in arm["runs"])
    more = f"; {skipped} steps were left out because their numbers were not finite" if skipped else ""
    values = [float(run["score"]["frechet"]) for run in arm["runs"]]
    apart = f"; final Fréchet distances from {rounded(min(values))} to {rounded(max(values))}" if total > 1 else ""
    return f"{_upper(named(arm['name']))}: {went}{more}{apart}."


def _covered(arm: dict[str, Any]) -> str:
    """Classes that the arm draws at all."""
    scores = [run["score"] for run in arm["runs"] if "covered" in run["score"]]
    if not scores:
        return ""
    low, high, of = min(s["covered"] for s in scores), max(s["covered"] for s in scores), scores[0]["classes"]
    return f"{_upper(named(arm['name']))} covers {low if low == high else f'{low} to {high}'} of {of} classes."


def _cost(first: dict[str, Any], second: dict[str, Any]) -> str:
    """Seconds and evaluations a picture, side by side."""
    a, b = spread(first["runs"], "seconds"), spread(second["runs"], "seconds")
    assert a is not None and b is not None
    quick, slow, near, far = (first, second, a, b) if a.mean <= b.mean else (second, first, b, a)
    counts = [arm["runs"][0]["score"]["evaluations"] for arm in (quick, slow)]
    times = far.mean / max(near.mean, 1e-12)
    return (
        f"{_upper(named(quick['name']))} draws a picture in {_seconds(near.mean)} ({_many(counts[0])}), "
        f"{named(slow['name'])} in {_seconds(far.mean)} ({_many(counts[1])}): "
        + (f"{rounded(times)} times as long." if times >= 1.05 else "about as long.")
    )


def _few(arm: dict[str, Any]) -> list[str]:
    """The same model with few steps: what they cost in distance, and what they save."""
    out = []
    steps = sorted({int(s) for run in arm["runs"] for s in run.get("few") or {}})
    for count in steps:
        short = [{"score": run["few"][str(count)]} for run in arm["runs"] if str(count) in (run.get("few") or {})]
        a, b = spread(short, "frechet"), spread(arm["runs"], "frechet")
        quick, full = spread(short, "seconds"), spread(arm["runs"], "seconds")
        assert a is not None and b is not None and quick is not None and full is not None
        change = difference(a, b, higher=False)
        said = {"first": "closer than", "second": "farther than", "": "not certainly other than"}[change.better]
        said = "beside" if change.half is None else said
        out.append(
            f"{_upper(named(arm['name']))} with {count} steps: {_seconds(quick.mean)} a picture instead of "
            f"{_seconds(full.mean)}, Fréchet distance {rounded(a.mean)}, {said} the {rounded(b.mean)} of its usual "
            "steps."
        )
    return out


def _many(count: int) -> str:
    return f"{count} evaluation{'' if count == 1 else 's'}"


def _seconds(value: float) -> str:
    number, unit = (1000 * value, "ms") if value < 1 else (value, "s")
    return f"{number:.0f} {unit}" if number >= 100 else f"{number:.2g} {unit}"


def rounded(value: float) -> str:
    """Three digits; whole numbers from 100 on."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _upper(words: str) -> str:
    return words[:1].upper() + words[1:]
