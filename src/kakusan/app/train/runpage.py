"""The page that a run leaves: samples, their history, curves, noise, both processes, data, copies and the recipe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Pil

from kakusan.app.command.show import duration, size
from kakusan.app.draw import sheet
from kakusan.app.draw.loaded import Loaded, Sample
from kakusan.app.draw.sampled import titles
from kakusan.app.train.project import Project
from kakusan.app.train.rundir import RunDir
from kakusan.app.train.shownby import shown_by
from kakusan.catalog import build
from kakusan.core.grid import Grid
from kakusan.core.objective import Denoising
from kakusan.core.rng import Rng
from kakusan.evaluation.health import Finding
from kakusan.evaluation.memorisation import Copying
from kakusan.report import Report, Series
from kakusan.training.captions import PROMPT
from kakusan.training.watch import EDGES

__all__ = ["beside", "data", "recipe", "rows", "speed", "write_report"]


def rows(path: Path, kind: str) -> list[dict[str, Any]]:
    """The rows of one kind in a JSON-lines file."""
    if not path.exists():
        return []
    return [r for line in path.read_text("utf-8").splitlines() if line and (r := json.loads(line))["kind"] == kind]


def write_report(
    run: RunDir,
    project: Project,
    loaded: Loaded,
    samples: Sequence[Sample],
    findings: Sequence[Finding],
    copying: Copying | None,
    summary: dict[str, Any],
    objective: Any,
) -> Path:
    """report.html: one self-contained page."""
    page = Report(f"kakusan: {run.path.name}", _subtitle(project, summary))
    _top(page, findings, summary)
    _samples(page, run, project, loaded, samples)
    _curves(page, run)
    _noise(page, project, loaded, objective)
    _reverse(page, samples)
    speed(page, run)
    data(page, project, samples, copying)
    recipe(page, run)
    return page.save(run.report)


def _subtitle(project: Project, summary: dict[str, Any]) -> str:
    sized = f"{project.domain.width} x {project.domain.height}"
    return f"{len(project.train):,} {project.facts.rows} of {sized}, {duration(summary['seconds'])} of training"


def _top(page: Report, findings: Sequence[Finding], summary: dict[str, Any]) -> None:
    page.top.figures(
        [
            ("parameters", f"{summary['parameters'] / 1e6:.1f} M"),
            ("pictures a second", f"{summary['pictures_per_second']:,.0f}"),
            ("pictures seen", f"{summary['pictures_seen']:,}", f"{summary['epochs']:.1f} epochs"),
            ("training", duration(summary["seconds"]), f"{summary['steps']:,} steps"),
            ("final loss", f"{summary['loss']:.4f}" if summary["loss"] is not None else "–"),
            ("memory", size(summary["memory"])),
        ]
    )
    for words in summary["warnings"]:
        page.top.note(words, "warning")
    for finding in findings:
        page.top.note(f"{finding.message} Likely cause: {finding.cause}", finding.severity, fix=finding.fix)
    if not findings and not summary["warnings"]:
        page.top.note("The samples look like pictures, not noise, and none of the known faults was found.", "good")


def _samples(page: Report, run: RunDir, project: Project, loaded: Loaded, samples: Sequence[Sample]) -> None:
    words = "Drawn with fixed seeds and the model's own defaults; nothing was picked."
    if PROMPT in loaded.model.encoders:
        kept = project.held is not None
        words += f" Their prompts are {'captions of pictures kept aside' if kept else 'training captions'}."
    what, befores = shown_by(loaded, project, len(samples))
    section = page.section("Samples", f"{words} {what}".strip())
    pictures: list[Any] = [s.shown for s in samples]
    if befores:
        both = [[p for p in pair if p is not None] for pair in zip(befores, pictures, strict=True)]
        pictures = [sheet.grid(pair, columns=2, scale=1) for pair in both]
    section.pictures(pictures, titles(samples), alt="samples of the finished model")
    grids = sorted(run.samples.glob("step-*.png"))
    if grids:
        grids = [grids[i] for i in np.unique(np.linspace(0, len(grids) - 1, 6).astype(int))]
        over = page.section("Over time", "The same seeds, drawn by the averaged weights as training went on.")
        over.pictures(
            [Pil.open(p) for p in grids], [f"step {int(p.stem.split('-')[1]):,}" for p in grids], alt="preview", scale=1
        )


def _curves(page: Report, run: RunDir) -> None:
    train, held = rows(run.log, "train"), rows(run.log, "held_out")
    section = page.section("Loss")
    lines = [Series("training", [r["step"] for r in train], [r["loss"] or float("nan") for r in train], smooth=True)]
    section.plot(lines, "Training loss by step", "step", "loss", log_y=True)
    if len(held) > 1:
        steps = [r["step"] for r in held]
        lines = [
            Series("held out", steps, [r["score"] for r in held], dots=True),
            Series("trained on", steps, [r["train_score"] for r in held], dots=True, dashed=True),
        ]
        section.plot(
            lines, "Averaged weights on fixed pictures and noise", "step", "loss, relative to the first",
            note="a gap that opens means that the model begins to know its training pictures by heart",
        )  # fmt: skip
    levels = _levels(train)
    if levels:
        section.plot(
            levels, "Training loss by noise level", "step", "loss", log_y=True,
            note="lam = log(alpha/sigma): negative is noisy, positive is nearly clean; both ends matter",
        )  # fmt: skip
    if held and held[-1].get("held") and held[-1].get("train"):
        _gap(section, held[-1])


def _gap(section: Any, row: dict[str, Any]) -> None:
    centres = [(a + b) / 2 for a, b in pairwise(EDGES)]
    lines = []
    for name, key, dashed in (("held out", "held", False), ("trained on", "train", True)):
        points = [(x, y) for x, y in zip(centres, row[key]) if y is not None]
        lines.append(Series(name, [x for x, _ in points], [y for _, y in points], dots=True, dashed=dashed))
    section.plot(lines, "The gap between held-out and training pictures", "lam = log(alpha/sigma)", "loss", log_y=True)


def _levels(train: list[dict[str, Any]]) -> list[Series]:
    """Loss curves of the noise levels that were seen often, named by their lam."""
    out = []
    for i, (low, high) in enumerate(pairwise(EDGES)):
        seen = sum(r["counts"][i] for r in train)
        if seen > 0.02 * sum(sum(r["counts"]) for r in train):
            values = [float("nan") if r["levels"][i] is None else r["levels"][i] for r in train]
            out.append(Series(f"lam {low:g} to {high:g}", [r["step"] for r in train], values, smooth=True))
    return out


def _noise(page: Report, project: Project, loaded: Loaded, objective: Any) -> None:
    process = loaded.model.denoiser.process
    section = page.section(
        "Noise", "The forward process, which is fixed: a picture of the data at rising noise levels."
    )
    lam = torch.tensor([4.0, 2.5, 1.5, 0.8, 0.2, -0.5, -1.5, -3.0], dtype=torch.float64)
    times = process.time(lam)
    with torch.no_grad():
        x0 = loaded.domain.encode(project.some(1)).cpu()
    eps = Rng([0]).normal([tuple(x0.shape[1:])], "report")
    frames, labels = [x0[0]], ["data"]
    for t, level in zip(times, lam):
        alpha, sigma = process.scales(t)
        frames.append((process.noised(x0, eps, t) / (alpha + sigma).clamp(min=1.0).to(x0.dtype))[0])
        labels.append(f"lam {float(level):g}")
    seen = loaded.domain.decode(torch.stack(frames).to(loaded.device))
    section.strip([project.domain.shown(r) for r in project.domain.records(seen)], labels, "The forward process")
    grid = torch.linspace(0.001, 1, 200, dtype=torch.float64)
    lams = process.logsnr(grid).clamp(-10, 10)
    grid_part = build(dict(loaded.info()["defaults"])["grid"], "grid")
    marks: list[tuple[float, str]] = []
    if isinstance(grid_part, Grid):
        visited = grid_part.times(int(loaded.info()["defaults"]["steps"]), process)[:-1]
        where = Series(
            "where the sampler evaluates", visited.tolist(), process.logsnr(visited).clamp(-10, 10).tolist(), dots=True
        )
        section.plot(
            [Series("log(alpha/sigma)", grid.tolist(), lams.tolist()), where],
            "The noise schedule",
            "t",
            "lam",
            marks=marks,
        )
    if isinstance(objective, Denoising):
        u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
        drawn = process.logsnr(objective.density.times(u, process)).clamp(-10, 10)
        counts, edges = np.histogram(drawn.numpy(), bins=60, density=True)
        centres = ((edges[1:] + edges[:-1]) / 2).tolist()
        section.plot({"density": (centres, counts.tolist())}, "Noise levels drawn in training", "lam", "density")


def _reverse(page: Report, samples: Sequence[Sample]) -> None:
    frames = samples[0].frames if samples else []
    if not frames:
        return
    section = page.section("From noise to picture", "The model's estimate of the clean picture as sampling goes on.")
    picked = sorted({round(i) for i in np.linspace(0, len(frames) - 1, min(10, len(frames)))})
    section.strip([frames[i] for i in picked], [f"{i + 1} of {len(frames)}" for i in picked], "The reverse process")


def speed(page: Report, run: RunDir) -> None:
    """Pictures a second over the run."""
    train = rows(run.log, "train")
    if train:
        section = page.section("Speed")
        seconds = [r["seconds"] / 60 for r in train]
        rate = [r["pictures_per_second"] or float("nan") for r in train]
        section.plot(
            [Series("pictures a second", seconds, rate, smooth=True)], "Throughput", "minutes", "pictures a second"
        )


def data(page: Report, project: Project, samples: Sequence[Sample], copying: Copying | None) -> None:
    """Pictures of the data, what was left out, and samples that are copies."""
    section = page.section("Data")
    section.details("What was trained on", project.sheet())
    some = project.domain.records(project.some(24))
    section.pictures([project.domain.shown(r) for r in some], caption="Pictures of the data, as the model sees them")
    for name, reason in project.cache.broken[:20]:
        section.note(f"{name}: {reason}", "warning", "Left out.")
    if copying is None:
        return
    near = page.section("Copies", f"{copying.message[:1].upper()}{copying.message[1:]}.")
    if copying.pairs:
        shown: list[np.ndarray] = []
        words: list[str] = []
        pool = project.train
        for pair in copying.pairs[:8]:
            match = project.domain.records(project.domain.floats(pool.rows(np.array([pair.train]))))[0]
            shown.append(beside(samples[pair.sample].shown, project.domain.shown(match)))
            words.append(f"sample {pair.sample} and its nearest")
        scale = max(1, 240 // shown[0].shape[1])
        near.pictures(shown, words, "The samples nearest to a training picture, each with that picture", scale=scale)


def beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two pictures of one size as one, a white strip between them."""
    strip = np.full_like(left[:, :2], np.iinfo(left.dtype).max)
    return np.concatenate([left, strip, right], 1)


def recipe(page: Report, run: RunDir) -> None:
    """What makes the run again, and what it ran on."""
    section = page.section("Recipe", "Everything that decides this run; train again with --recipe recipe.toml.")
    section.details("recipe.toml", run.recipe.read_text("utf-8"))
    if run.environment.exists():
        section.details("environment.json", run.environment.read_text("utf-8"))
