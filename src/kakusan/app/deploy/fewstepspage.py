"""few-steps.html: distance and time against evaluations, teacher and student in one plot, and their samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kakusan.app.deploy.fewsteps import Point, times
from kakusan.report import Report, Section, Series

__all__ = ["write_page"]


def write_page(path: Path, result: dict[str, Any], points: Sequence[Point]) -> Path:
    """One self-contained page; without points (no data were given) it has what was learned only."""
    page = Report(f"kakusan: {result['title']}", result["subtitle"])
    page.top.figures([(name, value) for name, value in result["figures"].items()])
    for kind, words, fix in result["notes"]:
        page.top.note(words, kind, fix=fix)
    if points:
        _curves(page.section("Fewer evaluations", "The same seeds and real pictures for every point."), points)
        _samples(page, points)
    if result.get("learned"):
        _learned(page, result["learned"])
    return page.save(path)


def _curves(section: Section, points: Sequence[Point]) -> None:
    names = list(dict.fromkeys(p.series for p in points))
    groups = {name: sorted((p for p in points if p.series == name), key=lambda p: p.evaluations) for name in names}
    distance = [Series(n, [p.evaluations for p in g], [p.frechet for p in g], dots=True) for n, g in groups.items()]
    seconds = [Series(n, [1000 * p.seconds for p in g], [p.frechet for p in g], dots=True) for n, g in groups.items()]
    section.plot(
        distance, "Distance against evaluations of a network", "evaluations a sample", "Fréchet distance",
        log_x=True, log_y=True, note="guidance costs two or three evaluations a step",
    )  # fmt: skip
    section.plot(
        seconds, "Distance against time", "milliseconds a sample", "Fréchet distance", log_x=True, log_y=True,
        note="drawn in batches, on this machine, as busy as it was",
    )  # fmt: skip
    section.table(
        ["way", "steps", "evaluations", "Fréchet distance", "95% interval", "ms a sample"],
        [
            [p.series, p.steps, p.evaluations, p.frechet, f"{p.low:.4g} to {p.high:.4g}", 1000 * p.seconds]
            for p in points
        ],
    )


def _samples(page: Report, points: Sequence[Point]) -> None:
    section = page.section("The same seeds", "The first of those judged; nothing was picked.")
    for p in points:
        section.pictures(
            p.pictures,
            None,
            f"{p.series}, {times(p.steps, 'step')}, {times(p.evaluations, 'evaluation')}",
            alt=p.series,
        )


def _learned(page: Report, learned: dict[str, Any]) -> None:
    section = page.section("What was learned", "Times as lam = log(alpha/sigma); errors of unseen seeds' end points.")
    section.table(
        ["", "error of the end point"],
        [["the model's own solver and grid", learned["before"]], [f"best known: {learned['name']}", learned["started"]],
         ["learned", learned["after"]]],
    )  # fmt: skip
    rounds = list(range(len(learned["curve"])))
    section.plot({"error": (rounds, learned["curve"])}, "Error while learning", "rounds", "error", log_y=True)
    section.details("Times and weights", {"lam": learned["lams"], "weights": learned["weights"]})
