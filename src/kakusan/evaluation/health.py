"""Is this a picture at all? Noise, one colour, wrong range and collapse, recognised against the data's own statistics.

Thresholds are relative to ``reference_stats`` of the training data, so that naturally noisy textures, very dark
pictures and flat icons pass; without a reference only what is wrong for nearly any data is reported, and more softly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from kakusan.evaluation.statistics import checked, flat_below, measure, quantiles, spectral_slope, spread
from kakusan.part import KakusanError

__all__ = ["Finding", "diagnose", "reference_stats"]

FEW = 8  # below this many samples a single odd one must be odder before it counts


@dataclass(frozen=True)
class Finding:
    """One thing wrong with samples: ``severity`` is "problem" (do not serve it as success) or "warning"."""

    kind: str  # nan, noise, unconverged, constant, range, saturated, collapse, blurred, colour
    severity: str
    message: str
    cause: str
    fix: str

    def line(self) -> str:
        """All of it in one line."""
        return f"{self.message} Likely cause: {self.cause} {self.fix}"

    def dict(self) -> dict[str, str]:
        """Plain data, for JSON."""
        return asdict(self)


def reference_stats(x0: Tensor) -> dict[str, Any]:
    """What is normal for this data: x0 (B, C, *S) in [-1, 1] to plain floats (quantiles: ``statistics.QUANTILES``).

    ``corr``: correlation of neighbouring values; ``grain``, ``edges``: median and RMS of the highest frequency (white
    noise of deviation s gives s); ``std``: contrast; ``mean``: per channel; ``saturation``: share at the ends of the
    range; ``slope``: of the log-log power spectrum; ``spread``: mean RMS distance of two samples; ``flat``: share of
    pictures that are one colour. A few hundred pictures are enough.
    """
    x = checked(x0)
    if not torch.isfinite(x).all():
        raise KakusanError("the data has values that are not finite: run `kakusan data check` on it")
    m = measure(x)
    std = quantiles(m["std"])
    return {
        "count": int(x.shape[0]),
        "corr": quantiles(m["corr"]),
        "grain": quantiles(m["grain"]),
        "edges": quantiles(m["edges"]),
        "std": std,
        "saturation": quantiles(m["saturation"]),
        "mean": [quantiles(c) for c in m["mean"].T],
        "channel_std": [float(c.std(unbiased=False)) for c in x.transpose(0, 1).flatten(1)],
        "slope": spectral_slope(x),
        "spread": spread(x),
        "flat": float((m["std"] < flat_below(std[2])).float().mean()),
        "peak": float(x.abs().max()),
    }


def diagnose(
    x: Tensor, reference: Mapping[str, Any] | None = None, context: Mapping[str, Any] | None = None
) -> list[Finding]:
    """What is wrong with samples x (B, C, *S), in the model's range and unclamped; an empty list is good news.

    ``context`` makes causes and fixes definite, all optional: ``run`` (path), ``steps`` (of sampling), ``guidance``,
    ``minutes`` (trained), ``epochs``, ``finished`` (False when training was cut short).
    """
    x, context = checked(x), dict(context or {})
    finite = torch.isfinite(x).flatten(1).all(1)
    if not finite.all():
        return [_nan(int((~finite).sum()), len(x))]
    m = measure(x.clamp(-1, 1))
    saturated = _saturated(m, reference, context)
    noise, grain = _noise(m, reference, context), _grain(m, reference, context, edges=saturated is None)
    if noise and grain and noise.severity == "warning" and grain.severity == "problem":
        noise = None  # what all of them suffer from is the better name
    found = [f for f in (_constant(m, reference, context), noise or grain) if f]
    if not noise and not grain:  # noise explains values out of range, and hides the rest
        found += [f for f in (_range(x, reference, context),) if f]
    if not any(f.severity == "problem" for f in found):
        checks = [_collapse(x, reference, context)]
        checks += [] if found else [_blurred(m, reference, context), saturated]
        found += [f for f in (*checks, _colour(m, reference)) if f]
    return found


def _of(bad: Tensor) -> str:
    count, total = int(bad.sum()), len(bad)
    if total == 1:
        return "The sample is"
    return (
        f"All {total} samples are" if count == total else f"{count} of {total} samples {'is' if count == 1 else 'are'}"
    )


def _severity(bad: Tensor) -> str:
    return "problem" if float(bad.float().mean()) >= 0.5 else "warning"


def _longer(context: Mapping[str, Any]) -> str:
    minutes = max(5, round(float(context.get("minutes") or 30)))
    return f"`kakusan resume {context.get('run', 'RUN')} --minutes {minutes}`"


def _unfinished(context: Mapping[str, Any]) -> tuple[str, str]:
    """Cause and fix of samples that still hold noise."""
    steps = context.get("steps")
    if steps is not None and steps < 10:
        return (
            f"only {steps} sampling steps.",
            f"Try --steps 20; if that does not help, train longer: {_longer(context)}.",
        )
    if context.get("finished") is False:
        return (
            "training was stopped before its learning rate had come down.",
            f"Finish it: `kakusan resume {context.get('run', 'RUN')}`.",
        )
    epochs = context.get("epochs")
    seen = ""
    if epochs is not None and epochs < 30:
        seen = (
            f" (each picture was seen {epochs:.1f} times)" if epochs >= 1 else f" (it saw {epochs:.0%} of the pictures)"
        )
    return f"the model has not been trained for long enough{seen}.", f"Train longer: {_longer(context)}."


def _nan(count: int, total: int) -> Finding:
    return Finding(
        "nan",
        "problem",
        f"{count} of {total} samples hold values that are not numbers.",
        "the weights are broken, or the arithmetic overflowed (a learning rate too high, half precision).",
        "Sample with --device cpu to rule out the device; if that does not help, train anew with a lower optim.lr.",
    )


def _noise(m: dict[str, Tensor], ref: Mapping[str, Any] | None, context: Mapping[str, Any]) -> Finding | None:
    """Neighbouring values are unrelated where the data's are related."""
    if ref and ref["corr"][0] < 0.1:
        return None  # the data itself is close to white noise
    bad = (m["corr"] < (0.4 * ref["corr"][0] if ref else 0.1)) & (m["grain"] > 0.025)
    if not bad.any():
        return None
    cause, fix = _unfinished(context)
    near = f"neighbouring values correlate at {float(m['corr'][bad].median()):.2f}"
    usual = f" where the data's do at {ref['corr'][2]:.2f}" if ref else ", as in white noise"
    return Finding("noise", _severity(bad) if ref else "warning", f"{_of(bad)} noise: {near}{usual}.", cause, fix)


