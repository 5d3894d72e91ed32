"""Which text encoder serves a model of the icons best: the same latent model with each, for the same processor minutes.

    pip install -e ".[words]" && pip install --no-deps wordllama==0.4.0.post1
    python benchmarks/encoders.py ICONS --latent runs/ae --judge judge.safetensors --minutes 30 --out runs/encoders

The arms (encoder_arms.py) differ in the encoder alone. Compared are the losses on held-out concepts and styles, on the
same pictures, captions, noise and noise levels for all, so that differences have small intervals (95%, over concepts);
the same without words, which says how much the words are worth; and the retrieval of prompts by the judge.
Minutes hold what each encoder makes before the first step. Each arm is a run directory OUT/ARM-seed-N: stop it whenever
you like, the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import iconbench
import numpy as np
import torch
from encoder_arms import ARMS, overrides, register
from iconbench.kept import Kept
from judging.icons import KINDS, prompts
from judging.scoring import drawn, ranks, told
from judging.towers import Judge, read

import kakusan
from kakusan.app.command.show import Progress
from kakusan.app.draw.loaded import Loaded
from kakusan.app.train import recipe
from kakusan.app.train.project import project_of
from kakusan.catalog import build
from kakusan.core.objective import Denoising
from kakusan.files import replacing, write_json
from kakusan.part import KakusanError

SPLITS = {"test-concepts": "held-out concepts", "test-styles": "held-out styles"}
COMMON = (  # of the trial runs that chose the route
    "denoiser.net.width=64", "denoiser.net.mults=[1,2,3]", "denoiser.net.attention=[1,2]",
    "objective.density.mean=0.5", "training.weak=0", "defaults.autoguidance=1",
)  # fmt: skip
BATCH = 64
NOISE = 7  # the seed of the noise that losses are measured with
Z = 1.959964
Row = dict[str, Any]


def trained(arm: str, seed: int, args: argparse.Namespace) -> Path:
    """The arm's run, trained now where it is not finished."""
    run = args.out / f"{arm}-seed-{seed}"
    if (run / "report.html").is_file():
        return run
    if (run / "recipe.toml").is_file():
        done = kakusan.resume(run)
    else:
        words = [*COMMON, f"training.clock={args.clock}", *overrides(arm), *args.override]
        done = kakusan.train(
            args.icons, latent=args.latent, labels="style", minutes=args.minutes, seed=seed, out=run, overrides=words
        )
    if done.interrupted:
        sys.exit(f"stopped in {run}; the same command goes on")
    return run


@torch.no_grad()
def losses(model: Loaded, objective: Denoising, path: str, repeats: int) -> dict[str, np.ndarray]:
    """Mean losses of a split's pictures (n,) float64 with their words and without, over ``repeats`` passes."""
    settings = {"path": path, "labels": "style", "held_out": 0, "augment": False}
    project = project_of(model.domain, settings, Progress(quiet=True))
    if project.train.classes != tuple(model.classes or model.model.encoder("style").names):
        raise KakusanError(f"{path}: its styles {project.train.classes} are not the model's")
    count = len(project.train)
    batches = project.batches(min(BATCH, count), NOISE, captions=project.captions(model.model))
    sums, seen = {"words": np.zeros(count), "none": np.zeros(count)}, np.zeros(count)
    step = 0
    while seen.min() < repeats:
        batch, rng, rows = batches.at(step), batches.rng(step), batches.rows(step)
        bare = replace(batch, inputs={k: v for k, v in batch.inputs.items() if k != "prompt"})
        for name, some in (("words", batch), ("none", bare)):
            np.add.at(sums[name], rows, objective.terms(model.model, some, rng, step)[0].double().numpy())
        np.add.at(seen, rows, 1)
        step += 1
    batches.close()
    names = [Path(project.source.name(int(i))).stem for i in project.cache.rows]
    return {name: total / seen for name, total in sums.items()} | {"concepts": np.array(names)}


