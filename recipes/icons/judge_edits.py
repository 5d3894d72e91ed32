"""Judge how well a model follows instructions, on pairs that it was not trained on.

    python recipes/icons/judge_edits.py MODEL judge.safetensors ICONS PAIRS --beside runs/icons --json edits.json

MODEL was trained with --pairs; ICONS is what prepare.py made, PAIRS what pairs.py made, the judge is judge.py's. For
each of the lists test-concepts.jsonl and test-styles.jsonl it edits pictures and asks: does the target's caption come
first among 100, the source's own among them, and where the change is one that captions do not tell (style, skin tone),
is the result nearer to the target than to the source and the concept's other renderings? Of changes of style also: does
a classifier, which learnt the styles from the training pictures, find the one that was asked for? Beside it stand the
targets themselves and the sources as they are (what one has who changes nothing). What should stay: the distance to the
source where the true pair agrees, beside that of a drawing of the target's caption alone (by --beside, a model of
words, or by MODEL without a picture); a copy's is 0.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from judging.edits import Question, away, followed, questions, read, styled
from judging.icons import Icons, Prompt, opened
from judging.scoring import drawn
from judging.styles import knower
from judging.towers import read as read_judge

from kakusan.app.draw.loaded import Loaded, load
from kakusan.files import write_json
from kakusan.part import KakusanError

LISTS = ("test-concepts.jsonl", "test-styles.jsonl")


def edited(model: Loaded, asked: Sequence[Question], seed: int, **settings: Any) -> tuple[np.ndarray, float]:
    """Each question's edit, and seconds an edit."""
    began = time.perf_counter()
    made = [model.instruct(q.source, q.text, seed=seed + i, **settings)[0].data for i, q in enumerate(asked)]
    return np.stack(made), (time.perf_counter() - began) / max(1, len(made))


def judged(args: argparse.Namespace, icons: Icons, model: Loaded, beside: Loaded) -> dict[str, Any]:
    """Figures by list."""
    judge, about = read_judge(args.judge)
    known = knower(icons)
    out: dict[str, Any] = {"judge": about}
    settings = {"guidance": args.guidance, "image_guidance": args.image_guidance, "steps": args.steps}
    for name in args.lists:
        asked = questions(args.pairs, name, args.icons, icons.lines, args.count)
        pictures, seconds = edited(model, asked, args.seed, **settings)
        prompts = [Prompt(q.caption, "", q.style) for q in asked]
        alone = drawn(beside, prompts, 1, args.seed)
        sides = {
            "edits": pictures,
            "targets": np.stack([read(q.target) for q in asked]),
            "unchanged": np.stack([read(q.source) for q in asked]),
        }
        row: dict[str, Any] = {side: followed(judge, made, asked) for side, made in sides.items()}
        row |= {"n": len(asked), "seconds": round(seconds, 3)}
        row["styled"] = {side: styled(known, made, asked) for side, made in sides.items()}
        row["away"] = {"edits": away(pictures, asked), "alone": away(alone, asked)}
        out[name] = row
        print(table(name, row), flush=True)
    return out


def table(name: str, row: dict[str, Any]) -> str:
    """One list's figures."""

    def share(found: dict[str, Any], what: str) -> str:
        low, high = found[f"{what}_interval"]
        return f"{100 * found[what]:.0f}% ({100 * low:.0f}-{100 * high:.0f})"

    lines = [f"{name}: {row['n']} edits, {row['seconds']:.2f} s each"]
    lines.append(
        f"{'':12}{'followed':>16}{'caption first':>16}{'in five':>16}{'style':>16}{'targets':>16}{'unchanged':>16}"
    )
    for kind, found in row["edits"].items():
        cells = [share(found, what) for what in ("followed", "top1", "top5", "nearest")]
        cells += [share(row[side][kind], "followed") for side in ("targets", "unchanged")]
        lines.append(f"{kind:12}" + "".join(f"{cell:>16}" for cell in cells))
    if row["styled"]["edits"]:
        cells = ", ".join(f"{side} {share(found, 'style')}" for side, found in row["styled"].items())
        lines.append(f"of changes of style, a classifier finds the style asked for: {cells}")
    kept, alone = row["away"]["edits"], row["away"]["alone"]
    lines.append(f"where the pair agrees: {kept:.1f} grey levels from the source, {alone:.1f} drawn from words alone")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a run or a model file, trained with --pairs")
    parser.add_argument("judge", type=Path, help="the judge's file")
    parser.add_argument("icons", type=Path, help="the folder that prepare.py made")
    parser.add_argument("pairs", type=Path, help="the folder that pairs.py made")
    parser.add_argument("--beside", type=Path, help="a model of words, to draw the target's caption alone")
    parser.add_argument("--lists", nargs="+", default=list(LISTS), help=f"default: {' '.join(LISTS)}")
    parser.add_argument("-n", "--count", type=int, default=200, help="edits of each list (default: 200)")
    parser.add_argument("--guidance", type=float, help="to the words; default: the model's own")
    parser.add_argument("--image-guidance", type=float, help="to the picture; default: the model's own")
    parser.add_argument("--steps", type=int, help="default: the model's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    args = parser.parse_args(words)
    try:
        icons, model = opened(args.icons, {}), load(args.model, args.device)
        found = judged(args, icons, model, load(args.beside, args.device) if args.beside else model)
        if args.json:
            told = {n: getattr(args, n) for n in ("guidance", "image_guidance", "steps", "seed", "count")}
            write_json(args.json, {"model": model.info_.get("hash")} | told | found)
    except KakusanError as error:
        sys.exit(f"judge_edits.py: {error}")


if __name__ == "__main__":
    main()
