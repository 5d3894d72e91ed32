"""Judge: the figures by which a comparison's models are told apart; the one place that asks ``evaluation`` for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kakusan.app.judge.gan import Drawn
from kakusan.evaluation.variety import coarse, within
from kakusan.part import KakusanError

__all__ = ["Judge"]

COVERED = 0.25  # a class counts as covered when it is drawn at least this share as often as among real pictures
NEIGHBOURS = 5


class Judge:
    """Real pictures' features, and the figures of drawn pictures against them.

    ``classify``: predicts class names of pictures (a classifier trained on the real ones), where the data has classes.
    """

    def __init__(
        self,
        extract: Any,
        real: np.ndarray,
        cache: Path | None = None,
        classes: Sequence[str] = (),
        classify: Callable[[np.ndarray], Sequence[str]] | None = None,
        stamp: dict[str, Any] | None = None,
    ) -> None:
        if len(real) < 2 * NEIGHBOURS:
            raise KakusanError(f"{len(real)} real pictures are too few to compare with: at least {2 * NEIGHBOURS}")
        from kakusan.evaluation import features

        self.extract, self.classes, self.classify = extract, list(classes), classify
        self.real = features.features_cached(extract, real, cache) if cache is not None else extract(real)
        groups = self._groups(real)
        self.usual = [within(self.real, groups), within(coarse(real), groups)]
        self.stamp = {"extractor": extract.name, "weights": extract.weights, "resize": extract.resize}
        self.stamp |= {"real": len(real)} | (stamp or {})
        self.shares = _shares(groups, self.classes) if groups is not None else {}

    def score(self, drawn: Drawn, interval: bool = False) -> dict[str, Any]:
        """Plain data: distance, quality, diversity and cost; with ``interval``, also that of the distance."""
        from kakusan.evaluation import distances

        count = len(drawn.pictures)
        found: dict[str, Any] = {
            "count": count,
            "finite": drawn.finite,
            "seconds": drawn.seconds / count,
            "evaluations": drawn.evaluations,
        }
        fake = self.extract(drawn.pictures)
        named = self._groups(drawn.pictures)
        for name, x, usual in zip(("spread", "spread_coarse"), (fake, coarse(drawn.pictures)), self.usual):
            found[name] = float(np.sqrt(within(x, named) / max(usual, 1e-12)))
        found["frechet"] = float(distances.frechet(self.real, fake))
        found["kernel"] = float(distances.kernel_distance(self.real, fake))
        neighbours = min(NEIGHBOURS, count - 1)
        precision, recall = distances.precision_recall(self.real, fake, k=neighbours)
        density, coverage = distances.density_coverage(self.real, fake, k=neighbours)
        found |= {"precision": float(precision), "recall": float(recall)}
        found |= {"density": float(density), "coverage": float(coverage)}
        if interval:
            found["frechet_interval"] = self._interval(fake)
        if named is not None:
            shares = _shares(named, self.classes)
            found["covered"] = sum(shares[c] >= COVERED * self.shares[c] > 0 for c in self.shares)
            found["classes"] = sum(share > 0 for share in self.shares.values())
            if drawn.labels is not None:
                found["accuracy"] = float(np.mean([a == b for a, b in zip(named, drawn.labels, strict=True)]))
        return found

    def _groups(self, pictures: np.ndarray) -> list[str] | None:
        """The class that each picture is taken for, where the data has classes."""
        return list(self.classify(pictures)) if self.classify is not None and self.classes else None

    def _interval(self, fake: np.ndarray) -> list[float]:
        """The 95% interval of the Fréchet distance from the samples alone."""
        from kakusan.evaluation import distances

        figure = distances.frechet_interval(self.real, fake)
        return [float(figure.low), float(figure.high)]


def _shares(named: Sequence[str], classes: Sequence[str]) -> dict[str, float]:
    """How often each class occurs."""
    return {c: sum(n == c for n in named) / max(1, len(named)) for c in classes}
