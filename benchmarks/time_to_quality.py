"""How good after how many minutes: kakusan against Diffusers' U-Net, twice, and denoising-diffusion-pytorch.

    python benchmarks/time_to_quality.py prepare fashion FOLDER --data DATA     # once for each data set
    python benchmarks/time_to_quality.py all --data DATA --out OUT --ddpm-python PYTHON
    python benchmarks/time_to_quality.py score --data DATA --out OUT
    python benchmarks/time_to_quality.py table --out OUT --into docs/explanation/quality.md
    python benchmarks/time_to_quality.py plot --out OUT --into docs/pictures

The same minutes, data and machine for all; each is sampled by its own fast sampler. What is measured and how:
docs/explanation/quality.md; how to set up the environments: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from quality.plan import SYSTEMS, Run, read_plan  # noqa: E402

PLAN = HERE / "quality" / "plan.toml"


def go(
    run: Run,
    data: Path,
    out: Path,
    ddpm_python: str | None,
    samples: int,
    steps: int | None = None,
    network: Sequence[str] = (),
) -> None:
    """One run, in this process or, for the system of the second environment, in that one's Python."""
    train = data / f"{run.data}-train.npz"
    if not train.is_file():
        raise SystemExit(f"{train} is missing: make it with prepare {run.data} SOURCE --data {data}")
    folder = out / run.name
    if (folder / "row.json").is_file():
        print(f"{run.name} is done")
        return
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run left
    folder.mkdir(parents=True)
    if run.system == "ddpm-pytorch":
        if not ddpm_python:
            raise SystemExit("ddpm-pytorch needs --ddpm-python: the Python of its own environment")
        command = [ddpm_python, "-m", "quality.peer_ddpm", "--train", train.resolve(), "--out", folder.resolve()]
        command += ["--data", run.data, "--minutes", run.minutes, "--seed", run.seed, "--samples", samples]
        command += ["--steps", steps] if steps else []
        environment = os.environ | {"PYTHONPATH": str(HERE.resolve()), "TQDM_DISABLE": "1"}
        subprocess.run([str(word) for word in command], check=True, env=environment)
        return
    from quality import record

    given = (train, run.minutes, run.seed, folder, samples, steps)
    if run.system.startswith("kakusan"):
        from quality import ours

        if steps and not network:
            raise SystemExit(
                f"{run.system} --steps needs --network: the plan chooses one by the minutes, not by the steps"
            )
        facts = ours.run(*given, network, classes=run.system == "kakusan-classes")
    else:
        peer = import_module("quality.peer_diffusers" + "_tuned" * (run.system == "diffusers-tuned"))
        facts = peer.run(*given)
    about = {"system": run.system, "data": run.data, "minutes": run.minutes, "seed": run.seed}
    record.write(folder, facts, **about, counted=steps is not None)


def go_all(plan: Path, seeds: list[int] | None, data: Path, out: Path, ddpm_python: str | None) -> int:
    """Every run of a plan that is not done, one after another, each in a fresh process; goes on after a failure."""
    runs = [r for r in read_plan(plan) if seeds is None or r.seed in seeds]
    todo = [r for r in runs if not (out / r.name / "row.json").is_file()]
    minutes = sum(r.minutes for r in todo)
    print(f"{len(runs) - len(todo)} runs are done, {len(todo)} to do: {minutes:g} minutes and sampling")
    failed = 0
    for i, run in enumerate(todo):
        print(f"{time.strftime('%H:%M')} {i + 1}/{len(todo)} {run.name}", flush=True)
        command = [sys.executable, __file__, "run", run.system, run.data, "--minutes", f"{run.minutes:g}"]
        command += ["--seed", str(run.seed), "--data", str(data), "--out", str(out)]
        command += ["--ddpm-python", ddpm_python] if ddpm_python else []
        out.mkdir(parents=True, exist_ok=True)
        with (out / f"{run.name}.log").open("w") as log:
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
        if code:
            failed += 1
            print(f"  failed ({code}): see {out / run.name}.log", flush=True)
    return 1 if failed else 0


