"""run: the training loop, from a fresh or an interrupted run to finished weights.

One step: batch, loss, backward, clip, optimiser, average. The rest is bookkeeping at the top of each step, in an order
that a resumed run repeats exactly: decide, watch, preview, stop or save. What is random is a function of (seed, step).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

from kakusan.core.model import Model
from kakusan.core.rng import mix
from kakusan.training import moments
from kakusan.training.ema import load_weights
from kakusan.training.hooks import Hooks, Result
from kakusan.training.machine import machine, seeded
from kakusan.training.ranks import ALONE, Ranks
from kakusan.training.running import Running
from kakusan.training.saving import load, restore, restore_weights, save
from kakusan.training.schedule import CLOCKS, Clock
from kakusan.training.settings import Training
from kakusan.training.stop import Stop
from kakusan.training.watch import EDGES, Batches, HeldOut

__all__ = ["Hooks", "Result", "run"]

PATIENCE = 5  # steps in a row that are not finite before the weights are rolled back
ROLLBACKS = 5  # roll-backs before the run gives up


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
    now: Callable[[], float] | None = None,
    ranks: Ranks = ALONE,
    teacher: Model | None = None,
) -> Result:
    """Train ``model`` in ``run_dir`` (log.jsonl, events.jsonl, state/) until done or asked to stop.

    ``spent``: seconds of ``settings.minutes`` used before this call; ``reserve``: seconds to leave for after it.
    ``resume``: go on from the newest whole checkpoint, bit-identically (same machine, threads, versions).
    ``ranks``: the processes that share the run; each is given its own block of ``batches`` and of ``held_out``, and
    only the first one's hooks, clock and ``run_dir`` are used.
    ``teacher``: the model that the objective follows, in distillation.
    ``stop``: an entered Stop; by default the run installs its own. The model is trained in place and ends with the last
    raw weights; the ones to ship are in the result. Raises KakusanError when the run can not go on, DiskFull when its
    last save fails.
    """
    with (
        nullcontext(stop) if stop else Stop() as flag,
        machine(torch.device(device), settings.flush_denormal) as flushed,
    ):
        folder = Path(run_dir)
        if ranks.first:
            folder.mkdir(parents=True, exist_ok=True)
        heard = (hooks if ranks.first else None) or Hooks()
        live = Running(model, batches, settings, folder, torch.device(device), heard, flag, held_out, ranks, teacher)
        live.clock, live.reserve, live.flushed = Clock(spent, now or CLOCKS[settings.clock]), reserve, flushed
        return _go(live, resume)


def _go(live: Running, resume: bool) -> Result:
    saved = load(live)
    if saved and not resume:
        raise live.ranks.error(
            f"{live.folder} holds a training already: kakusan resume {live.folder}, or choose another folder"
        )
    if saved:
        restore(live, saved)
    _start(live)
    if not saved:
        save(live, scheduled=True)
    done = live.finished is not None or (_train(live) and _finish(live))
    if not done:
        save(live, scheduled=False, must=True)
    live.ranks.wait()  # none leaves while another still needs it
    return _result(live, interrupted=not done)


def _train(live: Running) -> bool:
    """Step until the end (True) or a request to stop (False)."""
    while True:
        moments.decide(live)
        moments.set_aside(live)
        stop, late = live.ranks.agree(live.stop(), live.ranks.first and _unsaved(live))
        if stop or not moments.evaluate(live) or not moments.preview(live):
            return False
        if live.step == live.schedule.total:
            return True
        if late:
            save(live, scheduled=True)
        _step(live)
        if live.step % live.settings.log_every == 0 or live.step == live.schedule.total:
            _record(live)


def _unsaved(live: Running) -> bool:
    return live.clock.elapsed() - live.saved_at >= 60 * live.settings.checkpoint_minutes


def _step(live: Running) -> None:
    factor = live.rate * live.schedule.factor(live.step)
    for group in live.optimiser.param_groups:
        group["lr"] = group["initial_lr"] * factor
    batch, rng = live.feed.at(live.step)
    other = [live.ranks.rank] if live.ranks.rank else []  # dropout differs from process to process
    with (
        seeded(mix(live.settings.seed, "network", live.step, *other), live.device),
        live.ranks.together(f"at step {live.step}"),
    ):
        loss, lam = live.terms(live.model, batch, rng, live.step)
        mean = loss.mean()  # blocks are of equal size: the mean of their means is the mean of the batch
        # a loss that is not finite makes no finite gradient, here or, once averaged, in any process
        mean.backward(torch.where(torch.isfinite(mean.detach()), 1.0, torch.nan).to(mean.dtype))
        live.gradients.finish()
        live.ranks.level(live.followed)
    norm = nn.utils.clip_grad_norm_(live.params, live.settings.clip)
    finite = torch.isfinite(mean.detach()) & torch.isfinite(norm)
    with live.autocast():
        live.optimiser.step(finite=finite)
    live.optimiser.zero_grad(set_to_none=True)
    live.meter.add(loss, lam, finite)
    live.norms[live.step % live.settings.log_every] = torch.where(finite, norm, torch.inf)
    live.step += 1
    live.ema.update(live.step, now=live.step == live.schedule.total)


def _record(live: Running) -> None:
    """Fetch what the device has added up since the last row: the one wait of the loop."""
    filled = live.step - live.logged_at[0]
    first = live.step - filled
    at = first % live.settings.log_every  # not 0 where a run that goes on for longer had ended between two rows
    norms = live.norms[at : at + filled].tolist()
    means, counts = live.meter.read()
    good = [n for n in norms if n != float("inf")]
    seen = sum(counts)
    live.loss = sum(m * n for m, n in zip(means, counts) if m is not None) / seen if seen else None
    elapsed = live.clock.elapsed()
    pace = (elapsed - live.logged_at[1]) / filled
    row = {
        "kind": "train",
        "step": live.step,
        "loss": live.loss,
        "grad_norm": sum(good) / len(good) if good else None,
        "rate": live.rate * live.schedule.factor(live.step - 1),
        "levels": means,
        "counts": counts,
        "seconds": round(elapsed, 3),
        "pictures_per_second": round(live.feed.batch / pace, 3) if pace > 0 else None,
    }
    live.meter.table.zero_()
    live.logged_at = (live.step, elapsed)
    live.row(row)
    bad = [first + i for i, norm in enumerate(norms) if norm == float("inf")]
    if bad:
        live.event(
            {"kind": "skipped", "step": live.step, "steps": bad, "text": "loss or gradient not finite: left out"}
        )
        _lose_patience(live, norms)


def _lose_patience(live: Running, norms: list[float]) -> None:
    """After several bad steps in a row: back to the last scheduled checkpoint's weights, at half the rate."""
    worst = 0
    for norm in norms:
        live.streak = live.streak + 1 if norm == float("inf") else 0
        worst = max(worst, live.streak)
    if worst < PATIENCE:
        return
    if live.rollbacks >= ROLLBACKS:
        raise live.ranks.error(
            f"the loss was not finite again after {ROLLBACKS} roll-backs (step {live.step}): check the data "
            "(kakusan data check), or train with a lower optim.lr"
        )
    saved = load(live, scheduled=True)
    if saved is None:
        raise live.ranks.error(
            f"no checkpoint to roll back to in {live.folder / 'state'}: start a new run with a lower optim.lr"
        )
    restore_weights(live, saved)
    live.rate, live.streak, live.rollbacks = live.rate / 2, 0, live.rollbacks + 1
    text = f"weights of step {saved.step} restored, learning rate halved"
    live.event({"kind": "rollback", "step": live.step, "to": saved.step, "rate": live.rate, "text": text})


