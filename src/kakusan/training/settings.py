"""Training: the settings of a run, from objective to checkpoints."""

from __future__ import annotations

from kakusan.core.objective import Objective
from kakusan.nets.lora import LoRA
from kakusan.part import KakusanError, Part
from kakusan.training.ema import gamma_of
from kakusan.training.optim import Optim
from kakusan.training.schedule import CLOCKS, SHAPES

__all__ = ["CONVOLUTIONS", "PRECISIONS", "Training"]

PRECISIONS = ("auto", "fp32", "bf16")
CONVOLUTIONS = ("direct", "winograd")


class Training(Part):
    """How a model is trained.

    ``batch`` pictures a step; the run ends after ``steps`` steps, or is planned by the clock to end after ``minutes``
    (exactly one of them is given). The learning rate rises over ``warmup`` steps, stays, and falls to zero over the
    last ``cooldown`` of the run along ``shape`` (warm-up, stable, decay: Hu et al. 2024; "sqrt": Haegele et al. 2024).
    ``ema``: relative widths of the averages, updated every ``ema_every`` steps. ``clip``: largest norm of the
    gradient. ``held_out``: whether pictures kept aside are watched. ``previews``: how often samples are drawn.
    ``reference``: pictures that the stable targets of noisy levels are means of; 0 = plain targets.
    ``weak``: the share of the run after which the average is set aside for autoguidance; 0 = never.
    ``precision``: "auto" is bf16 autocast on a GPU that has it and fp32 on a CPU.
    ``convolution``: how 3x3 convolutions are computed in fp32 on a CPU: "direct", or "winograd" (nets.winograd) where
    a layer is wide enough; the plan measures which is faster.
    ``clock``: what the minutes are: those on the wall, or of processor time (for fair comparisons on a busy machine).
    ``adapters``: what is trained beside the weights of a model to start from, which then stay; None = the weights.
    """

    kind = "training"

    def __init__(
        self,
        objective: Objective,
        optim: Optim,
        batch: int = 64,
        steps: int | None = None,
        minutes: float | None = None,
        warmup: int = 20,
        cooldown: float = 0.4,
        shape: str = "linear",
        ema: list[float] | tuple[float, ...] = (0.02, 0.05, 0.10),
        ema_every: int = 4,
        seed: int = 0,
        clip: float = 1.0,
        held_out: bool = True,
        evaluations: int = 12,
        checkpoint_minutes: float = 5.0,
        previews: int = 12,
        log_every: int = 10,
        reference: int = 0,
        weak: float = 0.25,
        precision: str = "auto",
        flush_denormal: bool = True,
        convolution: str = "direct",
        clock: str = "wall",
        adapters: LoRA | None = None,
    ) -> None:
        if (steps is None) == (minutes is None):
            raise KakusanError(f"steps={steps}, minutes={minutes}: give exactly one of the two")
        _positive(
            batch=batch, clip=clip, ema_every=ema_every, log_every=log_every, checkpoint_minutes=checkpoint_minutes
        )
        _positive(**({"steps": steps} if steps is not None else {"minutes": minutes or 0}))
        _choice("shape", shape, tuple(SHAPES))
        _choice("precision", precision, PRECISIONS)
        _choice("convolution", convolution, CONVOLUTIONS)
        _choice("clock", clock, tuple(CLOCKS))
        if not 0 <= cooldown <= 1:
            raise KakusanError(f"cooldown={cooldown}: it is a share of the run, between 0 and 1 (0.4 is usual)")
        if not 0 <= weak < 1:
            raise KakusanError(f"weak={weak}: it is a share of the run, 0 (never) to below 1 (0.25 is usual)")
        if reference < 0:
            raise KakusanError(f"reference={reference}: give a number of pictures, 0 for none (4096 is usual)")
        if warmup < 0 or evaluations < 0 or previews < 0:
            raise KakusanError(f"warmup={warmup}, evaluations={evaluations}, previews={previews}: none may be negative")
        if not ema:
            raise KakusanError("ema=[]: at least one width is needed, as [0.05]")
        for width in ema:
            gamma_of(width)
        self.objective, self.optim = objective, optim
        self.batch, self.steps, self.minutes = batch, steps, minutes
        self.warmup, self.cooldown, self.shape = warmup, float(cooldown), shape
        self.ema, self.ema_every = sorted(set(ema)), ema_every
        self.seed, self.clip = seed, float(clip)
        self.held_out, self.evaluations = held_out, evaluations
        self.checkpoint_minutes, self.previews, self.log_every = checkpoint_minutes, previews, log_every
        self.reference, self.weak = reference, float(weak)
        self.precision, self.flush_denormal, self.clock = precision, flush_denormal, clock
        self.convolution, self.adapters = convolution, adapters

    @property
    def ship(self) -> float:
        """The width of the average drawn from during the run, and shipped where nothing is held out to choose by."""
        return self.ema[len(self.ema) // 2]


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise KakusanError(f"{name}={value}: need {name} > 0")


def _choice(name: str, value: str, among: tuple[str, ...]) -> None:
    if value not in among:
        raise KakusanError(f"{name}={value!r}: choose one of {', '.join(among)}")
