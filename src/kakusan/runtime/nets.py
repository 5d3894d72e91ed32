"""Nets: one network F(x, lam, cond) run by another engine in its place, with whatever conditions it has."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kakusan.core.batch import Cond
from kakusan.core.denoiser import Net
from kakusan.files import replacing
from kakusan.nets import winograd
from kakusan.part import KakusanError
from kakusan.runtime import engines
from kakusan.runtime.bundle import enter, ours
from kakusan.runtime.graph import need, write_onnx

__all__ = ["ENGINES", "Call", "Swapped", "engine", "half_is_fast", "ports"]

Call = Callable[[Tensor, Tensor, Cond], Tensor]
ENGINES = {  # name -> module it needs
    "eager": None, "winograd": None, "bf16": None, "compiled": None, "onnx": "onnxruntime", "openvino": "openvino",
}  # fmt: skip


class _Ports(nn.Module):
    """A network as ``(x, lam, {port: value}) -> F``."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, lam: Tensor, given: dict[str, Tensor]) -> Tensor:
        return self.net(x, lam, Cond(**given))


def ports(cond: Cond) -> dict[str, Tensor]:
    """The ports in use, by name."""
    values = {port.name: getattr(cond, port.name) for port in fields(cond)}
    return {name: value for name, value in values.items() if value is not None}


def engine(name: str, net: Net, x: Tensor, cond: Cond, file: Path, ledger: Path, threads: int) -> tuple[Call, float]:
    """``net`` run by an engine of ``ENGINES`` at x's shape, and the seconds it took to load.

    ``file``: where the network as ONNX is kept between runs; made when it is not there.
    """
    if name == "eager":
        return net, 0.0
    if name == "winograd":
        return _filtered(net), 0.0
    if name == "bf16":
        return _half(net), 0.0
    if name == "compiled":
        begun = time.perf_counter()
        compiled = torch.compile(net)
        with torch.inference_mode():
            compiled(x, torch.zeros(len(x)), cond)
        return compiled, time.perf_counter() - begun
    need(str(ENGINES[name]), "openvino" if name == "openvino" else "export")
    if not file.is_file():
        _write(net, x, cond, file, ledger)
    begun = time.perf_counter()
    run = getattr(engines, str(ENGINES[name]))(ours(file, ledger), threads)

    def call(x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
        feed = {"x": x, "lam": lam} | ports(cond)
        found = run({name: np.ascontiguousarray(value.numpy()) for name, value in feed.items()})
        return torch.from_numpy(found)

    return call, time.perf_counter() - begun


def _filtered(net: Net) -> Call:
    """Eager with Winograd's filtering in its wide convolutions."""
    if not winograd.layers(net):
        raise KakusanError(
            f"--runtime winograd: no 3x3 convolution of this network has {winograd.CHANNELS} channels or more; "
            "leave it out"
        )
    return winograd.install(copy.deepcopy(net))


def _half(net: Net) -> Call:
    """Eager with convolutions and products in bf16: 8 bits of a number instead of 24."""
    if not half_is_fast():
        raise KakusanError("--runtime bf16: this processor has no bf16 instructions and would be slower; leave it out")

    def call(x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return net(x, lam, cond)

    return call


def half_is_fast() -> bool:
    """Whether this processor has instructions for bf16, as far as torch tells (without them it is emulated)."""
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(asked is not None and asked())


def _write(net: Net, x: Tensor, cond: Cond, file: Path, ledger: Path) -> None:
    given = ports(cond)
    for name in given.keys() & {"tokens", "tokens_mask"}:  # any length, which a length of one would not say
        given[name] = given[name].repeat_interleave(3, 1)
    arguments = {"x": x, "lam": torch.zeros(len(x)), "given": given}
    with replacing(file) as temporary:
        write_onnx(_Ports(net), arguments, temporary, "out")
        enter(temporary, ledger)


class Swapped(Net):
    """A network whose evaluations another engine makes; its weights stay those of ``net``."""

    def __init__(self, net: Net, call: Call, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.net, self.call, self.shape = net, call, shape

    def forward(self, x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise KakusanError(f"x has sizes {tuple(x.shape[2:])}: this engine was made for {self.shape[1:]}")
        return self.call(x, lam, cond)
