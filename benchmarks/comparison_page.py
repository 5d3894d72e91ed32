"""A finished comparison as a section of the documentation: its figures, its own words, its first samples.

    python benchmarks/comparison_page.py benchmarks/compared/fashion-20min --name fashion \
        --into docs/explanation/diffusion-or-gan.md --picture docs/pictures/compare-fashion.png

The section stands between the page's marks `<!-- NAME: begin -->` and `<!-- NAME: end -->`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from quality.table import inserted

from kakusan.app.draw.sheet import grid
from kakusan.app.judge.comparewords import METRICS, named, rounded, spread

SHOWN, SCALE = 16, 2  # samples of each arm; pixels a pixel
Tree = dict[str, Any]


def section(result: Tree, floor: str = "") -> str:
    """Tables and words of a ``result.json``, in Markdown."""
    arms, several = result["arms"], result["seeds"] > 1
    rows = []
    for arm in arms:
        rows.append(_row(_name(arm), [run["state"] for run in arm["runs"]], arm["runs"]))
        for steps in sorted({int(s) for run in arm["runs"] for s in run["few"]}):
            few = [{"score": run["few"][str(steps)]} for run in arm["runs"] if str(steps) in run["few"]]
            rows.append(_row(f"{_name(arm)}, {steps} steps", [], few))
    head = ["model", "its runs" if several else "its run", *(m.name for m in METRICS)]
    alone = "One seed: only the Fréchet distance has an interval, of the samples."
    said = "Means over seeds, with half the width of their 95% intervals." if several else alone
    lines = [
        f"- {w}" for part in ("answer", "stability", "diversity", "quality", "cost") for w in result["words"][part]
    ]
    seen = [
        f"| {_name(arm)} | {run['seed']} | {rounded(run['score']['frechet'])} | {run['summary']['steps']:,} "
        f"| {run['summary']['pictures_seen']:,} | {run['summary']['parameters'] / 1e6:.2f}M |"
        for arm in arms
        for run in arm["runs"]
    ]
    return "\n\n".join(
        [
            _table(head, rows),
            f"{said} {result['count']:,} samples of each against {result['stamp']['real']:,} pictures that no model "
            f"was trained on, in the features of {result['stamp']['extractor']}.{floor}",
            "What the report says, written by it from these figures:",
            "\n".join(lines),
            "Every run:",
            "| model | seed | Fréchet distance | steps | pictures seen | parameters |\n|---|---|---|---|---|---|\n"
            + "\n".join(seen),
        ]
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _row(name: str, states: list[str], runs: list[Tree]) -> list[str]:
    return [name, ", ".join(states) or "–", *(_cell(runs, m.key) for m in METRICS)]


def _name(arm: Tree) -> str:
    return named(arm["name"]).removeprefix("the ").replace("diffusion model", "diffusion")


def _cell(runs: list[Tree], key: str) -> str:
    found = spread(runs, key)
    if found is None:
        return "–"
    return rounded(found.mean) + (f" ± {rounded(found.half)}" if found.half is not None else "")


def sheet(folder: Path, result: Tree) -> Image.Image:
    """A row for each arm: its first samples of its first seed, none picked."""
    pictures: list[np.ndarray] = []
    for arm in result["arms"]:
        with np.load(folder / arm["runs"][0]["folder"] / "shown.npz", allow_pickle=False) as file:
            pictures += list(file["pictures"][:SHOWN])
    return grid(pictures, SHOWN, SCALE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a comparison's folder, with result.json")
    parser.add_argument("--name", required=True, help="of the marks in the page")
    parser.add_argument("--into", type=Path, required=True, help="the page")
    parser.add_argument("--floor", default="", help="a sentence on the floor, put after the table")
    parser.add_argument("--picture", type=Path, help="where the samples go")
    args = parser.parse_args()
    result = json.loads((args.folder / "result.json").read_text("utf-8"))
    words = section(result, f" {args.floor}" if args.floor else "")
    args.into.write_text(inserted(args.into.read_text("utf-8"), words, args.name), "utf-8")
    if args.picture:
        sheet(args.folder, result).save(args.picture, optimize=True)


if __name__ == "__main__":
    main()
