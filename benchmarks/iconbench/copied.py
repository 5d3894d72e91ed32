"""Copied: how many samples are nearer to a training picture than held-out icons are, and the nearest pairs."""

from __future__ import annotations

import math

import torch
from PIL import Image

from iconbench.bench import Bench, spread
from iconbench.kept import Row
from kakusan.app.draw.sheet import checkerboard, grid, save
from kakusan.evaluation.memorisation import Copying, copies, copies_by_features

__all__ = ["SETS", "measure", "table"]

# Samples by captions of the first split's pictures against held-out pictures of the second
SETS = {
    "seen concepts": ("train", "test-styles"),
    "held-out styles": ("test-styles", "test-styles"),
    "held-out concepts": ("test-concepts", "test-concepts"),
}
SHOWN = 24  # pairs


def measure(bench: Bench) -> dict[str, Row]:
    """A row for each set of prompts, and a picture of the most suspicious pairs."""
    kept = bench.kept("memorisation", count=bench.count)
    for name, (split, held) in SETS.items():
        if name not in kept.rows:
            kept.row(name, lambda n=name, s=split, h=held: _row(bench, n, s, h))
            bench.tell(f"memorisation: {name}: {kept.rows[name]['message']}")
    return {name: kept.rows[name] for name in SETS}


def _row(bench: Bench, name: str, split: str, held: str) -> Row:
    asked = bench.captions(spread(bench.rows(split), bench.count))
    train, aside = bench.rows("train"), bench.rows(held)
    pictures, drawn = bench.icons.pictures, bench.draw(asked)
    found = copies(bench.floats(drawn), bench.floats(pictures[train]), bench.floats(pictures[aside]))
    sets = (bench.extract(drawn), bench.train_features, bench.real_features(aside))
    by_features = copies_by_features(*map(torch.from_numpy, sets))
    lines = [bench.icons.lines[int(i)] for i in train]
    pairs = [
        {
            "prompt": asked[p.sample].text,
            "style": asked[p.sample].style,
            "nearest": f"{lines[p.train]['style']}/{lines[p.train]['concept']}",
            "asked_for": lines[p.train]["code"] == asked[p.sample].code,
            "distance": round(p.distance, 4),
            "ratio": round(p.ratio, 4),
            "copy": p.copy,
        }
        for p in found.pairs[:SHOWN]
    ]
    shown = [Image.fromarray(a) for p in found.pairs[:SHOWN] for a in (drawn[p.sample], pictures[train][p.train])]
    labels = [words for p in pairs for words in (p["prompt"], p["nearest"])]
    file = bench.out / f"memorisation-{name.replace(' ', '-')}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    save(grid([checkerboard(im) for im in shown], columns=8, labels=labels), file)
    return _told(found) | {"features": _told(by_features), "held_out": len(aside), "pairs": pairs}


def _told(found: Copying) -> Row:
    ratio = found.ratio if math.isfinite(found.ratio) else None
    return {
        "n": len(found.pairs), "share": found.share, "expected": found.expected, "ratio": ratio,
        "verdict": found.verdict, "message": found.message,
    }  # fmt: skip


def table(rows: dict[str, Row]) -> str:
    lines = [
        "| samples of | n | flagged as copies, pixels | features | of held-out icons | distance to training pictures |",
        "|---|---|---|---|---|---|",
    ]
    for name, r in rows.items():
        far = "-" if r["ratio"] is None else f"{r['ratio']:.2f} times that of held-out icons"
        shares = [f"{100 * x['share']:.1f}% ({x['verdict']})" for x in (r, r["features"])]
        lines.append("| " + " | ".join([name, f"{r['n']}", *shares, f"{100 * r['expected']:.1f}%", far]) + " |")
    return "\n".join(lines)
