"""Curves: retrieval and Fréchet distance against the weight of guidance and the steps, and the defaults they say."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from judging.scoring import ranks, told

from iconbench.bench import Bench, spread
from iconbench.kept import Row
from iconbench.svg import standalone
from kakusan.app.draw import sampler
from kakusan.evaluation.frechet import frechet_interval
from kakusan.files import replacing
from kakusan.plot import Series, plotted

__all__ = ["RULE", "chosen", "measure", "plots", "table"]

RULE = (
    "of the cells whose top-1 is not worse than the best's (paired by prompt and seed, 95%), those whose distance is "
    "within the interval of the least of them; of these the fewest evaluations, then the least distance"
)
Z = 1.645  # of a one-sided 95% test


def measure(bench: Bench, guidances: Sequence[float], steps: Sequence[int], count: int, seeds: int) -> dict[str, Row]:
    """One row for each pair of settings, all from the same prompts, captions and seeds."""
    kept = bench.kept("curves", settings=False, count=count, seeds=seeds)
    prompts = bench.asked["seen"]
    rows = spread(bench.rows("train"), count)
    captions = bench.captions(rows)
    wanted = {cell(g, n): (g, n) for g in guidances for n in steps}

    def made(guidance: float, length: int) -> Row:
        settings = {"guidance": guidance, "steps": length}
        begun = time.perf_counter()
        pictures = bench.draw(prompts * seeds, **settings)
        places = ranks(bench.judge, pictures, [*range(len(prompts))] * seeds, prompts)
        figure = frechet_interval(bench.train_features, bench.extract(bench.draw(captions, **settings)))
        row = settings | {"evaluations": evaluations(bench, **settings)} | told(places)
        row["right"] = "".join("1" if place == 0 else "0" for place in places)
        row |= {"frechet": figure.value, "low": figure.low, "high": figure.high}
        bench.tell(f"curves: {cell(guidance, length)}: top-1 {row['top1']:.0%}, Fréchet distance {figure.value:.4g}, "
                   f"{time.perf_counter() - begun:.0f} s")  # fmt: skip
        return row

    found = {name: kept.row(name, lambda g=g, n=n: made(g, n)) for name, (g, n) in wanted.items()}
    for name, svg in plots(list(found.values())).items():
        with replacing(bench.out / f"curves-{name}.svg") as temporary:
            temporary.write_text(svg, "utf-8")
    kept.write(rule=RULE, chosen=chosen(list(found.values())))
    return found


def cell(guidance: float, steps: int) -> str:
    return f"guidance {guidance:g}, {steps} steps"


def evaluations(bench: Bench, **settings: Any) -> int:
    """Of the network for one sample."""
    prompt = bench.asked["seen"][0]
    name = next((n for n in ("style", "label") if n in bench.model.model.encoders), None)
    request = bench.model.request(1, prompt.text, None, 0, {name: prompt.style} if name else {}, **settings)
    return sampler.evaluations(sampler.settle(bench.model.model, request))


def chosen(rows: Sequence[Row]) -> Row:
    """The defaults by ``RULE``: guidance and steps."""
    best = max(rows, key=lambda r: r["top1"])
    able = [r for r in rows if not worse(r, best)]
    least = min(able, key=lambda r: r["frechet"])
    near = [r for r in able if r["frechet"] <= least["high"]]
    found = min(near, key=lambda r: (r["evaluations"], r["frechet"]))
    return {"guidance": found["guidance"], "steps": found["steps"]}


def worse(row: Row, best: Row) -> bool:
    """Whether fewer of the same samples are right, beyond chance: ``(b - c) / sqrt(b + c) > 1.645``, b samples right in
    the best alone and c in this alone (McNemar 1947)."""
    pairs = list(zip(best["right"], row["right"], strict=True))
    b, c = pairs.count(("1", "0")), pairs.count(("0", "1"))
    return b - c > Z * (b + c) ** 0.5


def plots(rows: Sequence[Row]) -> dict[str, str]:
    """Two pictures: top-1 and the distance against guidance, a line for each number of steps."""
    steps = sorted({r["steps"] for r in rows})
    by = {n: sorted((r for r in rows if r["steps"] == n), key=lambda r: r["guidance"]) for n in steps}
    found = {}
    for name, title, scale in (
        ("top1", "True caption first of 100, seen concepts, %", 100),
        ("frechet", "Fréchet distance", 1),
    ):
        lines = [
            Series(f"{n} steps", [r["guidance"] for r in some], [scale * r[name] for r in some], dots=True)
            for n, some in by.items()
        ]
        found[name] = standalone(plotted(lines, title, "weight of guidance", "", False, False, [], ""))
    return found


def table(rows: dict[str, Row]) -> str:
    lines = ["| guidance | steps | evaluations | top-1 | Fréchet distance |", "|---|---|---|---|---|"]
    pick = chosen(list(rows.values()))
    for r in rows.values():
        mark = "**" if {k: r[k] for k in pick} == pick else ""
        low, high = r["top1_interval"]
        share = f"{100 * r['top1']:.0f}% ({100 * low:.0f}-{100 * high:.0f})"
        distance = f"{r['frechet']:.1f} ({r['low']:.1f}-{r['high']:.1f})"
        cells = (f"{r['guidance']:g}", r["steps"], r["evaluations"], share, distance)
        lines.append("| " + " | ".join(f"{mark}{c}{mark}" for c in cells) + " |")
    return "\n".join([*lines, "", f"Chosen (bold): {RULE}."])
