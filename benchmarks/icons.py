"""How good a model of the icons is: the figures of its card, part by part, each kept as JSON.

    python benchmarks/icons.py MODEL --judge judge.safetensors --icons ICONS [--parts curves fidelity ...] [--out OUT]

ICONS is what recipes/icons/prepare.py made, the judge what recipes/icons/judge.py trained. The parts: ``curves``
(retrieval and distance against guidance and steps; what they choose holds for the parts after them), ``fidelity``,
``styles``, ``memorisation``, ``alpha``, ``time``. OUT/PART.json grows row by row, samples are kept in --scratch: stop
it whenever you like, the same command goes on. The tables are printed in Markdown at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import iconbench
from iconbench import clean, copied, curves, fidelity, styles, timing
from iconbench.bench import Bench
from judging.icons import prompts
from judging.towers import read

from kakusan.app.draw.loaded import load
from kakusan.part import KakusanError

PARTS = ("curves", "fidelity", "styles", "memorisation", "alpha", "time")
MEASURED = Path(iconbench.__file__).parent / "measured"


def opened(args: argparse.Namespace) -> Bench:
    """The model, its judge and where things lie."""
    judge, about = read(args.judge)
    about = dict(about) | {"file": hashlib.sha256(args.judge.read_bytes()).hexdigest()[:16]}
    model = load(args.model, args.device)
    if "prompt" not in model.model.encoders:
        raise KakusanError(f"{args.model}: reads no prompts; this measures models of words")
    asked = prompts(iconbench.RECIPE / "prompts.toml")
    return Bench(
        model, judge, about, asked, args.icons, args.out, args.scratch, args.count, args.seed,
        tell=lambda words: print(words, file=sys.stderr, flush=True),
    )  # fmt: skip


def settled(bench: Bench, args: argparse.Namespace) -> dict[str, Any]:
    """Guidance and steps: what is asked for, else what the curves chose for this model, else its own (None)."""
    found: dict[str, Any] = {}
    file = bench.out / "curves.json"
    if file.is_file():
        kept = json.loads(file.read_text("utf-8"))
        found = kept.get("chosen", {}) if kept["asked"]["model"] == bench.hash else {}
    given = {"guidance": args.guidance, "steps": args.steps}
    return {name: found.get(name) if value is None else value for name, value in given.items()}


def measured(bench: Bench, args: argparse.Namespace) -> None:
    """Run the parts and print their tables."""
    tables = {}
    if "curves" in args.parts:
        asked = (args.curve_guidance, args.curve_steps, args.curve_count, args.curve_seeds)
        tables["curves"] = curves.table(curves.measure(bench, *asked))
    bench.settings = settled(bench, args)
    own = bench.about.get("own", {})
    parts = {
        "fidelity": lambda: fidelity.table(fidelity.measure(bench, args.seeds), own),
        "styles": lambda: styles.table(styles.measure(bench)),
        "memorisation": lambda: copied.table(copied.measure(bench)),
        "alpha": lambda: clean.table(clean.measure(bench)),
        "time": lambda: timing.table(timing.measure(bench, args.repeats)),
    }
    for name, part in parts.items():
        if name in args.parts:
            tables[name] = part()
    own_words = ", ".join(f"{k} {'its own' if v is None else f'{v:g}'}" for k, v in bench.settings.items())
    print(f"Model {bench.hash[:12]}, {own_words}, seed {bench.seed}.")
    for name, words in tables.items():
        print(f"\n### {name}\n\n{words}")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a run or a model file")
    parser.add_argument("--judge", type=Path, required=True, help="the file that judge.py wrote")
    parser.add_argument("--icons", type=Path, required=True, help="the folder that prepare.py made")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=MEASURED, help="for the figures (default: beside this script)")
    parser.add_argument(
        "--scratch", type=Path, default=Path("runs/icons-drawn"), help="for samples (default: %(default)s)"
    )
    parser.add_argument("-n", "--count", type=int, default=500, help="samples of a distance, a style (default: 500)")
    parser.add_argument("--seeds", type=int, default=4, help="samples of each prompt for fidelity (default: 4)")
    parser.add_argument("--repeats", type=int, default=5, help="of the timing (default: 5)")
    parser.add_argument("--curve-guidance", type=float, nargs="+", default=[1, 1.5, 2, 3, 4, 6], metavar="WEIGHT")
    parser.add_argument("--curve-steps", type=int, nargs="+", default=[8, 12, 16, 20], metavar="STEPS")
    parser.add_argument("--curve-count", type=int, default=300, help="samples of a cell's distance (default: 300)")
    parser.add_argument("--curve-seeds", type=int, default=2, help="samples of each prompt in a cell (default: 2)")
    parser.add_argument("--guidance", type=float, help="default: what the curves chose, else the model's own")
    parser.add_argument("--steps", type=int, help="default: the same")
    parser.add_argument("--seed", type=int, default=3_000_000, help="of the first sample (default: 3000000)")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(words)
    try:
        measured(opened(args), args)
    except KakusanError as error:
        sys.exit(f"icons.py: {error}")


if __name__ == "__main__":
    main()
