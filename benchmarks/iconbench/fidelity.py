"""Fidelity: how often the true caption comes first, by kind of prompt, beside the goals and the judge's own figures."""

from __future__ import annotations

import numpy as np
from judging.icons import KINDS
from judging.scoring import ranks, told

from iconbench.bench import Bench
from iconbench.kept import Row

__all__ = ["goal", "measure", "table", "verdict"]

GOALS = {"seen": 0.8, "held_styles": 0.6}
OF_THE_JUDGE = 0.7  # colours: this share of the judge's own accuracy on hue-shifted icons
NAMES = {
    "seen": "seen concepts", "held_styles": "held-out styles", "held_concepts": "held-out concepts",
    "colour": "in a colour", "colour, in training": "in a colour, shown in training",
    "colour, new": "in a colour, never shown",
}  # fmt: skip


def measure(bench: Bench, seeds: int) -> dict[str, Row]:
    """A row for each kind of prompt, ``seeds`` samples of each prompt."""
    kept = bench.kept("fidelity", seeds=seeds)
    for kind in KINDS:
        some = bench.asked[kind]
        if kind not in kept.rows:
            places = ranks(bench.judge, bench.draw(some * seeds), [*range(len(some))] * seeds, some)
            kept.row(kind, lambda p=places: told(p))
            if kind == "colour":
                exists = np.array([p.exists for p in some * seeds])
                kept.row("colour, in training", lambda p=places, e=exists: told(p[e]))
                kept.row("colour, new", lambda p=places, e=exists: told(p[~e]))
            bench.tell(f"fidelity: {NAMES[kind]}: {kept.rows[kind]['top1']:.0%}")
    own = bench.about.get("own", {})
    kept.write(judge={k: v["top1"] for k, v in own.items()}, goals={k: goal(k, own) for k in KINDS})
    return kept.rows


def goal(kind: str, own: Row) -> float | None:
    """The share that is aimed at; None where there is no goal."""
    if kind == "colour":
        return OF_THE_JUDGE * own["colour"]["top1"] if "colour" in own else None
    return GOALS.get(kind)


def verdict(row: Row, aim: float | None) -> str:
    """Whether the goal is met, as far as these samples say."""
    if aim is None:
        return "-"
    low, high = row["top1_interval"]
    if low >= aim:
        return "met"
    return "missed" if high < aim else "met, within the noise" if row["top1"] >= aim else "missed, within the noise"


def table(rows: dict[str, Row], own: Row) -> str:
    lines = [
        "| prompts | samples | true caption first | among five | goal | | real icons: first |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in [k for k in NAMES if k in rows]:
        r, aim, real = rows[kind], goal(kind, own), own.get(kind)
        shares = [
            f"{100 * r[n]:.0f}% ({100 * r[f'{n}_interval'][0]:.0f}-{100 * r[f'{n}_interval'][1]:.0f})"
            for n in ("top1", "top5")
        ]
        cells = [NAMES[kind], f"{r['n']}", *shares, "-" if aim is None else f"{100 * aim:.0f}%", verdict(r, aim)]
        lines.append("| " + " | ".join([*cells, "-" if real is None else f"{100 * real['top1']:.0f}%"]) + " |")
    return "\n".join(lines)
