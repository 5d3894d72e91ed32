"""contest: the loop around the steps of a generator and its discriminator, to a finished generator; exactly resumable.

It does what ``loop`` does for diffusion models, with the same clock, decisions, checkpoints and log: decide, preview,
stop or save, step. A step that is not finite is left out and counted; when so many in a row are not that nothing can
come of it, the run ends as diverged, which its result says.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kakusan.core.rng import Rng, mix
from kakusan.part import KakusanError
from kakusan.training import state as disk
from kakusan.training.adversarial import COLUMNS, Adversarial, Rivals
from kakusan.training.ema import PowerEma, load_weights
from kakusan.training.events import Events, Log
from kakusan.training.feed import Feed
from kakusan.training.machine import machine, seeded, wait
from kakusan.training.schedule import CLOCKS, Clock, Schedule, due
from kakusan.training.stop import Stop
from kakusan.training.watch import Batches

__all__ = ["PATIENCE", "Contested", "Listener", "contest"]

PATIENCE = 50  # steps in a row that are not finite before the run counts as diverged
SETTLED = 16  # batches that averaged weights take their batch statistics from
_COUNTERS = ("previews", "skipped", "streak", "diverged", "finished")


class Listener:
    """What the application wants to hear of; none of it may change the run."""

    def on_start(self, total: int | None, minutes: float | None, step: int) -> None:
        """Once, before the first step."""

    def on_row(self, row: dict[str, Any]) -> None:
        """Each row of log.jsonl."""

    def on_event(self, event: dict[str, Any]) -> None:
        """Each event: pace, skipped, diverged, notice."""

    def on_preview(self, step: int, generator: nn.Module) -> None:
        """At the preview points, with the averaged generator in evaluation mode."""


@dataclass(frozen=True)
class Contested:
    """How a run ended; ``generator`` has the averaged weights, in evaluation mode."""

    generator: nn.Module
    interrupted: bool
    diverged: bool  # training was ended because its numbers were no longer finite
    step: int
    skipped: int  # steps left out because something was not finite
    seconds: float


class _Live:
    """Everything that a run under way consists of."""

    def __init__(
        self, rivals: Rivals, batches: Batches, folder: Path, device: torch.device, listener: Listener, stop: Stop
    ) -> None:
        self.rivals, self.settings, self.folder, self.device = rivals, rivals.settings, folder, device
        self.listener, self.stop = listener, stop
        self.feed = Feed(batches, device)
        self.shadow = copy.deepcopy(rivals.generator).eval().requires_grad_(False)
        self.ema = PowerEma(rivals.generator, [self.settings.ema])
        self.rows = torch.zeros(self.settings.log_every, len(COLUMNS) + 1, device=device)
        every = self.settings
        # the whole run is its cool-down: the schedule's share of it is the share of the run that has gone
        self.schedule = (
            Schedule.fixed(every.steps, 0, 1.0, "linear") if every.steps else Schedule.timed(0, 1.0, "linear")
        )
        self.step = self.began = self.previews = self.skipped = self.streak = 0
        self.diverged = self.finished = False
        self.saved_at, self.logged_at = 0.0, (0, 0.0)
        self.clock, self.reserve = Clock(), 0.0
        self.events, self.log = Events(folder / "events.jsonl"), Log(folder / "log.jsonl")

    def event(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        self.listener.on_event(event)

    def notice(self, text: str) -> None:
        self.listener.on_event({"kind": "notice", "step": self.step, "text": text})


def contest(
    generator: nn.Module,
    discriminator: nn.Module,
    batches: Batches,
    settings: Adversarial,
    run_dir: Path,
    device: torch.device | str = "cpu",
    listener: Listener | None = None,
    stop: Stop | None = None,
    spent: float = 0.0,
    reserve: float = 0.0,
    now: Callable[[], float] | None = None,
) -> Contested:
    """Train ``generator`` in ``run_dir`` (log.jsonl, events.jsonl, state/), or go on from its newest whole checkpoint.

    The continuation is bit-identical (same machine, threads, versions). ``spent``: seconds of ``settings.minutes`` used
    before this call; ``reserve``: seconds to leave for after it.
    """
    place = torch.device(device)
    folder = Path(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with machine(place, True):
        for net in (generator, discriminator):
            net.to(place).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        rivals = Rivals.of(settings, generator, discriminator)
        live = _Live(rivals, batches, folder, place, listener or Listener(), stop or Stop())
        live.clock, live.reserve = Clock(spent, now or CLOCKS[settings.clock]), reserve
        saved = disk.load(folder / "state", live.notice)
        if saved is not None:
            _restore(live, saved)
        live.listener.on_start(live.schedule.total, settings.minutes, live.step)
        if saved is None:
            _save(live)
        done = live.finished or _train(live)
        if done and not live.finished:
            live.finished = True
            _save(live, must=True)
        elif not done:
            _save(live, scheduled=False, must=True)
        return Contested(averaged(live), not done, live.diverged, live.step, live.skipped, live.clock.elapsed())


def _train(live: _Live) -> bool:
    """Step until the end (True) or a request to stop (False)."""
    while True:
        _decide(live)
        if live.stop() or not _preview(live):
            return False
        if live.diverged or live.step == live.schedule.total:
            return True
        if live.clock.elapsed() - live.saved_at >= 60 * live.settings.checkpoint_minutes:
            _save(live)
        _step(live)
        if live.step % live.settings.log_every == 0 or live.step == live.schedule.total:
            _record(live)


def _step(live: _Live) -> None:
    batch, rng = live.feed.at(live.step)
    label = batch.inputs["label"]["index"] if "label" in batch.inputs else None
    gone = live.schedule.share(live.step)
    with seeded(mix(live.settings.seed, "network", live.step), live.device):
        values, fine = live.rivals.step(batch.x0, label, rng, live.step, gone)
    place = live.rows[live.step % live.settings.log_every]
    place[:-1] = torch.where(fine, values, torch.zeros_like(values))
    place[-1] = fine
    live.step += 1
    live.ema.update(live.step)


def _record(live: _Live) -> None:
    """Fetch what the device has noted since the last row, and count what was left out."""
    filled = live.step - live.logged_at[0]
    noted = live.rows[:filled].tolist()
    good = [row for row in noted if row[-1]]
    elapsed = live.clock.elapsed()
    pace = (elapsed - live.logged_at[1]) / filled
    row: dict[str, Any] = {"kind": "adversarial", "step": live.step, "seconds": round(elapsed, 3)}
    row["pictures_per_second"] = round(live.feed.batch / pace, 3) if pace > 0 else None
    for i, name in enumerate(COLUMNS):
        used = [r for r in good if name not in ("r1", "r2") or r[i] != 0]  # penalties are not taken at every step
        row[name] = sum(r[i] for r in used) / len(used) if used else None
    live.logged_at = (live.step, elapsed)
    live.log.append(row)
    live.listener.on_row(row)
    bad = [live.step - filled + i for i, r in enumerate(noted) if not r[-1]]
    for r in noted:
        live.streak = 0 if r[-1] else live.streak + 1
    live.skipped += len(bad)
    if bad:
        text = "loss or gradient not finite: left out"
        live.event({"kind": "skipped", "step": live.step, "steps": bad, "text": text})
    if live.streak >= PATIENCE:
        live.diverged = True
        text = f"{live.streak} steps in a row were not finite: the run diverged and ends here"
        live.event({"kind": "diverged", "step": live.step, "text": text})


def _decide(live: _Live) -> None:
    """The clock's decision, when one is due: on disk before it acts, replayed when it was taken before."""
    if live.schedule.next is None or live.step < live.schedule.next:
        if live.step == live.began + 1:
            live.clock.look(live.step)  # the first step pays for caches
        return
    event = live.events.replay("pace", live.step)
    if event is None:
        wait(live.device)
        assert live.settings.minutes is not None
        left = 60 * live.settings.minutes - live.reserve - live.clock.elapsed()
        left -= live.clock.ahead("save", 1 + max(0.0, left) / (60 * live.settings.checkpoint_minutes))
        left -= live.clock.ahead("preview", live.settings.previews - live.previews)
        event = live.schedule.decide(live.step, max(0.0, left), live.clock.look(live.step))
        event["seconds"] = round(live.clock.elapsed(), 3)
        live.events.append(event)
    else:
        live.clock.look(live.step)
    live.schedule.apply(event)
    live.listener.on_event(event)


