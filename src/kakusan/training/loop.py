"""run: the training loop, from a fresh or an interrupted run to finished weights.

One step: batch, loss, backward, clip, optimiser, average. The rest is bookkeeping at the top of each step, in an order
that a resumed run repeats exactly: decide, watch, preview, stop or save. What is random is a function of (seed, step).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kakusan.core.batch import Batch
from kakusan.core.model import Model
from kakusan.core.rng import Rng, mix
from kakusan.part import KakusanError
from kakusan.training import state as disk
from kakusan.training.ema import PowerEma, load_weights
from kakusan.training.events import Events, Log
from kakusan.training.feed import Feed, on_device
from kakusan.training.hooks import Hooks, Result
from kakusan.training.machine import autocast, compiled, machine, seeded, wait
from kakusan.training.schedule import Clock, Schedule, due
from kakusan.training.settings import Training
from kakusan.training.stop import Stop
from kakusan.training.watch import EDGES, Batches, HeldOut, Meter, Watch

__all__ = ["Hooks", "Result", "run"]

PATIENCE = 5  # steps in a row that are not finite before the weights are rolled back
ROLLBACKS = 5  # roll-backs before the run gives up
EVALUATION_SHARE = 0.03  # of the run's time
BEST_MARGIN = 0.01  # the best point is shipped only when it is this much better than the end


def run(
    model: Model,
    batches: Batches,
    settings: Training,
    run_dir: Path,
    device: torch.device | str = "cpu",
    hooks: Hooks | None = None,
    held_out: HeldOut | None = None,
    stop: Stop | None = None,
    resume: bool = False,
    spent: float = 0.0,
    reserve: float = 0.0,
    now: Callable[[], float] = time.monotonic,
) -> Result:
    """Train ``model`` in ``run_dir`` (log.jsonl, events.jsonl, state/) until done or asked to stop.

    ``spent``: seconds of ``settings.minutes`` used before this call; ``reserve``: seconds to leave for after it.
    ``resume``: go on from the newest whole checkpoint, bit-identically (same machine, threads, versions).
    ``stop``: an entered Stop; by default the run installs its own. The model is trained in place and ends with the last
    raw weights; the ones to ship are in the result. Raises KakusanError when the run can not go on, DiskFull when its
    last save fails.
    """
    with (
        nullcontext(stop) if stop else Stop() as flag,
        machine(torch.device(device), settings.flush_denormal) as flushed,
    ):
        trainer = _Trainer(model, batches, settings, Path(run_dir), torch.device(device), hooks or Hooks(), flag)
        trainer.watch = _watch(trainer, held_out) if settings.held_out else None
        trainer.clock = Clock(spent, now)
        trainer.reserve, trainer.flushed = reserve, flushed
        return trainer.run(resume)


class _Trainer:
    """The state of a running training."""

    watch: Watch | None
    clock: Clock
    reserve: float
    flushed: bool

    def __init__(
        self,
        model: Model,
        batches: Batches,
        settings: Training,
        folder: Path,
        device: torch.device,
        hooks: Hooks,
        stop: Stop,
    ) -> None:
        self.settings, self.folder, self.device, self.hooks, self.stop = settings, folder, device, hooks, stop
        self.model = model.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.shadow = copy.deepcopy(self.model).eval().requires_grad_(False)
        compiled(self.model.denoiser.net, device)
        self.feed = Feed(batches, device)
        self.optimiser = settings.optim.build(self.model)
        self.params = [p for g in self.optimiser.param_groups for p in g["params"]]
        self.ema = PowerEma(self.model, settings.ema, settings.ema_every)
        self.best: dict[str, Tensor] = {}
        self.meter = Meter(device)
        self.norms = torch.zeros(settings.log_every, device=device)
        self.autocast = autocast(device, settings.precision)
        shape = (settings.warmup, settings.cooldown, settings.shape)
        self.schedule = Schedule.fixed(settings.steps, *shape) if settings.steps else Schedule.timed(*shape)
        self.step = self.began = self.previews = self.evaluations = self.streak = self.rollbacks = 0
        self.rate = 1.0  # halved by each roll-back
        self.loss: float | None = None
        self.finished: dict[str, Any] | None = None
        self.saved_at, self.logged_at = 0.0, (0, 0.0)
        self.checkpoint = folder / "state"

    # -- the run ---------------------------------------------------------------------------------------------

    def run(self, resume: bool) -> Result:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.events, self.log = Events(self.folder / "events.jsonl"), Log(self.folder / "log.jsonl")
        saved = disk.load(self.folder / "state", self._notice)
        if saved and not resume:
            raise KakusanError(
                f"{self.folder} holds a training already: kakusan resume {self.folder}, or choose another folder"
            )
        if saved:
            self._restore(saved)
        self._start()
        if not saved:
            self._save(scheduled=True)
        done = self.finished is not None or (self._train() and self._finish())
        if not done:
            self._save(scheduled=False, must=True)
        return self._result(interrupted=not done)

    def _train(self) -> bool:
        """Step until the end (True) or a request to stop (False)."""
        while True:
            self._decide()
            if self.stop() or not self._evaluate():
                return False
            self._preview()
            if self.stop():
                return False
            if self.step == self.schedule.total:
                return True
            if self.clock.elapsed() - self.saved_at >= 60 * self.settings.checkpoint_minutes:
                self._save(scheduled=True)
            self._step()
            if self.step % self.settings.log_every == 0 or self.step == self.schedule.total:
                self._record()

    def _step(self) -> None:
        factor = self.rate * self.schedule.factor(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = group["initial_lr"] * factor
        with seeded(mix(self.settings.seed, "network", self.step), self.device):
            loss, lam = self._terms(self.model, *self.feed.at(self.step), self.step)
            mean = loss.mean()
            mean.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.params, self.settings.clip)
        finite = torch.isfinite(mean.detach()) & torch.isfinite(norm)
        self.optimiser.step(finite=finite)
        self.optimiser.zero_grad(set_to_none=True)
        self.meter.add(loss, lam, finite)
        self.norms[self.step % self.settings.log_every] = torch.where(finite, norm, torch.inf)
        self.step += 1
        self.ema.update(self.step, now=self.step == self.schedule.total)

    def _terms(self, model: Model, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, Tensor]:
        with self.autocast():
            return self.settings.objective.terms(model, batch, rng, step)

    # -- bookkeeping at the top of a step, in this order -----------------------------------------------------

    def _decide(self) -> None:
        """The clock's decision, when one is due: on disk before it acts, replayed when it was taken before."""
        if self.schedule.next is None or self.step < self.schedule.next:
            if self.step == self.began + 1:
                self.clock.look(self.step)  # the first step pays for compilation and caches
            return
        event = self.events.replay("pace", self.step)
        if event is None:
            wait(self.device)
            event = self.schedule.decide(self.step, *self._seconds())
            event["seconds"] = round(self.clock.elapsed(), 3)
            self.events.append(event)
        else:
            self.clock.look(self.step)
        self.schedule.apply(event)
        self.hooks.on_event(event)

    def _seconds(self) -> tuple[float, float]:
        """Seconds left for training steps, and seconds a step."""
        assert self.settings.minutes is not None
        left = 60 * self.settings.minutes - self.reserve - self.clock.elapsed()
        saves = 1 + left / (60 * self.settings.checkpoint_minutes)
        aside = self.clock.ahead("save", saves) + self.clock.ahead("preview", self.settings.previews - self.previews)
        if self.watch:
            aside += self.clock.ahead("evaluate", self._evaluation_points() - self.evaluations + len(self.ema.widths))
        return max(0.0, left - aside), self.clock.look(self.step)

    def _evaluation_points(self) -> int:
        """At most the settings' number, and so few that two batches of a third of a step each stay within the share."""
        total = self.schedule.total or 1
        return min(self.settings.evaluations, max(1, int(EVALUATION_SHARE * total * 1.5)))

    def _evaluate(self) -> bool:
        """The held-out evaluation, when due; False when asked to stop on the way (it is done again on resume)."""
        total, points = self.schedule.total, self._evaluation_points()
        if self.watch is None or not due(self.step, total, points, self.evaluations):
            return True
        if not self.watch.count:
            self.watch.count = max(1, min(self.watch.data.count, int(EVALUATION_SHARE * (total or 1) * 1.5 / points)))
        with self.clock.aside("evaluate"):
            row = self._measure(self.settings.ship)
        if row is None:
            return False
        while due(self.step, total, points, self.evaluations):
            self.evaluations += 1
        known = self.watch.overfit
        if self.watch.judge(self.step, row):
            self.best = {n: t.clone() for n, t in self.ema.weights(self.settings.ship).items()}
        self._row({"kind": "held_out", "step": self.step, **row, "seconds": round(self.clock.elapsed(), 3)})
        if self.watch.overfit and not known:
            best = self.watch.best or {}
            text = "the loss on pictures kept aside is rising while the training loss falls: the model begins to copy"
            self._event({"kind": "overfit", "step": self.step, "best_step": best.get("step"), "text": text})
        return True

    def _measure(self, width: float) -> dict[str, Any] | None:
        assert self.watch is not None
        self.ema.write(width, self.shadow)
        with seeded(0, self.device):
            return self.watch.measure(self.stop)

    def _preview(self) -> None:
        """Samples of the averaged weights, when they are due."""
        points, asked = self.settings.previews, self.previews
        while due(self.step, self.schedule.total, points, self.previews, power=2.0):
            self.previews += 1
        if self.previews == asked:
            return
        self.ema.write(self.settings.ship, self.shadow)
        with self.clock.aside("preview"), torch.no_grad(), seeded(0, self.device):
            self.hooks.on_preview(self.step, self.shadow)
        if self.stop():
            self.previews = asked  # it may have been cut short: drawn again on resume

    def _record(self) -> None:
        """Fetch what the device has added up since the last row: the one wait of the loop."""
        filled = self.step - self.logged_at[0]
        first = self.step - filled
        norms = self.norms[:filled].tolist()
        means, counts = self.meter.read()
        good = [n for n in norms if n != float("inf")]
        seen = sum(counts)
        self.loss = sum(m * n for m, n in zip(means, counts) if m is not None) / seen if seen else None
        elapsed = self.clock.elapsed()
        pace = (elapsed - self.logged_at[1]) / filled
        row = {
            "kind": "train",
            "step": self.step,
            "loss": self.loss,
            "grad_norm": sum(good) / len(good) if good else None,
            "rate": self.rate * self.schedule.factor(self.step - 1),
            "levels": means,
            "counts": counts,
            "seconds": round(elapsed, 3),
            "pictures_per_second": round(self.feed.batch / pace, 3) if pace > 0 else None,
        }
        self.meter.table.zero_()
        self.logged_at = (self.step, elapsed)
        self._row(row)
        bad = [first + i for i, norm in enumerate(norms) if norm == float("inf")]
        if bad:
            self._event(
                {"kind": "skipped", "step": self.step, "steps": bad, "text": "loss or gradient not finite: left out"}
            )
            self._lose_patience(norms)

    def _lose_patience(self, norms: list[float]) -> None:
        """After several bad steps in a row: back to the last scheduled checkpoint's weights, at half the rate."""
        worst = 0
        for norm in norms:
            self.streak = self.streak + 1 if norm == float("inf") else 0
            worst = max(worst, self.streak)
        if worst < PATIENCE:
            return
        if self.rollbacks >= ROLLBACKS:
            raise KakusanError(
                f"the loss was not finite again after {ROLLBACKS} roll-backs (step {self.step}): check the data "
                "(kakusan data check), or train with a lower optim.lr"
            )
        saved = disk.load(self.folder / "state", self._notice, scheduled=True)
        if saved is None:
            raise KakusanError(
                f"no checkpoint to roll back to in {self.folder / 'state'}: start a new run with a lower optim.lr"
            )
        self._restore_weights(saved)
        self.rate, self.streak, self.rollbacks = self.rate / 2, 0, self.rollbacks + 1
        text = f"weights of step {saved.step} restored, learning rate halved"
        self._event({"kind": "rollback", "step": self.step, "to": saved.step, "rate": self.rate, "text": text})

    # -- the end ---------------------------------------------------------------------------------------------

    def _finish(self) -> bool:
        """Choose the weights to ship and save; False when asked to stop on the way."""
        chosen: dict[str, Any] = {"width": self.settings.ship, "best_step": None}
        if self.watch is not None and self.watch.count and len(self.ema.widths) > 1:
            scores: dict[str, float] = {}
            for width in self.ema.widths:
                with self.clock.aside("evaluate"):
                    row = self._measure(width)
                if row is None:
                    return False
                scores[f"{width:g}"] = self.watch.scores(row)[0]
            chosen["width"] = min(self.ema.widths, key=lambda w: scores[f"{w:g}"])
            chosen["scores"] = scores
        if self.watch is not None and self.watch.best is not None:
            end = min(chosen.get("scores", {}).values(), default=float("inf"))
            best = self.watch.best
            if self.watch.worse and best["score"] * (1 + BEST_MARGIN) < end:
                chosen.update(width=self.settings.ship, best_step=best["step"])
        self._event({"kind": "chosen", "step": self.step, **chosen})
        self.finished = chosen
        self._save(scheduled=True, must=True)
        return True

    def _result(self, interrupted: bool) -> Result:
        chosen = self.finished or {"width": self.settings.ship, "best_step": None}
        shipped = self.best if chosen["best_step"] is not None else self.ema.weights(chosen["width"])
        load_weights(self.shadow, shipped)
        return Result(
            model=self.shadow,
            interrupted=interrupted,
            step=self.step,
            total=self.schedule.total,
            seconds=self.clock.elapsed(),
            loss=self.loss,
            width=chosen["width"],
            best_step=chosen["best_step"],
            overfit=bool(self.watch and self.watch.overfit),
            ema=self.ema,
            checkpoint=self.checkpoint,
        )

    # -- telling ---------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self.hooks.on_start(
            {
                "step": self.step,
                "total": self.schedule.total,
                "minutes": self.settings.minutes,
                "parameters": sum(p.numel() for p in self.model.parameters()),
                "batch": self.feed.batch,
                "device": str(self.device),
                "edges": EDGES,
            }
        )

    def _row(self, row: dict[str, Any]) -> None:
        self.log.append(row)
        self.hooks.on_log(row)

    def _event(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        self.hooks.on_event(event)

    def _notice(self, text: str) -> None:
        """Something the user should read that is no part of the run's history."""
        self.hooks.on_event({"kind": "notice", "step": self.step, "text": text})

    # -- saving and restoring --------------------------------------------------------------------------------

    def _save(self, scheduled: bool, must: bool = False) -> None:
        """A checkpoint; when the disk is full the run says so and goes on, unless this is the last one (``must``)."""
        with self.clock.aside("save"):
            self.saved_at = self.clock.elapsed()
            tensors, plain = disk.flatten_optimiser(self.optimiser)
            groups = {"weights": _weights(self.model), "ema": self.ema.tensors(), "optim": tensors, "best": self.best}
            groups["meter"] = {"table": self.meter.table, "norms": self.norms}
            try:
                log = _or_disk_full(self.log.flush)
                meta = self._meta() | {"optim": plain, "log": log, "events": self.events.offset}
                path = disk.save(self.folder / "state", self.step, groups, meta, scheduled)
            except disk.DiskFull as error:
                if must:
                    raise
                self._notice(str(error))
                return
        self.checkpoint = path
        self.hooks.on_checkpoint(path, self.step)

    def _meta(self) -> dict[str, Any]:
        return {
            "schedule": self.schedule.state(),
            "elapsed": self.clock.elapsed(),
            "random": {"seed": self.settings.seed, "next": self.feed.fingerprint(self.step)},
            "flushed": self.flushed,
            "ema_last": self.ema.last,
            "watch": self.watch.state() if self.watch else None,
            "finished": self.finished,
        } | {name: getattr(self, name) for name in _COUNTERS}

    def _restore(self, saved: disk.Saved) -> None:
        meta = saved.meta
        self.step = saved.step
        random = meta.get("random") or {}
        if random.get("seed") != self.settings.seed or random.get("next") != self.feed.fingerprint(self.step):
            raise KakusanError(
                f"{saved.path}: its random state is {'of another seed or other data' if random else 'missing'}; "
                f"resume needs the same data, batch and seed (seed {random.get('seed')})"
            )
        if meta["flushed"] != self.flushed:
            self._notice("denormal numbers are treated otherwise than before the interruption: last digits may differ")
        self._restore_weights(saved)
        for name in _COUNTERS:
            setattr(self, name, meta[name])
        self.logged_at = (meta["logged_at"][0], meta["logged_at"][1])
        self.schedule = replace(self.schedule, **meta["schedule"])
        self.finished = meta["finished"]
        self.best = {n: t.to(self.device) for n, t in saved.groups["best"].items()}
        self.meter.table.copy_(saved.groups["meter"]["table"])
        self.norms.copy_(saved.groups["meter"]["norms"])
        if self.watch and meta["watch"]:
            self.watch.restore(meta["watch"])
        self.clock = self.clock.resumed(meta["elapsed"], self.step)
        self.began = self.step
        self.saved_at = meta["elapsed"]
        self.checkpoint = saved.path
        self.log.rewind(meta["log"])
        self.events.rewind(meta["events"])

    @torch.no_grad()
    def _restore_weights(self, saved: disk.Saved) -> None:
        """Weights, averages and optimiser, each into its own place; nothing of the bookkeeping."""
        mine, theirs = _weights(self.model), saved.groups["weights"]
        odd = sorted(mine.keys() ^ theirs.keys()) or sorted(n for n in mine if mine[n].shape != theirs[n].shape)
        if odd:
            raise KakusanError(
                f"{saved.path} is of another model: {odd[0]!r} does not fit; resume needs the run's own recipe"
            )
        for name, tensor in mine.items():
            tensor.copy_(theirs[name])
        self.ema.restore(saved.groups["ema"], saved.meta["ema_last"])
        disk.restore_optimiser(self.optimiser, saved.groups["optim"], saved.meta["optim"])


_COUNTERS = ("previews", "evaluations", "streak", "rollbacks", "rate", "loss", "logged_at")


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name, each tensor once."""
    saved = model.state_dict(keep_vars=True)
    named = dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if n in saved}
    return {n: t.detach() for n, t in named.items()}


def _watch(trainer: _Trainer, data: HeldOut | None) -> Watch | None:
    if data is None or not trainer.settings.evaluations:
        return None

    def terms(batch: Batch, rng: Rng, step: int) -> tuple[Tensor, Tensor]:
        moved = on_device(batch, trainer.device)
        return trainer._terms(trainer.shadow, moved, Rng(rng.seeds, trainer.device), step)

    return Watch(terms, data, trainer.device)


def _or_disk_full(write: Callable[[], int]) -> int:
    try:
        return write()
    except OSError as error:
        if disk.is_full(error):
            raise disk.DiskFull(f"the disk is full: {error}; earlier checkpoints are intact; free some space") from None
        raise
