"""What depends on the kind of machine that trains: precision, denormals, the network's own random draws, waiting."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

__all__ = ["autocast", "compiled", "flush_denormals", "machine", "seeded", "wait"]


def autocast(device: torch.device, precision: str) -> Callable[[], AbstractContextManager[Any]]:
    """bf16 autocast where asked for, or where "auto" finds a GPU that has it."""
    able = (device.type == "cuda" and torch.cuda.is_bf16_supported()) or device.type == "mps"
    if precision == "bf16" or (precision == "auto" and able):
        return lambda: torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext


def flush_denormals() -> bool:
    """Count denormal numbers as zero; whether every thread of the pool does so.

    The switch belongs to a thread and is inherited by those it starts: call this before torch computes anything, or
    threads that wait already keep their own setting (slower where denormals occur, and other last digits).
    """
    torch.set_flush_denormal(True)
    tiny = torch.full((torch.get_num_threads() * 65536,), 1e-20)
    return not bool((tiny * tiny).view(torch.int32).any())


def compiled(net: nn.Module, device: torch.device) -> nn.Module:
    """The network compiled in place on a GPU that torch.compile can serve (it needs Triton); elsewhere as it is.

    Not on CPUs: there compiling costs a minute, and the run's time is short.
    """
    if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        net.compile()
    return net


@contextmanager
def machine(device: torch.device, flush: bool) -> Iterator[bool]:
    """TF32 products on a GPU for the length of the run, and denormals for good; gives whether all are flushed."""
    before = torch.get_float32_matmul_precision()
    flushed = flush_denormals() if flush else False
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield flushed
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Make a network's own draws (dropout) a function of ``seed``; the caller's random state is untouched."""
    devices = [] if device.type == "cpu" else [device.index or 0]
    with torch.random.fork_rng(devices, device_type="cuda" if device.type == "cpu" else device.type):
        torch.manual_seed(seed)
        yield


def wait(device: torch.device) -> None:
    """Let the device finish, so that the clock sees its time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
