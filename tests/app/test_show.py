"""Progress: plain lines are few and complete; a terminal gets one live line."""

from __future__ import annotations

import io

import pytest

from kakusan.app.command.show import EVERY, Progress, duration, size


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_are_at_most_one_in_ten_seconds_and_end_complete():
    clock, page = Clock(), io.StringIO()
    with Progress(page, clock=clock) as p:
        p.start(1000)
        for i in range(1, 1001):
            clock.now += 0.1
            p.update(i, loss=0.5 / i, rate=187.6, eta=(1000 - i) / 10, memory=1.2e9)
    lines = page.getvalue().splitlines()
    assert 100 / EVERY <= len(lines) <= 100 / EVERY + 2
    assert lines[0].startswith("training   0%  step 1/1,000 · loss 0.5 · 188 pictures/s · 1 min 40 s left · 1.2 GB")
    assert "100%  step 1,000/1,000" in lines[-1] and "\x1b" not in page.getvalue()


def test_the_last_state_is_shown_even_when_work_stops_short():
    clock, page = Clock(), io.StringIO()
    with Progress(page, clock=clock) as p:
        p.start(100)
        p.update(1)
        p.update(37)
    assert "step 37/100" in page.getvalue().splitlines()[-1]


def test_what_is_to_be_said_once_is_said_once():
    page = io.StringIO()
    with Progress(page) as p:
        for words in ("data: one", "data: two", "data: one"):
            p.once(words)
        p.note("data: one")
    assert page.getvalue().splitlines() == ["data: one", "data: two", "data: one"]


def test_quiet_keeps_warnings_only():
    page = io.StringIO()
    with Progress(page, quiet=True) as p:
        p.plan({"a": 1})
        p.start(2)
        p.update(1)
        p.note("n")
        p.warn("w")
        p.problem("p")
    assert page.getvalue() == "warning: w\nproblem: p\n"


@pytest.mark.parametrize("live", [True, False])
def test_brackets_are_words_not_styles(live):
    page = io.StringIO()
    with Progress(page, live=live) as p:
        p.plan({"net": "[bold]x[/bold]"}, title="Plan")
        p.start(3)
        p.update(3, note="[red]")
        p.warn("[/nope]")
    for words in ("[bold]x[/bold]", "[red]", "[/nope]"):
        assert words in page.getvalue()


def test_a_terminal_gets_a_bar_and_the_total_may_move():
    page = io.StringIO()
    with Progress(page, live=True, clock=Clock()) as p:
        p.start(10)
        p.update(5, total=20, loss=0.25)
        p.note("checkpoint")
        p.update(20, loss=0.125)
    assert "loss 0.125" in page.getvalue() and "checkpoint" in page.getvalue() and "100%" in page.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.7, "1 min 00 s"), (250, "4 min 10 s"), (7500, "2 h 05 min"), (None, "–"), (float("nan"), "–")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"), [(12, "12 B"), (640e6, "640 MB"), (1.23e9, "1.2 GB"), (2e12, "2.0 TB"), (None, "–")]
)
def test_sizes(count, words):
    assert size(count) == words
