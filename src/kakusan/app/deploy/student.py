"""A student trained from a teacher: rounds of the training loop with its teacher, in a run directory of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kakusan.app import facade
from kakusan.app.command.show import Progress
from kakusan.app.deploy.distilled import report
from kakusan.app.deploy.rounds import Wish, planned
from kakusan.app.draw.loaded import Loaded, load
from kakusan.app.judge import modeldata
from kakusan.app.train import recipe, rundir
from kakusan.app.train.project import Project, project_of
from kakusan.app.train.rundir import RunDir
from kakusan.app.train.trained import Trained, go
from kakusan.catalog import build
from kakusan.checkpoint import read_info
from kakusan.core.batch import Batch
from kakusan.core.model import Model
from kakusan.domains.image import Image
from kakusan.domains.latent import seen
from kakusan.files import write_json
from kakusan.part import KakusanError
from kakusan.training import timing
from kakusan.training.ranks import ALONE
from kakusan.training.schedule import readings

__all__ = ["opened", "resume_student", "train_student"]

Tree = dict[str, Any]


def opened(loaded: Loaded, data: str, labels: str | None, shown: Progress) -> Project:
    """The data as the teacher saw it: its size, its classes, augmented where it was."""
    domain = seen(loaded.domain)
    if not isinstance(domain, Image):
        raise KakusanError(f"{loaded.path}: draws {domain.kind}; kakusan distill takes models of pictures")
    modeldata.drawing(loaded, "distill")
    recorded: Tree = {}
    file = loaded.path.parent / "recipe.toml" if loaded.path else Path()
    if file.is_file():
        recorded = {k: v for k, v in recipe.read(file).get("data", {}).items() if k in ("flip", "held_out", "labels")}
    augmented = "augment" in loaded.model.encoders
    settings = recorded | {"path": data, "fit": domain.how, "augment": augmented, "classes": loaded.classes or None}
    if labels is not None or not loaded.classes:
        settings["labels"] = labels or "none"
    natural = _natural(data, str(settings.get("labels", "auto")))
    if (natural.mode, natural.channels, natural.depth) != (domain.mode, domain.channels, domain.depth):
        raise KakusanError(
            f"{data}: its pictures are {natural.mode} of {natural.channels} channels and {natural.depth} bits, the "
            f"teacher draws {domain.mode} of {domain.channels} and {domain.depth}: give pictures of its kind"
        )
    project = project_of(loaded.domain, settings, shown)
    if loaded.classes and project.facts.classes != loaded.classes:
        raise KakusanError(
            f"{data}: its {len(project.facts.classes)} classes are not the teacher's {len(loaded.classes)} "
            f"({', '.join(loaded.classes[:4])}, ...); give the teacher's training pictures"
        )
    return project


def _natural(data: str, labels: str) -> Image:
    from kakusan.training.source import open_source

    return Image.fit(list(open_source(data, labels=labels).sample(64)))


def train_student(
    teacher: Loaded, project: Project, wish: Wish, run: RunDir, shown: Progress, begun: dict[str, float]
) -> Trained:
    """Plan, write the recipes, train; the run directory is what training makes, with a folder for each round before
    the last."""
    assert teacher.path is not None
    rounds = planned(teacher, project, wish)
    for _, tree in rounds:  # what they refuse, they refuse before anything of the run is written
        build(tree["training"], "training")
        with torch.device("meta"):
            build(tree["model"], "model")
    _settle(teacher, project, rounds, shown)
    objective = rounds[0][1]["training"]["objective"]
    distilled = {
        "method": wish.method,
        "steps": wish.steps,
        "count": wish.count,
        "teacher": str(teacher.path.resolve()),
        "hash": teacher.info_["hash"],
        "guidance": objective["guidance"],
        "autoguidance": objective["autoguidance"],
        "rounds": [name for name, _ in rounds if name],
    }
    note = "kakusan distill: everything that decides this run, beside its teacher (environment.json)."
    about = {"device": str(teacher.device), "data": project.cache.fingerprint, "from": distilled["teacher"]}
    for name, tree in rounds:
        here = RunDir(run.path / name)
        here.path.mkdir(exist_ok=True)
        recipe.write(here.recipe, tree, note)
        told = distilled | ({"within": run.path.name} if name else {})
        write_json(here.environment, rundir.environment() | about | {"processes": 1, "distilled": told})
    return _trained(teacher, project, run, distilled, shown, begun)


def _settle(teacher: Loaded, project: Project, rounds: list[tuple[str, Tree]], shown: Progress) -> None:
    """Precision and convolutions, as the last round's few steps were faster; the others have its network."""

    def sample(count: int, model: Model) -> Batch:
        return project.sample_batch(count, teacher.device, model)

    last = rounds[-1][1]["training"]
    timing.settle(rounds[-1][1], sample, teacher.device, teacher.model, shown.note)
    for _, tree in rounds[:-1]:
        for key in ("precision", "convolution"):
            if key in last:
                tree["training"].setdefault(key, last[key])


def resume_student(run: RunDir, tree: Tree, about: Tree, shown: Progress, begun: dict[str, float]) -> Trained:
    """Go on with an interrupted student exactly as it would have gone on, or with the report it still lacks."""
    if "within" in about["distilled"]:  # a round is part of the student in the folder above
        run = rundir.existing(run.path.resolve().parent)
        tree, about = recipe.read(run.recipe), json.loads(run.environment.read_text("utf-8"))
    distilled = about["distilled"]
    if read_info(rundir.find_model(distilled["teacher"]))["hash"] != distilled["hash"]:
        raise KakusanError(
            f"{distilled['teacher']}: is no longer the teacher that {run.path} began with; put it back as it was"
        )
    teacher = load(distilled["teacher"], str(about.get("device", "auto")))
    project = project_of(teacher.domain, tree["data"], shown)
    facade.same_data(run, tree, about, project)
    done = _trained(teacher, project, run, distilled, shown, begun)
    if not done.interrupted and distilled["count"]:
        made = report(teacher, project, distilled, run, shown)
        return replace(done, interrupted=made.interrupted)
    return done


def _trained(
    teacher: Loaded, project: Project, run: RunDir, distilled: Tree, shown: Progress, begun: dict[str, float]
) -> Trained:
    """Every round that is not finished yet, from the weights of the one before; a halving follows that one too."""
    names = [*distilled.get("rounds", ()), ""]
    start, followed = distilled["teacher"], teacher
    done = Trained(run.path, run.model, run.report, False)
    for name in names:
        here = RunDir(run.path / name)
        if not (here.model.is_file() and here.report.is_file()):
            if len(names) > 1:
                shown.note(f"round {names.index(name) + 1} of {len(names)}" + (f": {name}" if name else ""))
            again = (here.path / "state").exists()
            done = go(
                here, project, recipe.read(here.recipe), teacher.device, shown, again, begun, start, ALONE, False,
                followed.model, {"distilled": distilled},
            )  # fmt: skip
            if done.interrupted:
                return done
            begun = readings()
        if name:
            start = str(here.model)
        if name.startswith("steps-"):
            followed = load(here.model, str(teacher.device))
    return done