def _preview(live: _Live) -> bool:
    """Show the averaged generator when it is due; False when asked to stop on the way."""
    asked = live.previews
    while due(live.step, live.schedule.total, live.settings.previews, live.previews, power=2.0):
        live.previews += 1
    if live.previews == asked:
        return True
    with live.clock.aside("preview"), torch.no_grad(), seeded(0, live.device):
        live.listener.on_preview(live.step, averaged(live))
    if live.stop():
        live.previews = asked  # it may have been cut short: shown again on resume
        return False
    return True


@torch.no_grad()
def averaged(live: _Live) -> nn.Module:
    """The generator with its averaged weights; batch statistics, where it has any, taken anew from these."""
    load_weights(live.shadow, live.ema.weights(live.settings.ema))
    settle = getattr(live.shadow, "settle", None)
    if settle is not None:
        latent = int(live.shadow.latent)  # type: ignore[arg-type]
        batches: list[tuple[Tensor, Tensor | None]] = []
        for i in range(SETTLED):
            batch, _ = live.feed.at(i)
            label = batch.inputs["label"]["index"] if "label" in batch.inputs else None
            count = len(batch.x0)
            seeds = [mix("settle", i, row) for row in range(count)]
            batches.append((Rng(seeds, live.device).normal([(latent,)] * count, "latent"), label))
        settle(batches)
    return live.shadow.eval()


