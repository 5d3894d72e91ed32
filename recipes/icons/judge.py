"""Judge how well a model of the icons follows its prompts: is the true caption the one that a picture fits best?

    python recipes/icons/judge.py train ICONS judge.safetensors            # once, about 10 minutes of two cores
    python recipes/icons/judge.py score runs/icons judge.safetensors --guidance 3 --steps 20 --json scores.json

The judge is a network for pictures and one for words, trained together on the real icons, held-out concepts and styles
among them: it has to know what the model does not. It ranks the prompts of a kind (prompts.toml) for each sample. One
rendering of each concept asked for is kept from it; its own accuracy on those stands beside the model's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judging.icons import opened, prompts
from judging.scoring import drawn, own, ranks, told
from judging.towers import Judge, read, write
from judging.training import trained, words_of

from kakusan.app.draw.loaded import load
from kakusan.files import write_json
from kakusan.part import KakusanError

PROMPTS = Path(__file__).with_name("prompts.toml")


def train(args: argparse.Namespace) -> None:
    """Train a judge, measure it on pictures it did not see, write it."""
    asked = prompts(args.prompts)
    icons = opened(args.icons, asked)
    torch.manual_seed(args.seed)
    judge = Judge(words_of(icons, asked), width=args.width)
    began = time.process_time()
    seen = trained(icons, judge, 60 * args.minutes, args.batch, args.seed, tell=lambda words: print(words, flush=True))
    accuracy = own(judge, icons, asked)
    about = {
        "pictures": len(icons.lines) - len(icons.kept),
        "kept": len(icons.kept),
        "seen": seen,
        "processor_minutes": round((time.process_time() - began) / 60, 2),
        "seed": args.seed,
        "own": accuracy,
    }
    write(args.judge, judge, about)
    print(table(accuracy, {}))


def score(args: argparse.Namespace) -> None:
    """Draw the prompts by a model and rank them."""
    judge, about = read(args.judge)
    asked = prompts(args.prompts)
    model = load(args.model, args.device)
    if "prompt" not in model.model.encoders:
        raise KakusanError(f"{args.model}: reads no prompts; the judge is for models of words")
    settings = {"guidance": args.guidance, "steps": args.steps}
    found: dict[str, Any] = {}
    for kind in args.kinds:
        some = asked[kind]
        places = ranks(
            judge,
            drawn(model, some, args.count, args.seed, args.language, **settings),
            [i for _ in range(args.count) for i in range(len(some))],
            some,
        )
        found[kind] = told(places)
        if kind == "colour":
            exists = np.array([p.exists for _ in range(args.count) for p in some])
            found |= {"colour, in training": told(places[exists]), "colour, new": told(places[~exists])}
    print(table(about.get("own", {}), found))
    if args.json:
        result = {"model": model.info_.get("hash"), "judge": about, "seed": args.seed, "count": args.count}
        write_json(args.json, result | settings | {"language": args.language, "kinds": found})


def table(real: dict[str, Any], samples: dict[str, Any]) -> str:
    """Both, a line a kind."""

    def share(row: dict[str, Any] | None, name: str) -> str:
        if row is None:
            return "-"
        low, high = row[f"{name}_interval"]
        return f"{100 * row[name]:.0f}% ({100 * low:.0f}-{100 * high:.0f})"

    lines = [f"{'prompts':22}{'samples: first':>18}{'in five':>18}{'real icons: first':>20}{'in five':>18}"]
    for kind in dict.fromkeys([*samples, *real]):
        cells = [share(x.get(kind), name) for x in (samples, real) for name in ("top1", "top5")]
        lines.append(f"{kind:22}{cells[0]:>18}{cells[1]:>18}{cells[2]:>20}{cells[3]:>18}")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("train", help="train a judge")
    one.add_argument("icons", type=Path, help="the folder that prepare.py made")
    one.add_argument("judge", type=Path, help="the file to write")
    one.add_argument("--minutes", type=float, default=20.0, help="of processor time (default: 20, two cores for ten)")
    one.add_argument("--batch", type=int, default=192)
    one.add_argument("--width", type=int, default=64, help="channels of the picture network (default: 64)")
    one.add_argument("--seed", type=int, default=0)
    two = verbs.add_parser("score", help="score a model")
    two.add_argument("model", type=Path, help="a run or a model file")
    two.add_argument("judge", type=Path, help="the judge's file")
    two.add_argument("--guidance", type=float, help="default: the model's own")
    two.add_argument("--steps", type=int, help="default: the model's own")
    two.add_argument("-n", "--count", type=int, default=1, help="samples of each prompt (default: 1)")
    two.add_argument("--kinds", nargs="+", choices=("seen", "held_concepts", "held_styles", "colour"))
    two.add_argument(
        "--language", choices=("en", "ja"), default="en", help="to ask in; the captions ranked are English"
    )
    two.add_argument("--seed", type=int, default=0)
    two.add_argument("--device", default="auto")
    two.add_argument("--json", type=Path, help="a file for the figures")
    for each in (one, two):
        each.add_argument("--prompts", type=Path, default=PROMPTS, help="default: prompts.toml beside this script")
    args = parser.parse_args(words)
    if args.verb == "score" and not args.kinds:
        args.kinds = ["seen", "held_concepts", "held_styles", "colour"]
    try:
        train(args) if args.verb == "train" else score(args)
    except KakusanError as error:
        sys.exit(f"judge.py: {error}")


if __name__ == "__main__":
    main()
