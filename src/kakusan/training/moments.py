"""What happens between steps, at moments that a resumed run repeats exactly: decide, evaluate, preview, choose."""

from __future__ import annotations

from typing import Any

import torch

from kakusan.training.machine import seeded, wait
from kakusan.training.running import Running
from kakusan.training.schedule import due
from kakusan.training.settings import Training

__all__ = ["choose", "decide", "evaluate", "evaluation_points", "preview", "set_aside"]

EVALUATION_SHARE = 0.03  # of the run's time
PREVIEW_POWER = 2.0  # previews are closer together early, when more changes
BEST_MARGIN = 0.01  # the best point is shipped only when it is this much better than the end


def decide(live: Running) -> None:
    """The clock's decision, when one is due: on disk before it acts, replayed when it was taken before."""
    if live.schedule.next is None or live.step < live.schedule.next:
        if live.step == live.began + 1:
            live.clock.look(live.step)  # the first step pays for compilation and caches
        return
    event = live.ranks.lead(lambda: _pace(live))
    live.schedule.apply(event)
    live.hooks.on_event(event)


def set_aside(live: Running) -> None:
    """Keep the average of this moment as the weak model, once its share of the run has gone."""
    total, share = live.schedule.total, live.settings.weak
    if live.weak or not share or total is None or not live.ema.last or live.step < share * total:
        return
    live.weak = {n: t.clone() for n, t in live.ema.weights(live.ema.widths[-1]).items()}
    live.weak_at = live.step


def evaluate(live: Running) -> bool:
    """The held-out evaluation, when due; False when asked to stop on the way (it is done again on resume)."""
    total, points = live.schedule.total, evaluation_points(live.settings, live.schedule.total)
    if live.watch is None or not due(live.step, total, points, live.evaluations):
        return True
    if not live.watch.count:
        live.watch.count = max(1, min(live.watch.data.count, int(EVALUATION_SHARE * (total or 1) * 1.5 / points)))
    with live.clock.aside("evaluate"):
        row = live.measure(live.settings.ship)
    if row is None:
        return False
    while due(live.step, total, points, live.evaluations):
        live.evaluations += 1
    known = live.watch.overfit
    if live.watch.judge(live.step, row):
        live.best = {n: t.clone() for n, t in live.ema.weights(live.settings.ship).items()}
    live.row({"kind": "held_out", "step": live.step, **row, "seconds": round(live.clock.elapsed(), 3)})
    if live.watch.overfit and not known:
        best = live.watch.best or {}
        text = "the loss on pictures kept aside is rising while the training loss falls: the model begins to copy"
        live.event({"kind": "overfit", "step": live.step, "best_step": best.get("step"), "text": text})
    return True


def preview(live: Running) -> bool:
    """Samples of the averaged weights, when they are due; False when asked to stop on the way."""
    points, asked = live.settings.previews, live.previews
    while due(live.step, live.schedule.total, points, live.previews, PREVIEW_POWER):
        live.previews += 1
    if live.previews == asked:
        return True
    live.ema.write(live.settings.ship, live.shadow)
    with live.clock.aside("preview"), torch.no_grad(), seeded(0, live.device):
        live.hooks.on_preview(live.step, live.shadow)
        live.ranks.wait()  # the first draws, the others do not
    if live.stopping():
        live.previews = asked  # it may have been cut short: drawn again on resume
        return False
    return True


def choose(live: Running) -> bool:
    """Choose the weights to ship; False when asked to stop on the way."""
    chosen: dict[str, Any] = {"width": live.settings.ship, "best_step": None}
    if live.watch is not None and live.watch.count and len(live.ema.widths) > 1:
        scores: dict[str, float] = {}
        for width in live.ema.widths:
            with live.clock.aside("evaluate"):
                row = live.measure(width)
            if row is None:
                return False
            scores[f"{width:g}"] = live.watch.scores(row)[0]
        chosen["width"] = min(live.ema.widths, key=lambda w: scores[f"{w:g}"])
        chosen["scores"] = scores
    if live.watch is not None and live.watch.best is not None:
        end = min(chosen.get("scores", {}).values(), default=float("inf"))
        best = live.watch.best
        if live.watch.worse and best["score"] * (1 + BEST_MARGIN) < end:
            chosen.update(width=live.settings.ship, best_step=best["step"])
    live.event({"kind": "chosen", "step": live.step, **chosen})
    live.finished = chosen
    return True


def _pace(live: Running) -> dict[str, Any]:
    event = live.events.replay("pace", live.step)
    if event is None:
        wait(live.device)
        event = live.schedule.decide(live.step, *_seconds(live))
        event["seconds"] = round(live.clock.elapsed(), 3)
        live.events.append(event)
    else:
        live.clock.look(live.step)
    return event


def _seconds(live: Running) -> tuple[float, float]:
    """Seconds left for training steps, and seconds a step."""
    assert live.settings.minutes is not None
    left = max(0.0, 60 * live.settings.minutes - live.reserve - live.clock.elapsed())
    saves = 1 + left / (60 * live.settings.checkpoint_minutes)
    aside = live.clock.ahead("save", saves) + live.clock.ahead("preview", live.settings.previews - live.previews)
    if live.watch:
        aside += live.clock.ahead(
            "evaluate", evaluation_points(live.settings, live.schedule.total) - live.evaluations + len(live.ema.widths)
        )
    return max(0.0, left - aside), live.clock.look(live.step)


def evaluation_points(settings: Training, total: int | None) -> int:
    """At most the settings' number, and so few that two batches of a third of a step each stay within the share."""
    return min(settings.evaluations, max(1, int(EVALUATION_SHARE * (total or 1) * 1.5)))
