"""An evaluation in a few lines for the terminal."""

from __future__ import annotations

from typing import Any

from kakusan.evaluation.distances import FIGURES
from kakusan.markup import number

__all__ = ["lines"]


def lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of name and figure, model after model."""
    rows: list[tuple[str, str]] = []
    models = result["models"]
    for row in models:
        head = f"{row['model']['name']}: " if len(models) > 1 else ""
        for key, (words, _) in FIGURES.items():
            figure = row["figures"][key]
            value, low, high = (number(figure[k]) for k in ("value", "low", "high"))
            rows.append((f"{head}{words}", f"{value}  ({low} to {high})"))
        if "labels" in row:
            own, found = row["labels"]["classifier"]["value"], row["labels"]["accuracy"]["value"]
            rows.append((f"{head}label accuracy", f"{100 * found:.1f}%  (classifier itself {100 * own:.1f}%)"))
        if row.get("likelihood"):
            bits = row["likelihood"]
            rows.append((f"{head}bits per dimension", f"{bits['bits']:.3f} ± {1.96 * bits['error']:.3f}"))
        rows.append((f"{head}copies", row["copies"]["message"]))
        rows.append((f"{head}a sample", f"{1000 * row['seconds']:.0f} ms, {row['evaluations']} evaluations"))
        if "curve" in row:
            chosen = row["curve"]["chosen"]
            kept = ", saved as the default" if row["curve"]["saved"] else ""
            rows.append((f"{head}cheapest good setting", f"{chosen['solver']}, {chosen['steps']} steps{kept}"))
    return rows
