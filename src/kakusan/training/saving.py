"""save and restore: a training under way to and from its checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kakusan.part import KakusanError
from kakusan.training import state as disk
from kakusan.training.running import Running

__all__ = ["restore", "restore_weights", "save"]

_COUNTERS = ("previews", "evaluations", "streak", "rollbacks", "rate", "loss", "logged_at")


def save(live: Running, scheduled: bool, must: bool = False) -> None:
    """A checkpoint; when the disk is full the run says so and goes on, unless this is the last one (``must``)."""
    with live.clock.aside("save"):
        live.saved_at = live.clock.elapsed()
        tensors, plain = disk.flatten_optimiser(live.optimiser)
        groups = {"weights": _weights(live.model), "ema": live.ema.tensors(), "optim": tensors, "best": live.best}
        groups["meter"] = {"table": live.meter.table, "norms": live.norms}
        try:
            log = _or_disk_full(live.log.flush)
            meta = _meta(live) | {"optim": plain, "log": log, "events": live.events.offset}
            path = disk.save(live.folder / "state", live.step, groups, meta, scheduled)
        except disk.DiskFull as error:
            if must:
                raise
            live.notice(str(error))
            return
    live.checkpoint = path
    live.hooks.on_checkpoint(path, live.step)


def restore(live: Running, saved: disk.Saved) -> None:
    """Everything as it was when ``saved`` was made; raises KakusanError when that was another run."""
    meta = saved.meta
    live.step = saved.step
    random = meta.get("random") or {}
    if random.get("seed") != live.settings.seed or random.get("next") != live.feed.fingerprint(live.step):
        raise KakusanError(
            f"{saved.path}: its random state is {'of another seed or other data' if random else 'missing'}; "
            f"resume needs the same data, batch and seed (seed {random.get('seed')})"
        )
    if meta["flushed"] != live.flushed:
        live.notice("denormal numbers are treated otherwise than before the interruption: last digits may differ")
    restore_weights(live, saved)
    for name in _COUNTERS:
        setattr(live, name, meta[name])
    live.logged_at = (meta["logged_at"][0], meta["logged_at"][1])
    live.schedule = replace(live.schedule, **meta["schedule"])
    live.finished = meta["finished"]
    live.best = {n: t.to(live.device) for n, t in saved.groups["best"].items()}
    live.meter.table.copy_(saved.groups["meter"]["table"])
    live.norms.copy_(saved.groups["meter"]["norms"])
    if live.watch and meta["watch"]:
        live.watch.restore(meta["watch"])
    live.clock = live.clock.resumed(meta["elapsed"], live.step)
    live.began = live.step
    live.saved_at = meta["elapsed"]
    live.checkpoint = saved.path
    live.log.rewind(meta["log"])
    live.events.rewind(meta["events"])


@torch.no_grad()
def restore_weights(live: Running, saved: disk.Saved) -> None:
    """Weights, averages and optimiser, each into its own place; nothing of the bookkeeping."""
    mine, theirs = _weights(live.model), saved.groups["weights"]
    odd = sorted(mine.keys() ^ theirs.keys()) or sorted(n for n in mine if mine[n].shape != theirs[n].shape)
    if odd:
        raise KakusanError(
            f"{saved.path} is of another model: {odd[0]!r} does not fit; resume needs the run's own recipe"
        )
    for name, tensor in mine.items():
        tensor.copy_(theirs[name])
    live.ema.restore(saved.groups["ema"], saved.meta["ema_last"])
    disk.restore_optimiser(live.optimiser, saved.groups["optim"], saved.meta["optim"])


def _meta(live: Running) -> dict[str, Any]:
    return {
        "schedule": live.schedule.state(),
        "elapsed": live.clock.elapsed(),
        "random": {"seed": live.settings.seed, "next": live.feed.fingerprint(live.step)},
        "flushed": live.flushed,
        "ema_last": live.ema.last,
        "watch": live.watch.state() if live.watch else None,
        "finished": live.finished,
    } | {name: getattr(live, name) for name in _COUNTERS}


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name, each tensor once."""
    saved = model.state_dict(keep_vars=True)
    named = dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if n in saved}
    return {n: t.detach() for n, t in named.items()}


def _or_disk_full(write: Callable[[], int]) -> int:
    try:
        return write()
    except OSError as error:
        if disk.is_full(error):
            raise disk.DiskFull(f"the disk is full: {error}; earlier checkpoints are intact; free some space") from None
        raise
