"""Judge how well a model takes the style of a picture that it is shown.

    kakusan train icons --style-image style --from icons --lora 0 --minutes 15 --out runs/styled
    python recipes/icons/judge_styles.py runs/styled ICONS --json styles.json --sheet styles.png

ICONS is what prepare.py made. A classifier learns the styles from the training pictures and says how often it is right
on concepts that it has not seen. Then the model draws concepts that it was not trained on, each after a reference of
every style in turn: a picture, not seen in training either, of something else. How often is the drawing of the
reference's style? Beside it the same prompts without a reference, of which a quarter would be right by chance. The
sheet shows the first concepts, a row a style, the reference in front.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from judging.icons import Icons, opened
from judging.scoring import fitted
from judging.styles import Question, agreed, knower, questions
from PIL import Image

from kakusan.app.draw.loaded import Loaded, load
from kakusan.app.draw.sheet import grid, save
from kakusan.conditions.prompt import escape
from kakusan.files import write_json
from kakusan.part import KakusanError

SHOWN = 8  # concepts on the sheet


def file_of(folder: Path, icons: Icons, question: Question) -> Path:
    """The reference's file."""
    line = icons.lines[question.reference]
    return folder / line["split"] / line["file_name"]


def drawn(
    model: Loaded, asked: Sequence[Question], files: Sequence[Path] | None, settings: dict[str, Any]
) -> np.ndarray:
    """One sample a question, after the files or without any."""
    words = [escape(q.caption) for q in asked]
    made = model.sample(len(asked), prompt=words, style_image=files, **settings)
    return np.stack([fitted(each.shown) for each in made])


def shown(icons: Icons, asked: Sequence[Question], pictures: np.ndarray) -> Image.Image:
    """A row for each style: its reference, and the first concepts drawn after their own."""
    cells, labels = [], []
    for style in dict.fromkeys(q.style for q in asked):
        at = [i for i, q in enumerate(asked) if q.style == style][:SHOWN]
        cells += [Image.fromarray(icons.pictures[asked[at[0]].reference]), *(Image.fromarray(pictures[i]) for i in at)]
        labels += [f"after: {style}", *(asked[i].caption for i in at)]
    return grid(cells, columns=SHOWN + 1, labels=labels)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a run or a model file, trained with --style-image style")
    parser.add_argument("icons", type=Path, help="the folder that prepare.py made")
    parser.add_argument("-n", "--count", type=int, default=50, help="concepts, each in every style (default: 50)")
    parser.add_argument("--guidance", type=float, help="default: the model's own")
    parser.add_argument("--style-guidance", type=float, help="a weight of the reference's own")
    parser.add_argument("--steps", type=int, help="default: the model's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, help="a PNG to look at")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    args = parser.parse_args(words)
    try:
        icons, model = opened(args.icons, {}), load(args.model)
        asked, known = questions(icons, args.count), knower(icons)
        weights = args.guidance if args.style_guidance is None else {"style-image": args.style_guidance}
        settings = {"guidance": weights, "steps": args.steps, "seed": args.seed}
        pictures = drawn(model, asked, [file_of(args.icons, icons, q) for q in asked], settings)
        alone = drawn(model, asked, None, settings)
        found = {"after": agreed(known, pictures, asked), "alone": agreed(known, alone, asked)}
        print(f"the classifier itself, on concepts it has not seen: {100 * known.accuracy.value:.1f}%")
        for name, by_style in found.items():
            cells = (f"{s} {100 * r['share']:.0f}% ({100 * r['interval'][0]:.0f}-{100 * r['interval'][1]:.0f})"
                     for s, r in by_style.items())  # fmt: skip
            print(f"{name:6} {'   '.join(cells)}")
        if args.json:
            write_json(args.json, {"model": model.info_.get("hash"), "classifier": known.accuracy.value} | found)
        if args.sheet:
            save(shown(icons, asked, pictures), args.sheet)
    except KakusanError as error:
        sys.exit(f"judge_styles.py: {error}")


if __name__ == "__main__":
    main()