def _save(live: _Live, scheduled: bool = True, must: bool = False) -> None:
    """A checkpoint; when the disk is full the run says so and goes on, unless this is the last one (``must``)."""
    with live.clock.aside("save"):
        live.saved_at = live.clock.elapsed()
        rivals = live.rivals
        groups: disk.Groups = {"ema": live.ema.tensors(), "rows": {"rows": live.rows}}
        plain: dict[str, Any] = {}
        for name, net, optim in (
            ("generator", rivals.generator, rivals.g_optim),
            ("discriminator", rivals.discriminator, rivals.d_optim),
        ):
            groups[name] = dict(net.state_dict())
            groups[f"{name}-optim"], plain[name] = disk.flatten_optimiser(optim)
        meta = {
            "schedule": live.schedule.state(),
            "elapsed": live.clock.elapsed(),
            "random": {"seed": live.settings.seed, "next": live.feed.fingerprint(live.step)},
            "ema_last": live.ema.last,
            "optim": plain,
            "logged_at": live.logged_at,
            "log": live.log.flush(),
            "events": live.events.offset,
        } | {name: getattr(live, name) for name in _COUNTERS}
        try:
            disk.save(live.folder / "state", live.step, groups, meta, scheduled)
        except disk.DiskFull as error:
            if must:
                raise
            live.notice(str(error))


@torch.no_grad()
def _restore(live: _Live, saved: disk.Saved) -> None:
    """Everything as it was when ``saved`` was made; raises KakusanError when that was another run."""
    meta, rivals = saved.meta, live.rivals
    live.step = live.began = saved.step
    random = {"seed": live.settings.seed, "next": live.feed.fingerprint(live.step)}
    if meta["random"] != random:
        raise KakusanError(
            f"{saved.path}: its random state is of another seed or other data; "
            "resume needs the same data, batch and seed"
        )
    for name, net, optim in (
        ("generator", rivals.generator, rivals.g_optim),
        ("discriminator", rivals.discriminator, rivals.d_optim),
    ):
        mine, theirs = net.state_dict(), saved.groups[name]
        odd = sorted(mine.keys() ^ theirs.keys()) or sorted(n for n in mine if mine[n].shape != theirs[n].shape)
        if odd:
            raise KakusanError(f"{saved.path} is of another {name}: {odd[0]!r} does not fit; start a new run")
        for key, tensor in mine.items():
            tensor.copy_(theirs[key])
        disk.restore_optimiser(optim, saved.groups[f"{name}-optim"], meta["optim"][name])
    live.ema.restore(saved.groups["ema"], meta["ema_last"])
    live.rows.copy_(saved.groups["rows"]["rows"])
    for name in _COUNTERS:
        setattr(live, name, meta[name])
    live.logged_at = (meta["logged_at"][0], meta["logged_at"][1])
    live.schedule = replace(live.schedule, **meta["schedule"])
    live.clock = live.clock.resumed(meta["elapsed"], live.step)
    live.saved_at = meta["elapsed"]
    live.log.rewind(meta["log"])
    live.events.rewind(meta["events"])