def _grain(
    m: dict[str, Tensor], ref: Mapping[str, Any] | None, context: Mapping[str, Any], edges: bool = True
) -> Finding | None:
    """Something is drawn, but noise is left in it."""
    if not ref:
        return None
    few = len(m["grain"]) < FEW
    floor = max(min(0.03, 0.5 * ref["std"][2]), 1e-4)
    margin = (4, 1.3, 1.5) if few else (3, 1.1, 1.2)  # a quantile of the data, and room above it
    high = [ref["grain"][margin[0]] * margin[1] + floor, ref["edges"][margin[0]] * margin[2] + floor]
    seen = [float(m[k].median()) for k in ("grain", "edges")]
    over = [seen[0] / high[0], seen[1] / high[1] if edges else 0.0]
    if max(over) <= 1:
        return None
    which = 0 if over[0] > 1 else 1
    cause, fix = _unfinished(context)
    severity = "problem" if over[0] > 2.5 or over[1] > 2 else "warning"
    usual = ref[("grain", "edges")[which]][2]
    amount = f"{50 * seen[which]:.0f}% of the range where the data has {50 * usual:.0f}%"
    return Finding("unconverged", severity, f"Noise is left in the samples: {amount}.", cause, fix)


def _blurred(m: dict[str, Tensor], ref: Mapping[str, Any] | None, context: Mapping[str, Any]) -> Finding | None:
    """Much smoother than nearly all of the data."""
    if not ref or len(m["edges"]) < 4 or float(m["edges"].median()) >= 0.5 * ref["edges"][1]:
        return None
    cause, fix = _unfinished(context)
    return Finding("blurred", "warning", "The samples are much smoother than the data.", cause, fix)


