"""Scores: the floor of a data set, and the distance of every stored set of samples. The only user of features.py."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from quality import features as judge
from quality.data import pictures, split_file
from quality.frechet import Moments, frechet, moments
from quality.record import SAMPLES, read_rows

__all__ = ["score"]

REFERENCES = 5000  # held-out test pictures, or all where there are fewer
DRAWS = 3  # of training pictures, for the floor


def chosen(images: np.ndarray, count: int, draw: int) -> np.ndarray:
    """``count`` pictures at random without repeats (files are often sorted by class), the same ones every time."""
    order = np.random.Generator(np.random.Philox(key=draw)).permutation(len(images))
    return images[np.sort(order[:count])]


def score(data: Path, out: Path, names: Iterable[str] = (), again: bool = False) -> dict[str, Any]:
    """Measure what is not measured yet and write OUT/scores.json: floors by data set, distances by run."""
    file = out / "scores.json"
    scores: dict[str, Any] = {"floors": {}, "runs": {}}
    if file.is_file() and not again:
        scores = json.loads(file.read_text("utf-8"))
    rows = read_rows(out)
    hashes = {n: hashlib.sha256((out / n / "samples.npz").read_bytes()).hexdigest() for n in rows}
    due = [n for n in rows if scores["runs"].get(n, {}).get("samples") != hashes[n]]
    net = judge.network()
    for name in sorted({rows[n]["data"] for n in due} | set(names)):
        missing = name not in scores["floors"]
        todo = [n for n in due if rows[n]["data"] == name]
        if not missing and not todo:
            continue
        test = chosen(pictures(split_file(data, name, "test")), REFERENCES, 0)
        reference = [moments(f) for f in judge.features(net, test)]

        def distance(images: np.ndarray, reference: list[Moments] = reference) -> float:
            found = judge.features(net, images)
            return float(np.mean([frechet(moments(f), r) for f, r in zip(found, reference, strict=True)]))

        if missing:
            train = pictures(split_file(data, name, "train"))
            draws = [distance(chosen(train, SAMPLES, i)) for i in range(DRAWS)]
            scores["floors"][name] = {"draws": draws, "mean": float(np.mean(draws)), "references": len(test)}
            print(f"{name}: floor {np.mean(draws):.1f} ({', '.join(f'{d:.1f}' for d in draws)})", flush=True)
        for n in todo:
            value = distance(pictures(out / n / "samples.npz"))
            scores["runs"][n] = {"distance": value, "samples": hashes[n]}
            print(f"{n}: {value:.1f}, {value - scores['floors'][name]['mean']:.1f} above the floor", flush=True)
        _write(file, scores)
    return scores


def _write(file: Path, scores: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps(scores, indent=1) + "\n", "utf-8")
    part.replace(file)
