"""From rows and scores to lines of a table: one for each system, data set and length, over its seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any

from quality.record import SAMPLES

__all__ = ["Line", "inserted", "lines", "markdown"]


@dataclass(frozen=True)
class Line:
    """One system on one data set after so many minutes."""

    data: str
    minutes: float
    system: str
    excess: tuple[float, ...]  # of each seed, distance minus the floor
    floor: float
    references: int
    rows: tuple[Mapping[str, Any], ...]

    def mean(self, key: str) -> float:
        """A figure's mean over the seeds."""
        return mean(float(row[key]) for row in self.rows)


def lines(rows: Mapping[str, Mapping[str, Any]], scores: Mapping[str, Any]) -> list[Line]:
    """Scored runs brought together over seeds, by data and minutes, the best system first; trials are left out."""
    groups: dict[tuple[str, float, str], list[str]] = {}
    for name, row in rows.items():
        if name in scores["runs"] and row["samples"] == SAMPLES:
            groups.setdefault((row["data"], row["minutes"], row["system"]), []).append(name)
    made = []
    for (data, minutes, system), names in groups.items():
        floor = scores["floors"][data]
        excess = tuple(scores["runs"][n]["distance"] - floor["mean"] for n in names)
        made.append(
            Line(data, minutes, system, excess, floor["mean"], floor["references"], tuple(rows[n] for n in names))
        )
    return sorted(made, key=lambda line: (line.data, line.minutes, mean(line.excess)))


def markdown(found: list[Line]) -> str:
    """A table for each data set and length."""
    if not found:
        return "No runs are scored yet."
    parts = []
    for key in dict.fromkeys((line.data, line.minutes) for line in found):
        group = [line for line in found if (line.data, line.minutes) == key]
        first = group[0]
        parts.append(
            f"**{key[0]}, {key[1]:g} minutes** (floor {first.floor:.0f}, "
            f"{first.references:,} test pictures; {_machines(group)})\n\n"
            "| system | excess: mean (lowest to highest) | seeds | parameters | pictures/s | sampler | ms a sample |\n"
            "|---|---|---|---|---|---|---|\n" + "\n".join(_line(line) for line in group)
        )
    return "\n\n".join(parts)


def _line(line: Line) -> str:
    spread = f" ({min(line.excess):.0f} to {max(line.excess):.0f})" if len(line.excess) > 1 else ""
    counted = [bool(row.get("counted")) for row in line.rows]
    # a counted run took as many steps as the minutes give when the machine is quiet, however long it took
    seconds = sum(60 * row["minutes"] if c else row["seconds"] for row, c in zip(line.rows, counted, strict=True))
    speed = sum(row["pictures"] for row in line.rows) / seconds
    timed = [row for row, c in zip(line.rows, counted, strict=True) if not c]
    each = f"{mean(1000 * row['sample_seconds'] / row['samples'] for row in timed):.0f}" if timed else "–"
    name = line.system + " (counted)" * any(counted)
    sampler = f"{line.rows[0]['sampler']}, {line.rows[0]['sampler_steps']} steps"
    return (
        f"| {name} | {mean(line.excess):.0f}{spread} | {len(line.excess)} "
        f"| {line.mean('parameters') / 1e6:.1f}M | {speed:,.0f} | {sampler} | {each} |"
    )


def _machines(group: list[Line]) -> str:
    found = {(row["machine"]["cpu"], row["machine"]["cores"]) for line in group for row in line.rows}
    return "; ".join(f"{cpu}, {cores} cores" for cpu, cores in sorted(found))


def inserted(page: str, words: str, name: str = "results") -> str:
    """A page with the words between its two marks of that name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, opened, rest = page.partition(begin)
    _, closed, tail = rest.partition(end)
    if not opened or not closed:
        raise SystemExit(f"the page has no {begin} and {end} to put the words between")
    return f"{head}{begin}\n\n{words}\n\n{end}{tail}"
