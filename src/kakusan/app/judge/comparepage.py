"""The page that a comparison leaves: the answer first, then every figure that it rests on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from kakusan.app.judge.comparewords import METRICS, named, spread
from kakusan.app.train.project import Project
from kakusan.report import Report, Section, Series, number

__all__ = ["write_report"]

Tree = dict[str, Any]
_STATES = {"diverged": "problem", "collapsed": "problem", "worsened": "warning"}


def write_report(folder: Path, result: Tree, project: Project) -> Path:
    """report.html: one self-contained page."""
    arms = result["arms"]
    length = f"{result['minutes']:g} minutes" if result["minutes"] else f"{result['steps']:,} steps"
    seeds = f"{result['seeds']} seed{'' if result['seeds'] == 1 else 's'}"
    page = Report(
        f"kakusan: {' or '.join(_short(a) for a in arms)}",
        f"{Path(result['data']['path']).name}, {length} of training each, {seeds}",
    )
    _top(page, result, length, seeds)
    _stability(page, arms, result["words"]["stability"])
    _quality(page, arms, result["words"]["quality"])
    _diversity(page, arms, result["words"]["diversity"])
    _cost(page, arms, result["words"]["cost"])
    _samples(page, folder, arms)
    _protocol(page, result, length, seeds, project)
    return page.save(folder / "report.html")


def _short(arm: Tree) -> str:
    return str(arm["name"]).removeprefix("schedule=")


def _top(page: Report, result: Tree, length: str, seeds: str) -> None:
    arms, facts = result["arms"], result["facts"]
    page.top.figures(
        [
            ("pictures", f"{facts['pictures']:,}", facts["shape"]),
            ("training", length, f"each, {seeds}"),
            *((f"{_short(a)}: parameters", _parameters(a), "that draw") for a in arms),
        ]
    )
    for words in result["words"]["answer"]:
        page.top.note(words, title="Answer.")
    for arm in arms:
        for run in arm["runs"]:
            if run["state"] in _STATES:
                words = f"{named(arm['name'])}, seed {run['seed']}: {_WHY[run['state']]}"
                page.top.note(words[:1].upper() + words[1:], _STATES[run["state"]])
    page.top.table(
        ["arm", *(m.name for m in METRICS)], [[_short(a), *(_cell(a, m.key) for m in METRICS)] for a in arms],
        "Means over seeds, with half the width of their 95% intervals. Distances and seconds: lower is better.",
    )  # fmt: skip


_WHY = {
    "diverged": "training diverged (its numbers or its pictures were no longer finite).",
    "collapsed": "collapsed: its pictures of a class are far more alike than real ones, or half the classes missing.",
    "worsened": "ended farther from the data than it had been on the way.",
}


def _parameters(arm: Tree) -> str:
    counts = [run["summary"].get("parameters") for run in arm["runs"]]
    return f"{counts[0] / 1e6:.2f} M" if counts and counts[0] else "–"


def _cell(arm: Tree, key: str, runs: list[Tree] | None = None) -> str:
    """A mean with its interval, as "31.2 ± 1.4"."""
    found = spread(arm["runs"] if runs is None else runs, key)
    if found is None:
        return "–"
    return number(found.mean) if found.half is None else f"{number(found.mean)} ± {number(found.half)}"


def _say(section: Section, words: list[str]) -> None:
    for line in words:
        section.text(line)


def _stability(page: Report, arms: list[Tree], words: list[str]) -> None:
    section = page.section("Stability", "Runs that went wrong, how far seeds lie apart, and the way there.")
    _say(section, words)
    rows = [
        [_short(arm), run["seed"], run["state"], run["score"]["frechet"], run["summary"].get("steps"),
         run["summary"].get("pictures_seen"), run["summary"].get("skipped", 0)]
        for arm in arms for run in arm["runs"]
    ]  # fmt: skip
    section.table(
        ["arm", "seed", "state", "Fréchet distance", "steps", "pictures seen", "steps left out"], rows, "Every run"
    )
    for key, title in (("kernel", "Kernel distance while training"), ("recall", "Recall while training")):
        lines = [
            Series(f"{_short(arm)}, seed {run['seed']}", [p["minutes"] for p in run["curve"]],
                   [p[key] for p in run["curve"]], dots=True, dashed=run["seed"] > 0)
            for arm in arms for run in arm["runs"]
        ]  # fmt: skip
        note = "of the averaged weights; fewer pictures than in the tables, diffusion models with 12 steps"
        section.plot(lines, title, "minutes", key, note=note)


def _quality(page: Report, arms: list[Tree], words: list[str]) -> None:
    section = page.section("Quality", "How close the pictures are to real ones, one by one and as a whole.")
    _say(section, words)
    _table(section, arms, ("frechet", "kernel", "precision", "density", "accuracy"))


def _diversity(page: Report, arms: list[Tree], words: list[str]) -> None:
    section = page.section("Diversity", "How much of the real pictures' variety is there.")
    _say(section, words)
    _table(section, arms, ("recall", "coverage", "spread", "covered"))


def _table(section: Section, arms: list[Tree], keys: tuple[str, ...]) -> None:
    names = {m.key: m.name for m in METRICS} | {
        "spread": "spread inside classes (1 = as real)",
        "covered": "classes covered",
    }
    used = [k for k in keys if any(spread(a["runs"], k) is not None for a in arms)]
    section.table(["arm", *(names[k] for k in used)], [[_short(a), *(_cell(a, k) for k in used)] for a in arms])


def _cost(page: Report, arms: list[Tree], words: list[str]) -> None:
    section = page.section("Cost of a picture", "Time and evaluations of the network; diffusion again with few steps.")
    _say(section, words)
    rows = []
    for arm in arms:
        usual = arm["runs"][0]["score"]["evaluations"]
        rows.append([_short(arm), usual, *(_cell(arm, k) for k in ("seconds", "frechet", "precision", "recall"))])
        for steps in sorted({int(s) for run in arm["runs"] for s in run["few"]}):
            few = [{"score": run["few"][str(steps)]} for run in arm["runs"] if str(steps) in run["few"]]
            name, count = f"{_short(arm)}, {steps} steps", few[0]["score"]["evaluations"]
            rows.append([name, count, *(_cell(arm, k, few) for k in ("seconds", "frechet", "precision", "recall"))])
    section.table(["arm", "evaluations", "seconds a picture", "Fréchet distance", "precision", "recall"], rows)


def _samples(page: Report, folder: Path, arms: list[Tree]) -> None:
    section = page.section("Samples", "The same seeds for every model; nothing was picked.")
    for arm in arms:
        for run in arm["runs"][:1]:
            try:
                with np.load(folder / run["folder"] / "shown.npz", allow_pickle=False) as file:
                    pictures, labels = list(file["pictures"]), [str(x) for x in file["labels"]]
            except (OSError, ValueError, KeyError):
                section.note(f"{named(arm['name'])}: its pictures are gone from {run['folder']}.", "warning")
                continue
            caption = f"{_short(arm)}, seed {run['seed']}"
            section.pictures(pictures, labels or None, caption, alt=f"samples of {_short(arm)}")


def _protocol(page: Report, result: Tree, length: str, seeds: str, project: Project) -> None:
    section = page.section("How it was measured")
    stamp = result["stamp"]
    clock = " of processor time" if "training.clock=processor" in result["overrides"] else ""
    section.text(
        f"Every arm trained {length}{clock} on the same machine with {seeds}, on the same pictures. Generators have "
        "the parameters of the diffusion network, to a percent or so; discriminators, which draw nothing, have as many "
        f"again. {result['count']:,} pictures of each model were compared with {stamp['real']:,} real ones "
        f"({result['against']}) in the features of {stamp['extractor']} ({stamp['resize']}).\n\n"
        "R3GAN is Huang et al. 2024: relativistic pairing loss, R1 and R2 penalties, no normalisation; its settings "
        "were fitted to short runs of small batches, as the documentation says. The classic GAN is Radford et al. 2016 "
        "with the non-saturating loss. Both ship the average of their generator's weights, as the diffusion model "
        "does. Sets of fewer than 5,000 pictures are augmented for all.\n\n"
        "A run counts as diverged when its numbers or pictures are not finite; as collapsed when its pictures vary "
        "less than half as much as real ones, both in features and in means of 8 x 8 blocks (inside the classes that "
        "they are taken for, where there are any), or when at most half of the classes are drawn; as worsened when its "
        "last kernel distance is twice its best. The same rules hold for every arm. Intervals are 95% each, over seeds "
        "(Student's t, Welch); with many comparisons some will be certain by chance."
    )
    section.details("Protocol stamp", stamp)
    section.details("Data", project.sheet())
    for arm in result["arms"]:
        if arm["name"] in result["gans"]:
            section.details(f"Settings of {_short(arm)}", json.dumps(result["gans"][arm["name"]], indent=1))
        elif arm["overrides"]:
            section.details(f"Overrides of {_short(arm)}", "\n".join(arm["overrides"]))
