"""Reconstructed: pictures through an autoencoder and back, how far they are from what they were, and the page of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Pil
from torch import Tensor

from kakusan.app.command.show import duration, size
from kakusan.app.draw import sheet
from kakusan.app.train import runpage
from kakusan.app.train.project import Project
from kakusan.app.train.rundir import RunDir
from kakusan.domains.latent import Latent
from kakusan.report import Report, Series

__all__ = ["Reconstructed", "measure", "pairs", "psnr", "save", "write_report"]

JUDGED = 512  # pictures of each side, at most
WORST = 8


@dataclass(frozen=True)
class Reconstructed:
    """Pictures (N, C, H, W) as they were and as they came back, in the model's range of -1 to 1."""

    before: Tensor
    after: Tensor

    @property
    def psnr(self) -> float:
        """Of all numbers together, in dB, rounded to hundredths."""
        return round(psnr(self.before, self.after), 2)

    @property
    def each(self) -> Tensor:
        """Mean squared error of each picture, (N,)."""
        return (self.before - self.after).square().flatten(1).mean(1)


def psnr(before: Tensor, after: Tensor) -> float:
    """``10 log10(4 / MSE)``: peak signal to noise in dB for the range of -1 to 1; of RGBA, premultiplied with alpha."""
    error = float((before.double() - after.double()).square().mean())
    return 10 * math.log10(4 / max(error, 1e-12))


@torch.no_grad()
def measure(latent: Latent, project: Project, held: bool, count: int = JUDGED) -> Reconstructed:
    """Pictures kept aside (where none are, and with ``held`` False, of those trained on), by the latent's mean."""
    before = project.some(count, held=held)
    return Reconstructed(before, latent.decode(latent.encode(before)).float().cpu().clamp(-1, 1))


def pairs(latent: Latent, project: Project, count: int) -> list[np.ndarray]:
    """Pictures kept aside, each beside what came back of it."""
    return _beside(measure(latent, project, True, count), project)


def _beside(made: Reconstructed, project: Project) -> list[np.ndarray]:
    sides = [[project.domain.shown(r) for r in project.domain.records(x)] for x in (made.before, made.after)]
    return [runpage.beside(a, b) for a, b in zip(*sides, strict=True)]


def save(made: list[np.ndarray], path: Path) -> Path:
    """A sheet of pairs."""
    return sheet.save(sheet.grid(made, columns=4), path)


def write_report(
    run: RunDir, project: Project, latent: Latent, held: Reconstructed, trained: Reconstructed, summary: dict[str, Any]
) -> Path:
    """report.html: one self-contained page."""
    sized = f"{project.domain.width} x {project.domain.height}"
    page = Report(
        f"kakusan: {run.path.name}",
        f"an autoencoder of {len(project.train):,} pictures of {sized}, {duration(summary['seconds'])} of training",
    )
    shape = summary["latent"]
    aside = project.held is not None
    page.top.figures(
        [
            ("PSNR", f"{held.psnr:.2f} dB", "pictures kept aside" if aside else "pictures trained on"),
            ("PSNR, trained on", f"{trained.psnr:.2f} dB"),
            ("latent", f"{shape[2]} x {shape[1]} x {shape[0]}", f"of {sized} x {project.domain.channels}"),
            ("parameters", f"{summary['parameters'] / 1e6:.2f} M"),
            ("pictures a second", f"{summary['pictures_per_second']:,.0f}"),
            ("training", duration(summary["seconds"]), f"{summary['steps']:,} steps"),
            ("memory", size(summary["memory"])),
        ]
    )
    for words in summary["warnings"]:
        page.top.note(words, "warning")
    page.top.note(f"Train on it: kakusan train DATA --latent {run.path}")
    _pictures(page, run, project, held)
    _loss(page, run)
    _scale(page, latent)
    runpage.speed(page, run)
    runpage.data(page, project, [], None)
    runpage.recipe(page, run)
    return page.save(run.report)


def _pictures(page: Report, run: RunDir, project: Project, held: Reconstructed) -> None:
    section = page.section("Reconstructions", "Each picture beside what came back of it; nothing was picked.")
    first = Reconstructed(held.before[:16], held.after[:16])
    section.pictures(_beside(first, project), alt="pictures and their reconstructions")
    worst = held.each.argsort(descending=True)[:WORST]
    words = [f"{psnr(held.before[i], held.after[i]):.1f} dB" for i in worst]
    section.pictures(_beside(Reconstructed(held.before[worst], held.after[worst]), project), words, "The worst of them")
    grids = sorted(run.samples.glob("step-*.png"))
    if grids:
        grids = [grids[i] for i in np.unique(np.linspace(0, len(grids) - 1, 4).astype(int))]
        over = page.section("Over time", "The same pictures through the averaged weights as training went on.")
        labels = [f"step {int(p.stem.split('-')[1]):,}" for p in grids]
        over.pictures([Pil.open(p) for p in grids], labels, alt="preview", scale=1)


def _loss(page: Report, run: RunDir) -> None:
    train, held = runpage.rows(run.log, "train"), runpage.rows(run.log, "held_out")
    lines = [Series("training", [r["step"] for r in train], [r["loss"] or float("nan") for r in train], smooth=True)]
    for name, side in (("kept aside, averaged weights", "held"), ("trained on, averaged weights", "train")):
        points = [(r["step"], next((v for v in r[side] if v is not None), float("nan"))) for r in held]
        if len(points) > 1:
            lines.append(Series(name, [x for x, _ in points], [y for _, y in points], dots=True))
    page.section("Loss").plot(lines, "Loss by step", "step", "loss", log_y=True)


def _scale(page: Report, latent: Latent) -> None:
    """Mean and standard deviation by channel, by which what is diffused has mean 0 and variance 1."""
    rows = {f"channel {i}": f"mean {m:.3f}, std {s:.3f}" for i, (m, s) in enumerate(zip(latent.mean, latent.std))}
    page.section("Latent").details("Scale of the latent's channels, as the autoencoder gives them", rows)
