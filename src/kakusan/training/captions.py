"""Captions: the texts of a data set prepared once by the encoder that reads them, and kept in few bytes."""

from __future__ import annotations

import math
import threading
from array import array
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from kakusan.core.model import Encoder
from kakusan.part import KakusanError
from kakusan.training.store import Names

__all__ = ["PROMPT", "Captions"]

PROMPT = "prompt"  # the condition that captions are inputs of


class Captions:
    """Distinct captions, by their number in ``names``, as inputs of the encoder that reads them; -1 is no caption.

    Each is prepared once, when it is first asked for (``prepare`` does all of them), and stays in memory as the bytes
    of its own length.
    """

    def __init__(self, names: Names, encoder: Encoder) -> None:
        self.names, self.encoder = names, encoder
        self._kept: dict[str, _Ragged] = {}
        self._slots = np.full(len(names) + 1, -1, np.int64)  # of each number, and last of -1
        self._count, self._lock = 0, threading.Lock()  # batches are prepared in threads

    def inputs(self, numbers: np.ndarray) -> dict[str, Tensor]:
        """The prepared captions of some rows (b,) as a batch of inputs."""
        for number in np.unique(numbers):
            self._need(int(number))
        slots = [int(slot) for slot in self._slots[numbers]]
        return self.encoder.stack([{name: kept[slot] for name, kept in self._kept.items()} for slot in slots])

    def prepare(self, tell: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Prepare all captions now; returns how many of them are longer than the encoder reads."""
        cut = 0
        for number in range(len(self.names)):
            self._need(number)
            cut += self.encoder.overlong(self.names[number])
            tell(number + 1, len(self.names))
        return cut

    def _need(self, number: int) -> None:
        with self._lock:
            if self._slots[number] >= 0:
                return
            for name, value in self.encoder.caption(None if number < 0 else self.names[number]).items():
                self._kept.setdefault(name, _Ragged(value)).append(value)
            self._slots[number] = self._count
            self._count += 1


class _Ragged:
    """Tensors (1, L, *S) of one type and one S, each of its own L, or all (1,), one after the other in memory."""

    def __init__(self, like: Tensor) -> None:
        self.tail, self.flat, self.dtype = tuple(like.shape[2:]), like.ndim == 1, like.dtype
        self.blob, self.ends = bytearray(), array("Q", [0])

    def append(self, value: Tensor) -> None:
        if value.dtype != self.dtype or tuple(value.shape[2:]) != self.tail or (value.ndim == 1) != self.flat:
            raise KakusanError(f"a caption was prepared to {tuple(value.shape)} {value.dtype}, unlike the others")
        self.blob += value.contiguous().numpy().tobytes()
        self.ends.append(len(self.blob))

    def __getitem__(self, slot: int) -> Tensor:
        data = self.blob[self.ends[slot] : self.ends[slot + 1]]
        shape = (1,) if self.flat else (1, len(data) // (self.dtype.itemsize * math.prod(self.tail)), *self.tail)
        return torch.frombuffer(data, dtype=self.dtype).reshape(shape) if data else torch.zeros(shape, dtype=self.dtype)
