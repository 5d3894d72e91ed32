"""Chronicle: what a run shows while it trains: the progress line, and samples from fixed seeds over time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from kakusan.app.command.show import Progress
from kakusan.app.draw import sampler, sheet
from kakusan.app.draw.loaded import Loaded, Sample
from kakusan.app.draw.sampled import titles
from kakusan.app.draw.sampler import Request
from kakusan.app.judge.doctor import memory_peak
from kakusan.app.train import spatial
from kakusan.app.train.project import Project
from kakusan.app.train.rundir import RunDir
from kakusan.checkpoint import save_model
from kakusan.core.model import Model
from kakusan.training.captions import PROMPT
from kakusan.training.hooks import Hooks
from kakusan.training.machine import wait

__all__ = ["Budget", "Chronicle", "final_samples"]

PREVIEW = 16  # samples a preview, at most
PREVIEW_STEPS = 12
FINAL = 64  # samples at the end, at most
SHARE = 0.04  # of the time asked may go into the samples at the end, and half of that into previews


@dataclass(frozen=True)
class Budget:
    """How many samples fit the time: ``preview`` each time, ``final`` at the end, which ``reserve`` seconds are for."""

    preview: int
    final: int
    reserve: float

    @classmethod
    def of(cls, model: Model, project: Project, minutes: float | None) -> Budget:
        """Measured: one evaluation of the network on a few pictures."""
        device = next(model.parameters()).device
        x = torch.zeros(8, *project.facts.shape, device=device)
        t = torch.tensor(0.5, dtype=torch.float64)
        cond = model.cond({}, {}, len(x))
        with torch.no_grad():
            model.denoiser(x, t, cond)
            begun = time.perf_counter()
            model.denoiser(x, t, cond)
            wait(device)
        each = (time.perf_counter() - begun) / len(x)
        evaluations = sampler.evaluations(sampler.defaults(model))
        time_left = SHARE * 60 * (minutes or 30)
        final = int(min(FINAL, max(4, time_left / (each * evaluations) - 1)))
        preview = int(min(PREVIEW, max(2, time_left / 2 / 12 / (each * PREVIEW_STEPS))))
        return cls(preview, final, 2.0 + 1.2 * each * evaluations * (final + 1))


class Chronicle(Hooks):
    """Hooks of the training loop: the progress line, and a grid of the same seeds over time."""

    def __init__(
        self, run: RunDir, project: Project, progress: Progress, budget: Budget, stop: Callable[[], bool],
        snapshots: bool = False,
    ) -> None:  # fmt: skip
        self.run, self.project, self.progress, self.budget, self.stop = run, project, progress, budget, stop
        self.snapshots = snapshots
        self.warnings: list[str] = []
        self.minutes: float | None = None
        self.total: int | None = None
        self.batch = 1

    def on_start(self, info: dict[str, Any]) -> None:
        self.minutes, self.total, self.batch = info["minutes"], info["total"], info["batch"]
        self.progress.start(info["total"] or 1, "training")

    def on_log(self, row: dict[str, Any]) -> None:
        if row["kind"] != "train":
            return
        left = None
        if self.minutes:
            left = max(0.0, 60 * self.minutes - self.budget.reserve - row["seconds"])
        elif self.total and row["pictures_per_second"]:
            left = (self.total - row["step"]) * self.batch / row["pictures_per_second"]
        self.progress.update(row["step"], self.total, row["loss"], row["pictures_per_second"], left, memory_peak())

    def on_event(self, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if kind == "pace":
            self.total = event["total"]
        elif kind in ("overfit", "skipped", "rollback"):
            self.warnings.append(event["text"])
            self.progress.warn(f"step {event['step']}: {event['text']}")
        elif kind == "notice":
            self.progress.note(event["text"])

    def on_preview(self, step: int, model: Model) -> None:
        if self.snapshots:
            save_model(self.run.path / "snapshots" / f"step-{step:06d}.safetensors", model, {"step": step})
        loaded = Loaded(model, {})
        steps = min(PREVIEW_STEPS, int(sampler.defaults(model)["steps"]))
        request = preview_request(loaded, self.project, self.budget.preview, steps, 0.0)
        samples = loaded.draw(request, stop=self.stop)
        if self.stop():
            return  # the loop asks for this preview again on resume
        self.run.samples.mkdir(exist_ok=True)
        words = titles(samples) if PROMPT in model.encoders else None
        grid = sheet.grid([s.shown for s in samples], columns=8, labels=words)
        sheet.save(grid, self.run.samples / f"step-{step:06d}.png")


def preview_request(
    loaded: Loaded, project: Project, count: int, steps: int | None = None, eta: float | None = None
) -> Request:
    """Fixed seeds; captions of pictures kept aside as prompts, or classes in turn."""
    cond = {name: values for name, values in project.asked(count).items() if name in loaded.model.encoders}
    cond |= spatial.drawn_by(loaded.model, project, range(count))
    return Request(seeds=list(range(count)), cond=cond, steps=steps, eta=eta)


def final_samples(loaded: Loaded, project: Project, count: int, stop: Callable[[], bool]) -> list[Sample]:
    """The samples at the end of a run, the first of them with its reverse process; none when asked to stop."""
    request = preview_request(loaded, project, count)
    first = replace(request, seeds=request.seeds[:1], cond={name: v[:1] for name, v in request.cond.items()})
    filmed = loaded.draw(first, film=True, stop=stop)
    samples = loaded.draw(request, stop=stop)
    if stop():
        return []
    samples[0].frames = filmed[0].frames
    return samples
