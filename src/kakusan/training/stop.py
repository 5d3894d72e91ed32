"""Ctrl-C and SIGTERM: as a flag to be polled (Stop) or as KeyboardInterrupt (interruptible); a second one exits."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Stop", "interruptible"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, SIGTERM interrupts as Ctrl-C does; the signal after that ends the process at once, whatever it does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _default()
    raise KeyboardInterrupt


def _default() -> None:
    """From now on the system itself ends the process at a signal: no Python code has to get a turn."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


class Stop:
    """``with Stop() as stop: ... if stop(): save and return``; nothing is saved inside the handler: that can hang.

    Outside the main thread no handler can be installed: the flag is then set by ``request()`` alone.
    """

    def __init__(self) -> None:
        self.signal: int | None = None  # the signal that arrived
        self._asked = False
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self._asked

    def request(self) -> None:
        """Ask for a stop from inside the program."""
        self._asked = True

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            _default()
            raise SystemExit(128 + number)
        self.signal, self._asked = number, True
