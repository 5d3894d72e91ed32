"""compare: diffusion models and GANs, or several diffusion recipes, trained for equal minutes and judged alike.

Everything lies in one folder: compare.json (what is compared), network.toml (the network all share), arms/NAME/seed-K
(trainings, each with its score.json), result.json and report.html. What is finished is kept, so that the same command
goes on after an interruption.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kakusan.app.command.show import Progress, duration
from kakusan.app.judge import arms as trainings
from kakusan.app.judge import comparepage, comparewords
from kakusan.app.judge.arms import Arm, run_folder
from kakusan.app.judge.reference import Features, classifier_of, extractor_of, judgeable, reference_of
from kakusan.app.judge.scored import scored
from kakusan.app.judge.scores import Judge
from kakusan.app.train.claim import claimed
from kakusan.app.train.project import Project, open_project
from kakusan.files import write_json
from kakusan.part import KakusanError
from kakusan.training.cache import cache_root
from kakusan.training.stop import Stop

__all__ = ["Compared", "compare"]

FIXED = ("data", "overrides", "minutes", "steps", "fingerprint")  # of a comparison; arms and seeds may be added
WAIT = 2.0  # seconds between looks at what other processes have left
LEAST = 50  # samples below which no figure means anything

Tree = dict[str, Any]


@dataclass(frozen=True)
class Compared:
    """What a comparison found: ``result`` as result.json has it; no report when it was interrupted."""

    path: Path
    report: Path | None
    interrupted: bool
    result: dict[str, Any] = field(default_factory=dict)


def compare(
    data: str | Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    seeds: int = 3,
    arms: Sequence[str] = (),
    gan: Sequence[str] = ("r3", "classic"),
    out: str | Path | None = None,
    count: int = 1000,
    features: Features = "efficientnet-lite0",
    overrides: Sequence[str] = (),
    labels: str | None = None,
    fit: str | None = None,
    flip: bool | None = None,
    size: int | None = None,
    device: str = "auto",
    clock: str = "wall",
    progress: Progress | None = None,
) -> Compared:
    """Train every arm ``minutes`` long with seeds 0, 1, ..., score them alike and write what came out.

    ``arms``: axes as "schedule=linear,cosine,flow" or "training.batch=32,64"; without any, the diffusion model as
    ``kakusan.train`` plans it. ``gan``: "r3", "classic", both, or nothing. ``overrides`` hold for every diffusion arm,
    and "gan.lr=[1e-3, 1e-4]" for every GAN. ``count`` pictures of each model are compared with the real ones in the
    ``features`` of a network (a name, a weights file, or a function). ``steps`` in place of minutes: equal steps.
    ``clock``: "processor" counts minutes of processor time, which stay equal on a machine that is busy otherwise.

    Several processes may be given the same command: they share the trainings among them.
    """
    _check(minutes, steps, seeds, count, overrides)
    if clock != "wall":
        overrides = [*overrides, f"training.clock={clock}", f"gan.clock={clock}"]
    chosen = trainings.parse(arms, [g for g in gan if g != "none"])
    wanted: Tree = {"path": str(data), "labels": labels or "auto", "flip": bool(flip), "size": size}
    wanted["fit"] = fit or "crop"
    plan = {
        "kakusan": 1, "data": wanted, "arms": [a.as_dict() for a in chosen], "overrides": list(overrides),
        "minutes": minutes if minutes or steps else 10.0, "steps": steps, "seeds": seeds, "count": count,
        "features": getattr(features, "__name__", type(features).__name__) if callable(features) else str(features),
    }  # fmt: skip
    with progress or Progress() as shown, Stop() as stop:
        project = open_project(wanted | {"captions": "none"}, shown)  # the GANs read none
        judgeable(project, "compare")
        trainings.check(project, chosen, overrides)
        extract = extractor_of(features, project.domain.packed)
        folder = _begun(_folder(out, data), plan | {"fingerprint": project.cache.fingerprint}, shown)
        done = _train(folder, str(data), project, chosen, plan, device, shown, stop)
        if not done:
            return _interrupted(folder, shown)
        with claimed(folder / "scoring") as mine:
            if not mine:
                shown.note("another process writes the report")
                return Compared(folder, None, True)
            return _reported(folder, plan, chosen, project, extract, device, shown, stop)


def _reported(
    folder: Path, plan: Tree, chosen: list[Arm], project: Project, extract: Any, device: str, shown: Progress,
    stop: Stop,
) -> Compared:  # fmt: skip
    judge, against = _judge(project, extract, shown)
    found = scored(folder, chosen, plan["seeds"], plan["count"], judge, device, shown, stop)
    if found is None:
        return _interrupted(folder, shown)
    result = _result(folder, plan, project, judge, against, found)
    write_json(folder / "result.json", result)
    report = comparepage.write_report(folder, result, project)
    return Compared(folder, report, False, result)


def _check(minutes: float | None, steps: int | None, seeds: int, count: int, overrides: Sequence[str]) -> None:
    if minutes is not None and steps is not None:
        raise KakusanError(f"--minutes {minutes:g} and --steps {steps}: give one of the two")
    for name, value in (("--minutes", minutes), ("--steps", steps), ("--seeds", seeds)):
        if value is not None and not value > 0:
            raise KakusanError(f"{name} {value}: must be greater than 0")
    for text in overrides:
        if "=" not in text or text.startswith("="):
            raise KakusanError(f"unexpected argument {text!r}: write NAME=VALUE, as in training.batch=32")
        if text.startswith("data."):
            raise KakusanError(f"{text!r}: all arms share the data; use --labels and --size, or prepare another DATA")
    if count < LEAST:
        raise KakusanError(f"-n {count}: too few samples to compare models by; give at least {LEAST} (1000 is usual)")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise KakusanError("kakusan compare runs in one process: start it without torchrun")


def _folder(out: str | Path | None, data: str | Path) -> Path:
    return Path(out) if out is not None else Path("runs") / f"compare-{Path(str(data).split(':')[0]).stem or 'data'}"


def _begun(folder: Path, plan: Tree, shown: Progress) -> Path:
    """A new folder with compare.json, or the one of the same comparison, which goes on."""
    file = folder / "compare.json"
    if file.is_file():
        try:
            known = json.loads(file.read_text("utf-8"))
        except ValueError as error:
            raise KakusanError(f"{file}: damaged ({error}); choose another --out") from error
        odd = [k for k in FIXED if known.get(k) != json.loads(json.dumps(plan[k]))]
        if odd:
            raise KakusanError(f"--out {folder}: holds a comparison with other {', '.join(odd)}; choose another --out")
        shown.note(f"going on with {folder}")
        write_json(file, plan)
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise KakusanError(f"--out {folder}: exists and is no comparison; choose another --out")
    write_json(file, plan)
    return folder


def _train(
    folder: Path, data: str, project: Project, arms: list[Arm], plan: Tree, device: str, shown: Progress, stop: Stop
) -> bool:
    """Every arm with every seed, seed by seed, so that an early look has some of each; False when interrupted.

    Several processes with the same command share the work: each takes a training that no other is at.
    """
    network = folder / "network.toml"
    every = [(arm, seed) for seed in range(plan["seeds"]) for arm in arms]
    while todo := [(arm, seed) for arm, seed in every if not trainings.finished(run_folder(folder, arm, seed))]:
        trainings.share_network(run_folder(folder, *every[0]), network)
        open_now = todo if network.is_file() else every[:1]  # whose plan chooses the network
        for arm, seed in open_now:
            run = run_folder(folder, arm, seed)
            with claimed(run) as mine:
                if not mine or trainings.finished(run):
                    continue
                left = f", {duration(60 * plan['minutes'] * len(todo))} left in all" if plan["minutes"] else ""
                shown.note(f"\n{arm.name}, seed {seed} ({len(every) - len(todo) + 1} of {len(every)}{left})")
                whole = trainings.train_arm(
                    arm, run, data, project, network, minutes=plan["minutes"], steps=plan["steps"], seed=seed,
                    device=device, overrides=plan["overrides"], shown=shown, stop=stop,
                )  # fmt: skip
                if not whole:
                    return False
            break
        else:
            time.sleep(WAIT)  # the others are at all that is left
        if stop():
            return False
    return True


def _interrupted(folder: Path, shown: Progress) -> Compared:
    shown.note(f"stopped; what is finished is kept in {folder}. The same command goes on")
    return Compared(folder, None, True)


def _judge(project: Project, extract: Any, shown: Progress) -> tuple[Judge, str]:
    """The judge, and in words what it compares with: the data's test split, or the pictures trained on."""
    real = reference_of(project, shown)
    shown.note(f"comparing with {len(real.pictures):,} real pictures: {real.words}")
    classes = list(project.train.classes) if project.train.labels is not None else []
    classify = None
    if classes:
        known = classifier_of(project, shown)
        classify = lambda pictures: [classes[int(i)] for i in known.predict(pictures)]  # noqa: E731
    stamp = {"data": real.fingerprint}
    return Judge(extract, real.pictures, cache_root() / "features", classes, classify, stamp), real.words


def _without(tree: Tree, name: str) -> Tree:
    return {k: v for k, v in tree.items() if k != name}


def _result(folder: Path, plan: Tree, project: Project, judge: Judge, against: str, found: list[Tree]) -> Tree:
    """result.json: what was compared, how it was judged, every run's figures and what they say."""
    words = comparewords.story(found, plan["minutes"], plan["seeds"])
    gans = [arm for arm in found if arm["kind"] != "diffusion"]
    settings = {a["name"]: folder / a["runs"][0]["folder"] / "gan.json" for a in gans}
    shape = f"{project.domain.width} x {project.domain.height} {project.domain.mode}"
    facts = {"pictures": len(project.train), "shape": shape, "classes": len(project.facts.classes)}
    return {
        **_without(plan, "kakusan"),
        "facts": facts | {"fingerprint": project.cache.fingerprint},
        "stamp": judge.stamp,
        "against": against,
        "gans": {name: json.loads(file.read_text("utf-8")) for name, file in settings.items()},
        "arms": found,
        "words": words,
    }
