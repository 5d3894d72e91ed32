"""kakusan as its users call it: ``kakusan.train(data, minutes=..., seed=...)``, then ``model.sample``.

No setting is touched. ``kakusan`` ignores the labels; ``kakusan-classes`` is what it does by default with labelled
pictures: classes, guided, drawn in equal numbers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import kakusan
from quality.record import SAMPLES, Budget, Facts, save_samples, versions


def run(
    train: Path,
    minutes: float,
    seed: int,
    out: Path,
    count: int,
    steps: int | None = None,
    network: Sequence[str] = (),
    classes: bool = False,
) -> Facts:
    """Train for so many minutes, draw the samples with seeds of their own for each run, store them.

    ``steps`` in place of minutes, with the settings of the ``network`` that the plan takes on the quiet machine.
    """
    learn = kakusan.train  # imports happen before the clock starts, here as for the others
    budget = Budget(minutes)
    length: dict[str, Any] = {"minutes": minutes}
    if steps is not None:
        length = {"steps": steps, "overrides": [f"denoiser.net.{setting}" for setting in network]}
    done = learn(train, seed=seed, out=out / "run", labels=None if classes else "none", **length)
    seconds = budget.elapsed()
    begun = time.monotonic()
    model = kakusan.load(out / "run")
    if classes and not model.classes:
        raise SystemExit(f"{train} has no labels: kakusan-classes needs them")
    labels = [model.classes[i % len(model.classes)] for i in range(count)] if classes else None
    samples = model.sample(count, seed=seed * SAMPLES, label=labels)
    taken = time.monotonic() - begun
    save_samples(out, np.stack([s.data for s in samples]))
    recipe = samples[0].recipe
    return Facts(
        parameters=done.summary["parameters"],
        steps=done.summary["steps"],
        pictures=done.summary["pictures_seen"],
        seconds=seconds,
        sampler=str(recipe["solver"]["kind"]).split("/")[1] + (f", guidance {recipe['guidance']:g}" if classes else ""),
        sampler_steps=recipe["steps"],
        samples=count,
        sample_seconds=taken,
        settings="as planned by kakusan: see run/recipe.toml",
        versions=versions(["torch", "kakusan"]),
    )
