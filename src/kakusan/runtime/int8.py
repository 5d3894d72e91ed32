"""Int8: the convolutions of an exported network in 8 bits, its first and last layers and its attention in float32.

Ranges of the activations are those met on the sampler's own trajectories, at every noise level it visits.
"""

from __future__ import annotations

import contextlib
import io
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kakusan.core.denoiser import Net
from kakusan.part import KakusanError
from kakusan.runtime import engines, host
from kakusan.runtime.engines import Feed, Run
from kakusan.runtime.verify import anything

__all__ = ["Judge", "quantise", "recorded", "replace", "words"]

Tree = dict[str, Any]
Judge = Callable[[Mapping[str, Any], Mapping[str, Run], Mapping[str, Run]], Tree]  # (table, float32's, int8's)

_CALIBRATION = 8  # samples whose every evaluation is seen
_OUTER = (0.0, 0.25)  # shares of the layers at each end in float32, tried in turn
_BATCHES = (1, 64)  # at which both are timed


def replace(
    folder: Path,
    table: Mapping[str, Any],
    nets: Mapping[str, Net],
    runs: Mapping[str, Run],
    judge: Judge,
    say: Callable[[str], None],
    threads: int = 0,
) -> Tree:
    """Put int8 in the place of each network's ONNX file; returns the judge's figures with what was done and its speed.

    ``judge`` raises KakusanError where int8 is worse; then the outer layers stay in float32 too, where a U-Net's
    highest resolution lies and most of the error arises, and it has the last word on that.
    """
    say("recording what the layers see on the way from noise to pictures ...")
    feeds = recorded(table, runs)
    files = {name: folder / table["networks"][name] for name in nets}
    for outer in _OUTER:
        rounded, counts = dict(runs), {}
        for name, file in files.items():
            say(f"rounding {name} to int8 ...")
            made = file.with_name(f"{file.stem}.int8.onnx")
            counts[name] = quantise(file, made, feeds[name], nets[name], outer)
            rounded[name] = engines.onnxruntime(made, threads)
        try:
            found = judge(table, runs, rounded)
        except KakusanError as error:
            if outer == _OUTER[-1]:
                raise
            say(f"{error}; once more with a quarter of the layers at each end in float32 ...")
        else:
            break
    first = next(iter(nets))
    count, most = counts[first]
    found |= {"layers": count, "of": most, "speed": _speed(runs[first], rounded[first], feeds[first][0])}
    for file in files.values():
        file.with_name(f"{file.stem}.int8.onnx").replace(file)
    return found


def words(found: Mapping[str, Any]) -> str:
    """One line on the figures of ``replace``."""
    speed = ", ".join(f"{ratio:.2f} times at batch {batch}" for batch, ratio in found["speed"].items())
    return (
        f"int8: {found['layers']} of {found['of']} convolutions; Fréchet distance {found['int8']:.4g}, in float32 "
        f"{found['float32']:.4g} ({found['low']:.4g} to {found['high']:.4g}); speed of float32's: {speed}"
    )


def recorded(table: Mapping[str, Any], runs: Mapping[str, Run], count: int = _CALIBRATION) -> dict[str, list[Feed]]:
    """Every feed of each network while ``count`` samples are drawn, conditions in turn."""
    feeds: dict[str, list[Feed]] = {name: [] for name in runs}

    def watched(name: str, run: Run) -> Run:
        def call(feed: Feed) -> np.ndarray:
            feeds[name].append({key: value.copy() for key, value in feed.items()})
            return run(feed)

        return call

    draw = np.random.default_rng(0)
    eps = draw.standard_normal((count, *table["shape"]), np.float32)
    host.sample(table, {name: watched(name, run) for name, run in runs.items()}, eps, anything(table, count), draw)
    return feeds


def quantise(source: Path, target: Path, feeds: list[Feed], net: Net, outer: float = 0.0) -> tuple[int, int]:
    """Write ``target``: the hidden convolutions with 8-bit weights and activations; returns (how many, of how many).

    ``outer``: the share of them at each end, in the order of evaluation, that stays as it is.
    Weights have a scale for each output channel and 7 bits of range, so that processors without VNNI do not overflow.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    graph = onnx.load(source).graph
    hidden = {f"model.denoiser.net.{name}" for name in getattr(net, "hidden", set)()}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    chosen = [node.name for node in convolutions if node.input[1] in hidden]
    ends = int(outer * len(chosen))
    chosen = chosen[ends : len(chosen) - ends]
    if not chosen:
        raise KakusanError(f"--int8: {net.kind} has no convolutions between its first and last layer; leave it out")
    wanted = {value.name for value in graph.input}

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> Feed | None:
            feed = next(self.left, None)
            return None if feed is None else {name: value for name, value in feed.items() if name in wanted}

    with _quietly():
        quantize_static(
            str(source), str(target), Reader(), quant_format=QuantFormat.QDQ, op_types_to_quantize=["Conv"],
            per_channel=True, reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            nodes_to_quantize=chosen,
        )  # fmt: skip
    return len(chosen), len(convolutions)


def _speed(exact: Run, rounded: Run, feed: Feed) -> dict[str, float]:
    """Seconds of float32 over those of int8, the best of turns, by batch."""
    found = {}
    for batch in _BATCHES:
        many = {name: np.repeat(value[:1], batch, 0) for name, value in feed.items()}
        best = [float("inf"), float("inf")]
        for turn in range(6):
            for i, run in enumerate((exact, rounded)):
                begun = time.perf_counter()
                run(many)
                if turn:  # the first is for warming up
                    best[i] = min(best[i], time.perf_counter() - begun)
        found[str(batch)] = best[0] / best[1]
    return found


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The quantiser recommends things that were decided above."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