def _constant(m: dict[str, Tensor], ref: Mapping[str, Any] | None, context: Mapping[str, Any]) -> Finding | None:
    bad = m["std"] < (flat_below(ref["std"][2]) if ref else 0.01)
    if ref and float(m["std"].median()) < 0.5 * ref["std"][0]:  # all of them pale
        bad = m["std"] < 0.5 * ref["std"][0]
    chance = len(bad) * (ref["flat"] + 2 / ref["count"]) if ref else 0.0  # how many the data itself would give
    if int(bad.sum()) <= chance + 3 * chance**0.5:
        return None
    level = m["mean"][bad].mean().item()
    what = "black" if level < -0.9 else "white" if level > 0.9 else "one colour, or nearly,"
    cause = "training diverged, or has hardly begun; with guidance, a weight far too high."
    fix = f"Look at the loss in report.html; then {_longer(context)}."
    return Finding("constant", _severity(bad), f"{_of(bad)} {what} all over.", cause, fix)


def _range(x: Tensor, ref: Mapping[str, Any] | None, context: Mapping[str, Any]) -> Finding | None:
    """Values far outside what data can be: saving clamps them."""
    limit = 1.2 * max(1.0, ref["peak"] if ref else 1.0)
    share = float((x.abs() > limit).float().mean())
    if share < 0.05:
        return None
    cause, fix = "the model and the data disagree about scale, or the solver diverged.", "Try --steps 20 --solver ddim."
    guidance, steps = context.get("guidance"), context.get("steps")
    if steps is not None and steps < 10:
        cause, fix = _unfinished(context)
    elif guidance is not None and guidance > 2:
        cause, fix = f"guidance of {guidance:g} pushes values out of range.", "Try --guidance 1.5."
    message = f"{100 * share:.0f}% of the values lie outside the data's range and are clamped."
    return Finding("range", "problem" if share > 0.25 else "warning", message, cause, fix)


def _saturated(m: dict[str, Tensor], ref: Mapping[str, Any] | None, context: Mapping[str, Any]) -> Finding | None:
    if not ref or len(m["saturation"]) < 4:
        return None
    share, usual = float(m["saturation"].median()), ref["saturation"]
    if share <= max(usual[4 if len(m["saturation"]) < FEW else 3] + 0.15, usual[2] + 0.25):
        return None
    guidance = context.get("guidance")
    strong = guidance is not None and guidance > 1.5
    cause = f"guidance of {guidance:g} is too strong." if strong else "contrast grew beyond the data's in sampling."
    message = f"{100 * share:.0f}% of the values are at the ends of the range where the data has {100 * usual[2]:.0f}%."
    return Finding(
        "saturated", "warning", message, cause, "Try --guidance 1.5." if strong else "Try --steps 20 --solver ddim."
    )


def _colour(m: dict[str, Tensor], ref: Mapping[str, Any] | None) -> Finding | None:
    """The typical brightness of a channel is one that almost no picture of the data has."""
    if not ref or len(m["mean"]) < FEW or len(ref["mean"]) != m["mean"].shape[1]:
        return None
    for channel, (value, usual) in enumerate(zip(m["mean"].median(0).values.tolist(), ref["mean"], strict=True)):
        if not usual[0] - 0.1 <= value <= usual[4] + 0.1:
            span = f"where 98% of the data lies between {usual[0]:.2f} and {usual[4]:.2f}"
            message = f"Channel {channel} is at {value:.2f} {span}."
            cause = "colours drifted: too short a training, or a model of other data."
            return Finding("colour", "warning", message, cause, "Train longer, or look at `kakusan info RUN`.")
    return None


def _collapse(x: Tensor, ref: Mapping[str, Any] | None, context: Mapping[str, Any]) -> Finding | None:
    if len(x) < 3:
        return None
    apart, usual = spread(x.clamp(-1, 1)), ref["spread"] if ref else 0.0
    if apart >= max(0.12 * usual, 1e-3):
        return None
    cause = "the model draws one picture whatever the noise (few pictures, or training diverged)."
    fix = "Look for duplicates with `kakusan data check DATA`; with guidance, lower it."
    return Finding("collapse", "problem", f"All {len(x)} samples are nearly the same picture.", cause, fix)