def _finish(live: Running) -> bool:
    """Choose the weights to ship and save; False when asked to stop on the way."""
    if not moments.choose(live):
        return False
    save(live, scheduled=True, must=True)
    return True


def _result(live: Running, interrupted: bool) -> Result:
    chosen = live.finished or {"width": live.settings.ship, "best_step": None}
    shipped = live.best if chosen["best_step"] is not None else live.ema.weights(chosen["width"])
    load_weights(live.shadow, shipped)
    return Result(
        model=_with_weak(live, chosen["best_step"]),
        interrupted=interrupted,
        step=live.step,
        total=live.schedule.total,
        seconds=live.clock.elapsed(),
        loss=live.loss,
        width=chosen["width"],
        best_step=chosen["best_step"],
        overfit=bool(live.watch and live.watch.overfit),
        ema=live.ema,
        checkpoint=live.checkpoint,
    )


def _with_weak(live: Running, best_step: int | None) -> Model:
    """The model to ship beside its weak state; alone where there is none, or none that is earlier."""
    if live.weak_at is None or live.weak_at >= (live.step if best_step is None else best_step):
        return live.shadow
    weak = copy.deepcopy(live.shadow)
    load_weights(weak, live.weak)
    return live.shadow.beside(weak).requires_grad_(False)


def _start(live: Running) -> None:
    live.hooks.on_start(
        {
            "step": live.step,
            "total": live.schedule.total,
            "minutes": live.settings.minutes,
            "parameters": sum(p.numel() for p in live.model.parameters()),
            "batch": live.feed.batch,
            "device": str(live.device),
            "edges": EDGES,
        }
    )