def results(out: Path) -> list:
    """The scored lines of a folder."""
    import json

    from quality.record import read_rows
    from quality.table import lines

    file = out / "scores.json"
    if not file.is_file():
        raise SystemExit(f"{file} is missing: score first")
    return lines(read_rows(out), json.loads(file.read_text("utf-8")))


def draw(out: Path, into: Path) -> None:
    """quality-DATA.svg and quality-DATA-MINUTESmin.png for everything that is scored."""
    from quality.plot import curves, sheet

    found = results(out)
    into.mkdir(parents=True, exist_ok=True)
    for data in dict.fromkeys(line.data for line in found):
        file = into / f"quality-{data}.svg"
        file.write_text(curves(found, data), "utf-8")
        print(file)
    for data, minutes in dict.fromkeys((line.data, line.minutes) for line in found):
        file = into / f"quality-{data}-{minutes:g}min.png"
        sheet(out, found, data, minutes).save(file)
        print(file)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    prepare = verbs.add_parser("prepare", help="write a data set's train and test pictures to files")
    prepare.add_argument("name")
    prepare.add_argument("source", help="IDX files, or a zip or folder with train/ and test/")
    one = verbs.add_parser("run", help="one system, trained and sampled once")
    one.add_argument("system", choices=SYSTEMS)
    one.add_argument("name", help="the data set, as prepared")
    one.add_argument("--minutes", type=float, required=True)
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--steps", type=int, help="count steps instead of time: as many as the minutes gave when quiet")
    one.add_argument(
        "--network",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="kakusan's with --steps: what its plan took when quiet (width=80)",
    )
    one.add_argument("--samples", type=int, default=1000, help="fewer for a trial, which no table shows")
    every = verbs.add_parser("all", help="every run of a plan that is not done")
    every.add_argument("--plan", type=Path, default=PLAN)
    every.add_argument("--seeds", type=int, nargs="+", help="only these seeds")
    score = verbs.add_parser("score", help="floors, and distances of all stored samples")
    score.add_argument("--floors", nargs="*", default=[], help="data sets to measure the floor of, runs or not")
    score.add_argument("--again", action="store_true", help="measure everything again")
    table = verbs.add_parser("table", help="the results in Markdown")
    plot = verbs.add_parser("plot", help="curves and samples as pictures")
    for verb in (prepare, one, every, score):
        verb.add_argument("--data", type=Path, required=True, help="folder of prepared data")
    for verb in (one, every, score, table, plot):
        verb.add_argument("--out", type=Path, required=True, help="folder of the runs")
    for verb in (one, every):
        verb.add_argument("--ddpm-python", help="Python of the environment with denoising-diffusion-pytorch")
    table.add_argument("--into", type=Path, help="a page to put the table into, between its marks")
    plot.add_argument("--into", type=Path, required=True, help="folder for the pictures")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    try:
        if args.verb == "prepare":
            from quality.data import prepare

            for split, shape in prepare(args.name, args.source, args.data).items():
                print(f"{split}: {shape[0]:,} pictures of {shape[2]} x {shape[1]} x {shape[3]}")
        elif args.verb == "run":
            go(
                Run(args.system, args.name, args.minutes, args.seed),
                args.data,
                args.out,
                args.ddpm_python,
                args.samples,
                args.steps,
                args.network,
            )
        elif args.verb == "all":
            return go_all(args.plan, args.seeds, args.data, args.out, args.ddpm_python)
        elif args.verb == "score":
            from quality.scoring import score

            score(args.data, args.out, args.floors, args.again)
        elif args.verb == "table":
            from quality.table import inserted, markdown

            words = markdown(results(args.out))
            if args.into:
                args.into.write_text(inserted(args.into.read_text("utf-8"), words), "utf-8")
            else:
                print(words)
        else:
            draw(args.out, args.into)
    except tomllib.TOMLDecodeError as error:
        raise SystemExit(f"{args.plan}: {error}") from None
    return 0


if __name__ == "__main__":
    sys.exit(main())
