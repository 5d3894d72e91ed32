"""What a command says while it works: the plan, one line of progress, remarks; all on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

__all__ = ["Progress", "duration", "size"]

EVERY = 10.0  # seconds between plain lines


def duration(seconds: float | None) -> str:
    """Seconds as people say them: 8 s, 4 min 10 s, 2 h 05 min."""
    if seconds is None or seconds != seconds or seconds < 0:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: float | None) -> str:
    """Bytes as people say them: 640 MB, 1.2 GB."""
    if count is None:
        return "–"
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB" if count < 999.5 else f"{count / 1000:.1f} TB"


class Progress:
    """Progress of one command: a live line on a terminal, plain lines (at most one in 10 s) when piped.

    Long work calls ``start`` once, then ``update`` as often as it likes (a call between two shown lines costs nothing),
    ``note``, ``warn`` and ``problem`` for remarks, and ``stop`` at the end. ``quiet`` keeps only warnings and problems.
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False, live: bool | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:  # fmt: skip
        self.stream = stream or sys.stderr
        self.quiet = quiet
        self.live = self.stream.isatty() if live is None else live
        self.clock = clock
        self._bar: Bar | None = None
        self._task: Any = None
        self._console: Any = None
        self._what, self._total, self._unit = "", 0, "step"
        self._shown = self._drawn = float("-inf")
        self._remarked: set[str] = set()
        self._last: tuple[int, str] | None = None  # the newest state that is not on the page yet

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def plan(self, rows: Mapping[str, Any], title: str = "Plan") -> None:
        """The table printed before long work: what will be done, and what it will take."""
        if self.quiet:
            return
        width = max((len(str(name)) for name in rows), default=0)
        lines = [title] + [f"  {name:<{width}}  {value}" for name, value in rows.items()]
        if not self.live:
            self._plain("\n".join(lines))
            return
        from rich.table import Table

        table = Table(
            title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False
        )
        table.add_column(style="dim", no_wrap=True)
        table.add_column()
        for name, value in rows.items():
            table.add_row(f"  {name}", _literal(value))
        self._rich().print(table)

    def start(self, total: int, what: str = "training", unit: str = "step") -> None:
        """Begin something of ``total`` units; the total may change in ``update``."""
        self.stop()
        self._what, self._total, self._unit = what, total, unit
        self._shown = self._drawn = float("-inf")
        if self.quiet or not self.live:
            return
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[said]}", style="dim"),
            console=self._rich(),
            refresh_per_second=4,
        )
        self._task = self._bar.add_task(what, total=total, said="")
        self._bar.start()

    def update(
        self,
        done: int,
        total: int | None = None,
        loss: float | None = None,
        rate: float | None = None,
        eta: float | None = None,
        memory: float | None = None,
        note: str = "",
    ) -> None:
        """Where it stands: units done, loss, pictures a second, seconds left, bytes in use."""
        self._total = total if total is not None else self._total
        now = self.clock()
        if self.quiet or (self._bar is not None and now - self._drawn < 0.1 and done < self._total):
            return
        self._drawn = now
        parts = [f"{self._unit} {done:,}/{self._total:,}"]
        parts += [f"loss {loss:.4g}"] if loss is not None else []
        parts += [f"{rate:,.0f} pictures/s" if rate >= 10 else f"{rate:.1f} pictures/s"] if rate is not None else []
        parts += [f"{duration(eta)} left"] if eta is not None else []
        parts += [size(memory)] if memory is not None else []
        parts += [note] if note else []
        said = " · ".join(parts)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=self._total, said=_literal(said))
            return
        self._last = (done, said)
        if now - self._shown >= EVERY or done >= self._total:
            self._shown = now
            self._flush()

    def once(self, words: str) -> None:
        """A remark about something that a command opens several times: made the first time."""
        if words not in self._remarked:
            self._remarked.add(words)
            self.note(words)

    def note(self, words: str) -> None:
        """A remark of passing interest: a checkpoint written, the cool-down begun."""
        if not self.quiet:
            self._remark("", words, "")

    def warn(self, words: str) -> None:
        """Something to know or to act on."""
        self._remark("warning: ", words, "yellow")

    def problem(self, words: str) -> None:
        """Something wrong with the result."""
        self._remark("problem: ", words, "bold red")

    def stop(self) -> None:
        """Leave the line as it stands; safe to call twice."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self._flush()

    def _flush(self) -> None:
        if self._last is not None:
            done, said = self._last
            self._last = None
            share = f"{100 * done / self._total:3.0f}%" if self._total else "    "
            self._plain(f"{self._what} {share}  {said}")

    def _remark(self, head: str, words: str, style: str) -> None:
        if not self.live:
            self._plain(f"{head}{words}")
            return
        from rich.text import Text

        self._rich().print(Text.assemble((head, style), str(words)))

    def _plain(self, words: str) -> None:
        print(words, file=self.stream, flush=True)

    def _rich(self) -> Any:
        if self._console is None:
            from rich.console import Console

            self._console = Console(file=self.stream, highlight=False, force_terminal=True, soft_wrap=False)
        return self._console


def _literal(value: Any) -> str:
    """Text whose brackets rich does not take for styles."""
    return str(value).replace("[", r"\[")
