"""The page of an evaluation: the figures first, then what they rest on, model beside model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kakusan.app.command.show import duration
from kakusan.evaluation.distances import FIGURES
from kakusan.report import Report, Section, Series, number

__all__ = ["Panel", "write_report"]

Tree = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """Pictures of one model: samples with the classes asked for, real ones, and (sample, nearest, words) of pairs."""

    samples: list[np.ndarray]
    labels: list[str] | None
    real: list[np.ndarray]
    pairs: list[tuple[np.ndarray, np.ndarray, str]]


def write_report(path: Path, result: Tree, panels: list[Panel]) -> Path:
    """report.html: one self-contained page; ``panels`` belong to the first models of the result."""
    models = result["models"]
    names = [row["model"]["name"] for row in models]
    first = models[0]["stamp"]
    page = Report(
        f"kakusan: how good is {' or '.join(names)}?",
        f"{first['samples']:,} samples against {first['real']:,} real pictures: {models[0]['against']}",
    )
    _top(page, models)
    _pictures(page, names, panels)
    _distances(page.section("Distances", "Features of samples against those of real pictures."), models)
    if any("classes" in row for row in models):
        _classes(page, models)
    if any(row.get("copies") for row in models):
        _copying(page, models, panels)
    if any(row.get("likelihood") for row in models):
        _likelihood(page, models)
    if any("curve" in row for row in models):
        _curve(page, models)
    if any("ema" in row for row in models):
        _ema(page, models)
    _protocol(page, models)
    return page.save(path)


def _name(row: Tree) -> str:
    return str(row["model"]["name"])


def _figure(figure: Tree | None) -> str:
    """A value with its interval."""
    if figure is None:
        return "–"
    return f"{number(figure['value'])} ({number(figure['low'])} to {number(figure['high'])})"


def _share(figure: Tree) -> str:
    if not figure["count"]:
        return "–"
    return f"{100 * figure['value']:.1f}% ({100 * figure['low']:.1f} to {100 * figure['high']:.1f})"


def _top(page: Report, models: list[Tree]) -> None:
    for row in models:
        about, cards = row["model"], []
        cards.append(("Fréchet distance", row["figures"]["frechet"]["value"], _name(row) if len(models) > 1 else ""))
        cards.append(("precision", row["figures"]["precision"]["value"], "samples that look real"))
        cards.append(("recall", row["figures"]["recall"]["value"], "of real variety drawn"))
        if "labels" in row:
            own = 100 * row["labels"]["classifier"]["value"]
            share = 100 * row["labels"]["accuracy"]["value"]
            cards.append(("label accuracy", f"{share:.1f}%", f"classifier itself {own:.1f}%"))
        if row.get("likelihood"):
            bits, error = row["likelihood"]["bits"], row["likelihood"]["error"]
            cards.append(("bits per dimension", f"{bits:.2f} ± {1.96 * error:.2f}", "of pictures"))
        cards.append(("a sample", f"{1000 * row['seconds']:.0f} ms", f"{row['evaluations']} evaluations"))
        trained = f", {duration(60 * about['minutes'])}" if about.get("minutes") else ""
        cards.append(("parameters", f"{about['parameters'] / 1e6:.2f} M", f"{about['hash'][:8]}{trained}"))
        page.top.figures(cards)
        for finding in row["findings"]:
            page.top.note(f"{_name(row)}: {finding['message']}", finding["severity"], fix=finding["fix"])
        copies = row["copies"]
        kind = {"original": "good", "unknown": "note"}.get(copies["verdict"], "warning")
        title = {"original": "No copies.", "unknown": "Copies not examined."}.get(copies["verdict"], "Copies.")
        page.top.note(f"{_name(row)}: {copies['message']}", kind, title)


def _pictures(page: Report, names: list[str], panels: list[Panel]) -> None:
    section = page.section("Samples and real pictures", "The first seeds of those judged; nothing was picked.")
    for name, panel in zip(names, panels):
        section.pictures(panel.samples, panel.labels, f"{name}: samples", alt=f"samples of {name}")
    if panels:
        section.pictures(panels[0].real, None, "real pictures, spread over those compared with", alt="real pictures")


def _distances(section: Section, models: list[Tree]) -> None:
    rows = []
    for key, (words, better) in FIGURES.items():
        wanted = "0.5 is best" if key == "two_sample" else "low is good" if better < 0 else "high is good"
        rows.append([words, wanted, *(_figure(row["figures"].get(key)) for row in models)])
    section.table(["figure", "", *(_name(row) for row in models)], rows, "Values with their 95% intervals")
    section.text(
        "The Fréchet distance of finitely many pictures is too large, the more so the fewer they are: only distances "
        "of equally many can be compared. The line below it extrapolates to infinitely many. The kernel distance has "
        "no such bias and can be slightly negative. Precision is the share of samples inside the real pictures' "
        "neighbourhoods, recall the share of real ones inside the samples'; density and coverage are their versions "
        "that outliers disturb less. The two-sample classifier tries to tell samples from real pictures: 0.5 is a coin."
    )
    methods = {FIGURES[k][0]: v["method"] for k, v in models[0]["figures"].items() if k in FIGURES}
    section.details("Where the intervals come from", methods)


def _classes(page: Report, models: list[Tree]) -> None:
    section = page.section("Classes", "Whether samples show what was asked for, and how good each class is.")
    for row in models:
        if "classes" not in row:
            continue
        own = row["labels"]["classifier"]
        section.text(
            f"{_name(row)}: {_share(row['labels']['accuracy'])} of samples are taken for the class asked for, by a "
            f"classifier that is right for {_share(own)} of real pictures it never saw."
        )
        if row["labels"]["mistaken"]:
            words = [f"{a} for {b} ({100 * s:.0f}%)" for a, b, s in row["labels"]["mistaken"]]
            section.text(f"Taken for something else most often: {', '.join(words)}.")
        table = [
            [c["class"], c["drawn"], c["real"], _share(row["labels"]["classes"][c["class"]]), _figure(c.get("kernel")),
             *(c.get(k) for k in ("precision", "recall", "density", "coverage"))]
            for c in row["classes"]
        ]  # fmt: skip
        section.table(
            ["class", "drawn", "real", "label accuracy", "kernel distance", "precision", "recall", "density",
             "coverage"], table, f"{_name(row)}, class by class",
        )  # fmt: skip


def _copying(page: Report, models: list[Tree], panels: list[Panel]) -> None:
    section = page.section(
        "Copies of training pictures",
        "Each sample's nearest training picture, measured by how far held-out pictures are from each.",
    )
    rows = []
    for row in models:
        copies = row["copies"]
        if "share" in copies:
            flagged, expected = f"{100 * copies['share']:.1f}%", f"{100 * copies['expected']:.1f}%"
            rows.append([_name(row), flagged, expected, copies["ratio"], f"{copies['among']:,}"])
    if rows:
        section.table(
            ["model", "samples flagged", "held-out pictures flagged", "distance, samples : held out", "searched"], rows
        )
    section.text(
        "A sample is flagged when it is nearer to one training picture than to held-out pictures by more than all but "
        "1% of held-out pictures are."
    )
    for row, panel in zip(models, panels):
        if panel.pairs:
            pictures = [_side_by_side(sample, nearest) for sample, nearest, _ in panel.pairs]
            words = [text for _, _, text in panel.pairs]
            caption = f"{_name(row)}: the most suspicious samples, left, each with its nearest training picture"
            section.pictures(
                pictures,
                words,
                caption,
                alt="pairs of a sample and a training picture",
                scale=max(1, round(96 / len(pictures[0]))),
            )


def _side_by_side(sample: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Two pictures (H, W, C) with a gap of grey between them."""
    height, _, channels = sample.shape
    gap = np.full((height, max(1, height // 16), channels), np.iinfo(sample.dtype).max // 2, sample.dtype)
    return np.concatenate([sample, gap, nearest], 1)


def _likelihood(page: Report, models: list[Tree]) -> None:
    section = page.section("Likelihood", "How probable the model finds pictures; fewer bits are better.")
    rows, lines = [], []
    for row in models:
        found = row.get("likelihood")
        if not found:
            continue
        bounds = found["bounds"]
        rows.append([
            _name(row), f"{found['bits']:.3f} ± {1.96 * found['error']:.3f}",
            *(f"{bounds[k]['bits']:.3f} ± {1.96 * bounds[k]['error']:.3f}" if k in bounds else "–"
              for k in ("unseen", "seen")),
        ])  # fmt: skip
        for key, bound in bounds.items():
            centres = [(v["low"] + v["high"]) / 2 for v in bound["levels"]]
            words = "pictures it never saw" if key == "unseen" else "trained on"
            bits = [max(v["bits"], 1e-6) for v in bound["levels"]]
            lines.append(Series(f"{_name(row)}, {words}", centres, bits, dots=True, dashed=key == "seen"))
    section.table(
        ["model", "bits per dimension (ODE)", "variational bound, unseen", "variational bound, trained on"], rows,
        "With 95% intervals: of the pictures drawn, the noise added to them, the divergence's probes, the ODE's steps",
    )  # fmt: skip
    section.plot(
        lines, "The bound by noise level", "lam = log(alpha/sigma)", "bits per dimension", log_y=True,
        note="a model that knows its training pictures by heart needs fewer bits for them",
    )  # fmt: skip


def _curve(page: Report, models: list[Tree]) -> None:
    section = page.section("Quality against steps", "Every solver with every number of steps, from the same seeds.")
    for row in models:
        if "curve" not in row:
            continue
        points, chosen, best = row["curve"]["points"], row["curve"]["chosen"], row["curve"]["best"]
        solvers = list(dict.fromkeys(p["solver"] for p in points))
        lines = []
        for solver in solvers:
            own = [p for p in points if p["solver"] == solver]
            lines.append(Series(solver, [p["evaluations"] for p in own], [p["frechet"] for p in own], dots=True))
        section.plot(
            lines, f"{_name(row)}: distance against evaluations of a network", "evaluations a sample",
            "Fréchet distance", log_x=True, log_y=True, marks=[(chosen["evaluations"], "chosen")],
            note=f"{row['curve']['count']:,} samples a point: not comparable with the distances above",
        )  # fmt: skip
        kept = "; the model's file has it as its default now" if row["curve"]["saved"] else ""
        section.text(
            f"Best: {best['solver']} with {best['steps']} steps, {number(best['frechet'])} "
            f"({number(best['low'])} to {number(best['high'])}). Cheapest within that interval: {chosen['solver']} "
            f"with {chosen['steps']} steps, {number(chosen['frechet'])}, {1000 * chosen['seconds']:.0f} ms each{kept}."
        )
        for key, title in (("frechet", "Fréchet distance"), ("seconds", "Seconds a sample")):
            at = {(p["solver"], p["steps"]): p[key] for p in points}
            counts = list(dict.fromkeys(p["steps"] for p in points))
            table = [[steps, *(number(at[solver, steps]) for solver in solvers)] for steps in counts]
            section.table(["steps", *solvers], table, title)


def _ema(page: Report, models: list[Tree]) -> None:
    section = page.section("Length of the weights' average", "By the loss on held-out pictures, on the same noise.")
    for row in models:
        if "ema" in row:
            found = row["ema"]
            rows = [
                [width, loss, f"{found['better'][width][0]:+.5f} ± {1.96 * found['better'][width][1]:.5f}"]
                for width, loss in found["losses"].items()
            ]
            caption = f"{_name(row)}, {found['count']:,} held-out pictures; chosen: {found['chosen']}"
            section.table(["average, share of the run", "loss", "against the file's own"], rows, caption)


def _protocol(page: Report, models: list[Tree]) -> None:
    section = page.section("How it was measured", "Figures can be compared exactly when these stamps agree.")
    section.details("Protocol stamp", models[0]["stamp"])
    for row in models:
        settings = {k: v if not isinstance(v, dict) else v["kind"] for k, v in row["sampling"].items()}
        section.details(f"Seconds taken for {_name(row)}", row["took"])
        section.details(f"Sampling of {_name(row)}", settings | {"file": row["model"]["path"]})