def measured(run: Path, arm: str, args: argparse.Namespace, judge: Judge) -> Row:
    """The arm's losses (as losses-SPLIT.npz in its run) and its retrieval."""
    model = kakusan.load(run)
    kept = Kept(run / "encoders.json", {
        "model": model.info_["hash"], "repeats": args.repeats, "guidance": args.guidance, "steps": args.steps,
        "count": args.count,
    })  # fmt: skip
    objective = build(recipe.read(run / "recipe.toml")["training"]["objective"] | {"dropout": 0.0}, "objective")
    assert isinstance(objective, Denoising)
    for split in SPLITS:
        file = run / f"losses-{split}.npz"
        if split not in kept.rows or not file.is_file():
            kept.rows.pop(split, None)
            found = losses(model, objective, f"{args.icons}:{split}", args.repeats)
            with replacing(file) as temporary, temporary.open("wb") as stream:
                np.savez(stream, **found)
            kept.row(split, lambda f=found: {name: float(f[name].mean()) for name in ("words", "none")})
    asked = prompts(iconbench.RECIPE / "prompts.toml")
    for kind in KINDS:
        if kind not in kept.rows:
            some = asked[kind]
            pictures = drawn(model, some, args.count, 3_000_000, guidance=args.guidance, steps=args.steps)
            kept.row(kind, lambda p=pictures, s=some: told(ranks(judge, p, [*range(len(s))] * args.count, s)))
    summary = model.info_.get("training", {})
    kept.write(arm=ARMS[arm], training={k: summary.get(k) for k in ("steps", "pictures_seen", "parameters", "minutes")})
    return kept.rows | {"training": kept.extra["training"]}


def paired(mine: np.ndarray, other: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    """Mean of ``mine - other`` with its 95% interval over ``groups`` of pictures that belong together."""
    off = mine - other
    mean = off.mean()
    _, place = np.unique(groups, return_inverse=True)
    sums = np.bincount(place, off - mean)
    half = Z * np.sqrt((sums**2).sum() * len(sums) / max(1, len(sums) - 1)) / len(off)
    return float(mean), float(mean - half), float(mean + half)


def table(found: dict[tuple[str, int], Row], out: Path) -> str:
    """A line for each arm and seed; differences are to the first arm of the same seed."""
    heads = [f"{w}: loss | less the first's, thousandths | without words" for w in SPLITS.values()]
    lines = ["| arm | seed | pictures seen | " + " | ".join([*heads, *(f"top-1, {k}" for k in KINDS)]) + " |"]
    lines.append("|---" * (3 + 3 * len(SPLITS) + len(KINDS)) + "|")
    for (arm, seed), row in found.items():
        first = next(a for a, s in found if s == seed)
        cells = [arm, f"{seed}", f"{row['training']['pictures_seen']:,}"]
        for split in SPLITS:
            mine, other = (np.load(out / f"{a}-seed-{seed}" / f"losses-{split}.npz") for a in (arm, first))
            off = [1000 * x for x in paired(mine["words"], other["words"], mine["concepts"])]
            words = "-" if arm == first else f"{off[0]:+.2f} ({off[1]:+.2f} to {off[2]:+.2f})"
            cells += [f"{row[split]['words']:.4f}", words, f"{row[split]['none']:.4f}"]
        for kind in KINDS:
            low, high = row[kind]["top1_interval"]
            cells.append(f"{100 * row[kind]['top1']:.0f}% ({100 * low:.0f}-{100 * high:.0f})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("icons", type=Path, help="the folder that prepare.py made")
    parser.add_argument("--latent", type=Path, required=True, help="the autoencoder's run or file")
    parser.add_argument("--judge", type=Path, required=True, help="the file that judge.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30.0, help="for each arm (default: 30)")
    parser.add_argument("--clock", choices=("processor", "wall"), default="processor")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--repeats", type=int, default=8, help="noise levels of each held-out picture (default: 8)")
    parser.add_argument("--guidance", type=float, default=3.0, help="of the retrieval (default: 3)")
    parser.add_argument("--steps", type=int, default=12, help="of the retrieval (default: 12)")
    parser.add_argument("-n", "--count", type=int, default=2, help="samples of each prompt (default: 2)")
    parser.add_argument("--override", nargs="*", default=[], help="more of the recipe, for all arms")
    args = parser.parse_args(words)
    register()
    try:
        judge, _ = read(args.judge)
        found = {}
        for seed in args.seeds:
            for arm in args.arms:
                found[arm, seed] = measured(trained(arm, seed, args), arm, args, judge)
        print(table(found, args.out))
        write_json(args.out / "encoders.json", {f"{arm}-seed-{seed}": row for (arm, seed), row in found.items()})
    except KakusanError as error:
        sys.exit(f"encoders.py: {error}")


if __name__ == "__main__":
    main()
