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

from kakusan.app.comparewords import METRICS, named, spread

GAP, SHOWN, WIDTH = 2, 16, 900  # pixels between rows; samples of each arm; of the picture, at least half of it
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
        f"| {_name(arm)} | {run['seed']} | {_number(run['score']['frechet'])} | {run['summary']['steps']:,} "
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
    return _number(found.mean) + (f" ± {_number(found.half)}" if found.half is not None else "")


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def sheet(folder: Path, result: Tree) -> Image.Image:
    """A row for each arm: its first samples of its first seed, none picked."""
    rows = []
    for arm in result["arms"]:
        with np.load(folder / arm["runs"][0]["folder"] / "shown.npz", allow_pickle=False) as file:
            pictures = file["pictures"][:SHOWN]
        rows.append(np.concatenate(list(pictures), axis=1))
    spaced = [np.pad(row, ((GAP, GAP), (GAP, GAP), (0, 0)), constant_values=128) for row in rows]
    whole = np.concatenate(spaced, axis=0)
    image = Image.fromarray(whole[..., 0] if whole.shape[2] == 1 else whole)
    times = max(1, round(WIDTH / image.width))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def inserted(page: str, name: str, words: str) -> str:
    """A page with ``words`` between its marks of that name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, found, rest = page.partition(begin)
    _old, closed, tail = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"the page has no marks {begin} and {end}: write them where the section belongs")
    return f"{head}{begin}\n\n{words}\n\n{end}{tail}"


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
    args.into.write_text(inserted(args.into.read_text("utf-8"), args.name, words), "utf-8")
    if args.picture:
        sheet(args.folder, result).save(args.picture, optimize=True)


if __name__ == "__main__":
    main()
