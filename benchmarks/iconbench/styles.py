"""Styles: how far each style's samples are from its training pictures, beside as many real ones."""

from __future__ import annotations

import numpy as np

from iconbench.bench import STYLES, Bench, spread
from iconbench.kept import Row
from kakusan.evaluation.frechet import frechet_interval
from kakusan.evaluation.manifold import Neighbourhoods

__all__ = ["halves", "measure", "table"]

NAMES = ("precision", "recall")


def measure(bench: Bench) -> dict[str, Row]:
    """A row for each style: the training pictures in two halves; samples by the captions of the one, and its pictures
    themselves (the floor), against the other."""
    kept = bench.kept("styles", count=bench.count)
    for style in STYLES:
        if style not in kept.rows:
            kept.row(style, lambda s=style: _row(bench, s))
            bench.tell(f"styles: {style}: Fréchet distance {kept.rows[style]['frechet']['value']:.4g}")
    return {style: kept.rows[style] for style in STYLES}


def halves(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Every second one, at most ``count``, and the others."""
    return spread(rows[::2], count), rows[1::2]


def _row(bench: Bench, style: str) -> Row:
    one, other = halves(bench.rows("train", style), bench.count)
    real = bench.real_features(other)
    sets = {"": bench.extract(bench.draw(bench.captions(one))), "floor_": bench.real_features(one)}
    found: Row = {"samples": len(one), "real": len(other)}
    for name, features in sets.items():
        found[f"{name}frechet"] = frechet_interval(real, features).as_dict()
        figures = Neighbourhoods(real, features, k=min(5, len(one) - 1)).figures()
        found |= {f"{name}{n}": figures[n].as_dict() for n in NAMES}
    return found


def table(rows: dict[str, Row]) -> str:
    lines = [
        "| style | samples | Fréchet distance | of real icons | recall | of real icons | precision | of real icons |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for style, r in rows.items():
        cells = [style, f"{r['samples']}"]
        for name, digits in (("frechet", 1), ("recall", 2), ("precision", 2)):
            mine, real = r[name], r[f"floor_{name}"]
            cells.append(f"{mine['value']:.{digits}f} ({mine['low']:.{digits}f}-{mine['high']:.{digits}f})")
            cells.append(f"{real['value']:.{digits}f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
