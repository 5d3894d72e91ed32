"""Stop: Ctrl-C and SIGTERM as a flag to be polled; the second one ends the process at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Stop"]


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
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise SystemExit(128 + number)
        self.signal, self._asked = number, True
