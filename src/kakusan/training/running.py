"""Running: everything that a training under way consists of, and what it tells."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kakusan.core.batch import Batch
from kakusan.core.model import Encoder, Model
from kakusan.core.rng import Rng
from kakusan.nets import winograd
from kakusan.training.ema import PowerEma
from kakusan.training.events import Events, Log
from kakusan.training.feed import Feed, on_device
from kakusan.training.gradients import Gradients
from kakusan.training.hooks import Hooks
from kakusan.training.machine import autocast, compiled, seeded
from kakusan.training.ranks import ALONE, Ranks
from kakusan.training.schedule import Clock, Schedule
from kakusan.training.settings import Training
from kakusan.training.stop import Stop
from kakusan.training.watch import Batches, HeldOut, Meter, Watch

__all__ = ["Running"]


class Running:
    """The state of a training under way; the loop moves it, ``moments`` and ``saving`` look after it."""

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
        held_out: HeldOut | None = None,
        ranks: Ranks = ALONE,
        teacher: Model | None = None,
    ) -> None:
        self.teacher = None if teacher is None else teacher.to(device).eval().requires_grad_(False)
        self.settings, self.folder, self.device, self.hooks, self.stop = settings, folder, device, hooks, stop
        self.ranks = ranks
        self.model = model.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        ranks.share(self.model.state_dict().values())
        self.shadow = copy.deepcopy(self.model).eval().requires_grad_(False)
        net = self.model.denoiser.net if isinstance(self.model, Model) else self.model
        compiled(net, device)
        if settings.convolution == "winograd":
            winograd.install(net)
            if self.teacher is not None:  # a copy: whoever lent it draws with it as it was
                self.teacher = winograd.install(copy.deepcopy(self.teacher))
        self.feed = Feed(batches, device, ranks)
        self.optimiser = settings.optim.build(self.model)
        self.params = [p for g in self.optimiser.param_groups for p in g["params"]]
        self.gradients = Gradients(list(self.model.parameters()), ranks)
        self.followed = [t for m in self.model.modules() if isinstance(m, Encoder) for t in m.followed()]
        self.ema = PowerEma(self.model, settings.ema, settings.ema_every)
        self.best: dict[str, Tensor] = {}
        self.weak: dict[str, Tensor] = {}  # the early average that autoguidance leads away from
        self.meter = Meter(device, ranks.total)
        self.norms = torch.zeros(settings.log_every, device=device)
        self.autocast = autocast(device, settings.precision)
        shape = (settings.warmup, settings.cooldown, settings.shape)
        self.schedule = Schedule.fixed(settings.steps, *shape) if settings.steps else Schedule.timed(*shape)
        self.weak_at: int | None = None  # its step
        self.step = self.began = self.previews = self.evaluations = self.streak = self.rollbacks = 0
        self.rate = 1.0  # halved by each roll-back
        self.loss: float | None = None
        self.finished: dict[str, Any] | None = None
        self.saved_at, self.logged_at = 0.0, (0, 0.0)
        self.checkpoint = folder / "state"
        self.events, self.log = Events(folder / "events.jsonl"), Log(folder / "log.jsonl")
        self.watch = self._watch(held_out) if settings.held_out else None

    def terms(self, model: Model, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, Tensor]:
        """Each sample's loss and the log-SNR it was drawn at, in the run's precision."""
        with self.autocast():
            return self.settings.objective.terms(model, batch, rng, step, self.teacher)

    def stopping(self) -> bool:
        """Whether any process was asked to stop."""
        return self.ranks.agree(self.stop())[0]

    def measure(self, width: float) -> dict[str, Any] | None:
        """One average on the pictures kept aside and on as many trained ones; None when asked to stop on the way."""
        assert self.watch is not None
        self.ema.write(width, self.shadow)
        with seeded(0, self.device):
            return self.watch.measure(self.stopping)

    def row(self, row: dict[str, Any]) -> None:
        """One measurement, logged and told."""
        if self.ranks.first:
            self.log.append(row)
            self.hooks.on_log(row)

    def event(self, event: dict[str, Any]) -> None:
        """One decision or notice of the run's history, on disk and told."""
        if self.ranks.first:
            self.events.append(event)
            self.hooks.on_event(event)

    def notice(self, text: str) -> None:
        """Something the user should read that is no part of the run's history."""
        if self.ranks.first:
            self.hooks.on_event({"kind": "notice", "step": self.step, "text": text})

    def _watch(self, data: HeldOut | None) -> Watch | None:
        if data is None or not self.settings.evaluations:
            return None

        def terms(batch: Batch, rng: Rng, step: int) -> tuple[Tensor, Tensor]:
            return self.terms(self.shadow, on_device(batch, self.device), Rng(rng.seeds, self.device), step)

        return Watch(terms, data, self.device, self.ranks.total)
