"""save and restore: a training under way to and from its checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kakusan.part import KakusanError
from kakusan.training import state as disk
from kakusan.training.running import Running

__all__ = ["load", "restore", "restore_weights", "save"]

_COUNTERS = ("previews", "evaluations", "streak", "rollbacks", "rate", "loss", "logged_at")

_LATER = ("best", "weak")  # groups of averages that are empty at first


def load(live: Running, scheduled: bool = False) -> disk.Saved | None:
    """The newest whole checkpoint; only the first process reads it, the others get everything but its tensors.

    ``scheduled``: only one that a roll-back may return to.
    """
    read: list[disk.Saved] = []

    def facts() -> dict[str, Any] | None:
        found = disk.load(live.folder / "state", live.notice, scheduled)
        if found is None:
            return None
        read.append(found)
        names = {group: sorted(found.groups.get(group, {})) for group in _LATER}
        return {"path": str(found.path), "step": found.step, "meta": found.meta, "names": names}

    told = live.ranks.lead(facts)
    if told is None or read:
        return read[0] if read else None
    weights = live.ema.weights(live.settings.ship)
    later = {group: {n: torch.empty_like(weights[n]) for n in names} for group, names in told["names"].items()}
    return disk.Saved(Path(told["path"]), told["step"], told["meta"], later)


def save(live: Running, scheduled: bool, must: bool = False) -> None:
    """A checkpoint; when the disk is full the run says so and goes on, unless this is the last one (``must``)."""
    with live.clock.aside("save"):
        live.saved_at = live.clock.elapsed()
        tables = live.ranks.gather(live.meter.table.tolist())
        next_draws = live.feed.fingerprint(live.step)
        path = live.ranks.lead(lambda: _write(live, tables, next_draws, scheduled, must))
    if path is not None:
        live.checkpoint = Path(path)
        live.hooks.on_checkpoint(live.checkpoint, live.step)


def _write(live: Running, tables: list[Any], next_draws: int, scheduled: bool, must: bool) -> str | None:
    """The checkpoint's path, None where the disk was full and it may be left out."""
    tensors, plain = disk.flatten_optimiser(live.optimiser)
    groups = {"weights": _weights(live.model), "ema": live.ema.tensors(), "optim": tensors}
    groups |= {"best": live.best, "weak": live.weak}
    groups["meter"] = {"table": live.meter.table, "norms": live.norms}
    groups["meter"] |= {f"table/{rank}": torch.tensor(t) for rank, t in enumerate(tables) if rank}
    try:
        meta = _meta(live, next_draws) | {"optim": plain, "log": live.log.flush(), "events": live.events.offset}
        return str(disk.save(live.folder / "state", live.step, groups, meta, scheduled))
    except disk.DiskFull as error:
        if must:
            raise
        live.notice(str(error))
        return None


def restore(live: Running, saved: disk.Saved) -> None:
    """Everything as it was when ``saved`` was made; raises KakusanError when that was another run."""
    meta = saved.meta
    live.step = saved.step
    random = meta.get("random") or {}
    next_draws = live.feed.fingerprint(live.step)
    if random.get("seed") != live.settings.seed or random.get("next") != next_draws:
        raise live.ranks.error(
            f"{saved.path}: its random state is {'of another seed or other data' if random else 'missing'}; "
            f"resume needs the same data, batch and seed (seed {random.get('seed')})"
        )
    if meta["flushed"] != live.flushed:
        live.notice("denormal numbers are treated otherwise than before the interruption: last digits may differ")
    if meta.get("world", 1) != live.ranks.world:
        then, now = meta.get("world", 1), live.ranks.world
        live.notice(f"begun with {then} process(es), resumed with {now}: last digits may differ")
    restore_weights(live, saved)
    for name in _COUNTERS:
        setattr(live, name, meta[name])
    live.logged_at = (meta["logged_at"][0], meta["logged_at"][1])
    live.schedule = replace(live.schedule, **meta["schedule"])
    live.finished = meta["finished"]
    live.best, live.weak = ({n: t.to(live.device) for n, t in saved.groups.get(g, {}).items()} for g in _LATER)
    live.weak_at = meta.get("weak_at")
    live.ranks.share([*live.best.values(), *live.weak.values()])
    _restore_meter(live, saved)
    if live.watch and meta["watch"]:
        live.watch.restore(meta["watch"])
    live.clock = live.clock.resumed(meta["elapsed"], live.step)
    live.began = live.step
    live.saved_at = meta["elapsed"]
    live.checkpoint = saved.path
    if live.ranks.first:
        live.log.rewind(meta["log"])
        live.events.rewind(meta["events"])


@torch.no_grad()
def restore_weights(live: Running, saved: disk.Saved) -> None:
    """Weights, averages and optimiser, each into its own place; nothing of the bookkeeping."""
    live.ranks.lead(lambda: _copy_weights(live, saved))
    averages, (tensors, _) = live.ema.tensors(), disk.flatten_optimiser(live.optimiser)
    live.ranks.share([*_weights(live.model).values(), *averages.values(), *tensors.values()])
    for mine, shown in zip(live.model.buffers(), live.shadow.buffers(), strict=True):
        shown.copy_(mine)  # averages are of parameters: what else a model holds, as word vectors, comes with it
    if not live.ranks.first:  # what is no tensor
        live.ema.restore(averages, saved.meta["ema_last"])
        disk.restore_optimiser(live.optimiser, tensors, saved.meta["optim"])


def _copy_weights(live: Running, saved: disk.Saved) -> None:
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


@torch.no_grad()
def _restore_meter(live: Running, saved: disk.Saved) -> None:
    """Each process's own sums, so that they add up in the same order; the first has them all if the number changed."""
    world = live.ranks.world
    tables = torch.zeros(world, *live.meter.table.shape)
    if live.ranks.first:
        meter = saved.groups["meter"]
        theirs = [meter["table"], *(meter[f"table/{rank}"] for rank in range(1, saved.meta.get("world", 1)))]
        if len(theirs) == world:
            tables = torch.stack(theirs)
        else:
            tables[0] = torch.stack(theirs).sum(0)
        live.norms.copy_(meter["norms"])
    live.ranks.share([tables, live.norms])
    live.meter.table.copy_(tables[live.ranks.rank])


def _meta(live: Running, next_draws: int) -> dict[str, Any]:
    return {
        "schedule": live.schedule.state(),
        "elapsed": live.clock.elapsed(),
        "random": {"seed": live.settings.seed, "next": next_draws},
        "flushed": live.flushed,
        "world": live.ranks.world,
        "ema_last": live.ema.last,
        "watch": live.watch.state() if live.watch else None,
        "finished": live.finished,
        "weak_at": live.weak_at,
    } | {name: getattr(live, name) for name in _COUNTERS}


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name, each tensor once."""
    saved = model.state_dict(keep_vars=True)
    named = dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if n in saved}
    return {n: t.detach() for n, t in named.items()}
