"""Pixels or a latent, at equal processor minutes: how far each model's samples are from real pictures.

    python benchmarks/latent.py CIFAR_ZIP --minutes 60 --autoencoder 20 --out runs/latent [--count 2000]

Four runs: an autoencoder (its PSNR on pictures kept aside is printed), a model of pixels for --minutes, one in the
latent for as long (the autoencoder's minutes not counted) and one in the latent for --minutes less the
autoencoder's (counted). The same seeds and real pictures (the test split) for all; the floor is as many training
pictures. Each is a run directory in OUT: stop it whenever you like, the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from few_steps import floor
from iconbench.kept import Kept

import kakusan
from kakusan.app.command.show import Progress
from kakusan.app.deploy import student
from kakusan.app.deploy.fewsteps import LEAST, Judge
from kakusan.checkpoint import read_info
from kakusan.part import KakusanError

Row = dict[str, Any]
ROWS = {"pixels": "pixels", "latent": "latent, its autoencoder not counted", "latent-less": "latent, counted"}


def trained(name: str, minutes: float, args: argparse.Namespace, **settings: Any) -> Path:
    """A run, trained now where it is not finished."""
    run = args.out / name
    if (run / "report.html").is_file():
        return run
    if (run / "recipe.toml").is_file():
        done = kakusan.resume(run)
    else:
        clock = [f"training.clock={args.clock}"]
        done = kakusan.train(args.data, minutes=minutes, seed=args.seed, out=run, overrides=clock, **settings)
    if done.interrupted:
        sys.exit(f"stopped in {run}; the same command goes on")
    return run


def runs(args: argparse.Namespace) -> dict[str, Path]:
    """All four, the autoencoder first."""
    left = args.minutes - args.autoencoder
    if left <= 0:
        raise KakusanError(f"--autoencoder {args.autoencoder:g}: leaves nothing of --minutes {args.minutes:g}")
    ae = trained("autoencoder", args.autoencoder, args, autoencoder=True)
    return {
        "autoencoder": ae,
        "pixels": trained("pixels", args.minutes, args),
        "latent": trained("latent", args.minutes, args, latent=ae),
        "latent-less": trained("latent-less", left, args, latent=ae),
    }


def measured(found: dict[str, Path], args: argparse.Namespace) -> dict[str, Row]:
    """A row for each model, and the floor, in OUT/latent.json."""
    hashes = {name: kakusan.load(run).info_["hash"] for name, run in found.items() if name != "autoencoder"}
    kept = Kept(args.out / "latent.json", {"models": hashes, "count": args.count, "steps": args.steps})
    shown = Progress()
    for name in ROWS:
        if name not in kept.rows or "floor" not in kept.rows:
            model = kakusan.load(found[name])
            project = student.opened(model, str(args.data), None, shown)
            judge = Judge(model, project, args.count, shown, lambda: False)
            kept.row("floor", lambda j=judge, p=project: floor(j, p, args.count))
            summary = model.info_["training"]
            about = {k: summary.get(k) for k in ("minutes", "steps", "pictures_seen", "parameters")}
            settings = {} if args.steps is None else {"steps": args.steps}
            kept.row(name, lambda j=judge, m=model, n=name, a=about, s=settings: _point(j, m, n, s) | a)
    return kept.rows


def _point(judge: Judge, model: Any, name: str, settings: Row) -> Row:
    point = judge.point(model, name, **settings)
    assert point is not None
    return point.as_dict() | {"steps_drawn": point.steps}


def table(rows: dict[str, Row]) -> str:
    least = rows["floor"]["frechet"]
    lines = [
        "| | training | pictures seen | parameters | Fréchet distance | above the floor | a sample |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, words in ROWS.items():
        r = rows[name]
        cells = [
            words, f"{r['minutes']:.1f} min", f"{r['pictures_seen']:,}", f"{r['parameters'] / 1e6:.1f}M",
            f"{r['frechet']:.1f} ({r['low']:.1f}-{r['high']:.1f})", f"{r['frechet'] - least:.1f}",
            f"{r['seconds']:.2f} s",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"Floor, as many training pictures against the same real ones: {least:.1f}."])


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="pictures with a test split, as CIFAR-10's zip")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0, help="of each model (default: 60)")
    parser.add_argument("--autoencoder", type=float, default=20.0, help="minutes of the autoencoder (default: 20)")
    parser.add_argument("--clock", choices=("processor", "wall"), default="processor")
    parser.add_argument("--count", type=int, default=2000, help="samples of each (default: 2000)")
    parser.add_argument("--steps", type=int, help="of the sampler (default: each model's own)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(words)
    try:
        if args.count < LEAST:
            raise KakusanError(f"--count {args.count}: a distance needs at least {LEAST} samples")
        found = runs(args)
        rows = measured(found, args)
        ae = read_info(found["autoencoder"] / "model.safetensors")["info"]["training"]
        print(table(rows))
        print(
            f"Autoencoder: {ae['psnr']:.1f} dB on pictures kept aside, {ae['psnr_trained']:.1f} dB on those trained on."
        )
    except KakusanError as error:
        sys.exit(f"latent.py: {error}")


if __name__ == "__main__":
    main()
