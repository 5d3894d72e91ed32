"""Threads: results in order, bounded work ahead, errors and an early end arrive."""

from __future__ import annotations

import threading
import time

import pytest

from kakusan.training.threads import in_order


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order_and_little_is_begun_ahead(workers):
    begun, lock = [], threading.Lock()

    def work(n: int) -> int:
        with lock:
            begun.append(n)
        time.sleep(0.002 * (n % 3))
        return n * n

    for at, result in enumerate(in_order(work, range(40), workers, "test")):
        assert result == at * at
        assert max(begun) <= at + 2 * workers
    assert sorted(begun) == list(range(40))


def test_an_error_arrives_at_its_turn():
    results = in_order(lambda n: 1 // (3 - n), range(9), 2, "test")
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_who_stops_reading_stops_the_work():
    begun = []
    results = in_order(begun.append, range(1000), 2, "test")
    next(results)
    results.close()
    assert len(begun) < 10 and not [t for t in threading.enumerate() if t.name.startswith("test_")]


def test_work_in_progress_is_told_that_nobody_reads_any_more():
    quit, begun, ended = threading.Event(), threading.Event(), []

    def work(n: int) -> None:
        if n:
            begun.set()
            if quit.wait(30):
                ended.append(n)

    results = in_order(work, range(10), 2, "test", quit)
    next(results)
    assert begun.wait(30)
    results.close()
    assert 1 <= len(ended) <= 2
