"""Work in threads, its results in order and only a little ahead of their reader."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["in_order"]

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Task], Result],
    tasks: Iterable[Task],
    workers: int,
    name: str,
    quit: threading.Event | None = None,
) -> Iterator[Result]:
    """``work(task)`` of every task, in the tasks' order, at most 2 workers + 1 of them begun or waiting to be read.

    ``quit`` is set when the reading ends, so that work that looks at it can end too: nobody waits for it any more.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix=name) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(work, task))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            if quit is not None:
                quit.set()
            for future in waiting:
                future.cancel()
