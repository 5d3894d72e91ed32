"""The verb ``bench``: how fast a model's network runs here, by engine, and which engine ``sample`` will take."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from kakusan.app.command.show import Progress
from kakusan.app.deploy.engines import LASTING, figures_file, figures_key, ledger, network_file, noise
from kakusan.app.draw import sampler
from kakusan.app.draw.loaded import load
from kakusan.app.judge import doctor
from kakusan.core.model import Model
from kakusan.nets.winograd import layers
from kakusan.runtime import choose
from kakusan.runtime.choose import Timing
from kakusan.runtime.nets import ENGINES, engine, half_is_fast

__all__ = ["Bench", "bench", "show"]


@dataclass(frozen=True)
class Bench:
    """Timings by engine and batch, and what they are shares of."""

    timings: list[Timing]
    gflops: float  # 1e9 operations a second of this machine's fp32 matrix product
    operations: int  # of one evaluation of one sample
    evaluations: int  # of a sample at the model's default settings
    threads: int
    chosen: dict[int, str]  # batch -> engine that ``sample`` takes for one batch of that size

    def dict(self) -> dict[str, Any]:
        """Plain data."""
        rows = [asdict(t) | {"correct": t.correct, "share": self.share(t)} for t in self.timings]
        return asdict(self) | {"timings": rows, "chosen": {str(k): v for k, v in self.chosen.items()}}

    def share(self, timing: Timing) -> float:
        """Of the matrix rate."""
        return self.operations * timing.batch / timing.seconds / (self.gflops * 1e9)


def bench(
    model: str | Path,
    *,
    batch: list[int] | None = None,
    size: int | None = None,
    compile: bool = False,
    progress: Progress | None = None,
) -> Bench:
    """Measure every installed engine at each batch size (1 and 64), in turns, and remember the figures."""
    with progress or Progress() as shown:
        loaded = load(model, "cpu")
        shape = loaded.domain.blank(1, size=(size, size) if size else None)[0]
        net, threads = loaded.model.denoiser.net, torch.get_num_threads()
        left = {"compiled"} | (set() if half_is_fast() else {"bf16"}) | (set() if layers(net) else {"winograd"})
        names = [
            n for n, module in ENGINES.items() if n not in left and (not module or importlib.util.find_spec(module))
        ]
        calls = {}
        for name in [*names, *(["compiled"] if compile else [])]:
            shown.note(f"loading {name} ...")
            x, _, cond = noise(loaded.model, shape, 2)
            calls[name] = engine(name, net, x, cond, network_file(loaded, shape, "model"), ledger(), threads)
        timings: list[Timing] = []
        for each in batch or [1, 64]:
            shown.note(f"measuring batch {each} ...")
            timings += choose.measure(calls, lambda n: noise(loaded.model, shape, n), each)
        choose.remember(figures_file(loaded), figures_key(shape, threads), timings)
        steps = sampler.evaluations(sampler.defaults(loaded.model))
        chosen = {n: choose.pick(timings, n, steps, LASTING) for n in batch or [1, 64]}
        return Bench(timings, doctor.gflops(1.0), _operations(loaded.model, shape), steps, threads, chosen)


def show(found: Bench, console: Console) -> None:
    """The figures as a table, and what ``sample`` will take."""
    eager = {t.batch: t.seconds for t in found.timings if t.engine == "eager"}
    table = Table()
    for name in ("engine", "batch", "ms/evaluation", "to eager", "samples/s", "of matrix rate", "load s", "result"):
        table.add_column(name, justify="left" if name in ("engine", "result") else "right", no_wrap=True)
    for t in found.timings:
        table.add_row(
            t.engine,
            str(t.batch),
            f"{1000 * t.seconds:,.2f}",
            f"{eager[t.batch] / t.seconds:.2f}x",
            f"{t.batch / (t.seconds * found.evaluations):,.3g}",
            f"{100 * found.share(t):.0f}%",
            f"{t.load:.2f}",
            "as eager" if t.correct else "differs",
        )
    console.print(table)
    console.print(
        f"{found.operations / 1e6:,.1f} million operations an evaluation; {found.evaluations} evaluations a sample; "
        f"{found.threads} threads, {found.gflops:,.0f} GFLOP/s in matrix products"
    )
    for batch, name in found.chosen.items():
        console.print(f"sample takes {name} for {batch:,} at once")
    if any(t.engine == "bf16" for t in found.timings):
        console.print("bf16 rounds, and is never taken unasked: sample --runtime bf16")


def _operations(model: Model, shape: tuple[int, ...]) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.denoiser.net(*noise(model, shape, 1))
    return int(counter.get_total_flops())
