"""A student trained from a teacher: the training loop with the consistency objective, in a run directory of its own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kakusan.app import facade, recipe, rundir, sampler
from kakusan.app.loaded import Loaded, load
from kakusan.app.project import Project, project_of
from kakusan.app.rundir import RunDir
from kakusan.app.show import Progress
from kakusan.checkpoint import read_info
from kakusan.domains.image import Image
from kakusan.domains.latent import seen
from kakusan.files import write_json
from kakusan.part import KakusanError
from kakusan.training.ranks import ALONE

__all__ = ["Wish", "opened", "resume_student", "train_student"]

MINUTES = 10.0
Tree = dict[str, Any]


@dataclass(frozen=True)
class Wish:
    """What is asked of a student."""

    steps: int
    minutes: float | None
    guidance: float | None
    autoguidance: float | None
    overrides: Sequence[str]
    seed: int
    count: int = 0  # samples of each point of the report


def opened(loaded: Loaded, data: str, labels: str | None, shown: Progress) -> Project:
    """The data as the teacher saw it: its size, its classes, augmented where it was."""
    domain = seen(loaded.domain)
    if not isinstance(domain, Image):
        raise KakusanError(f"{loaded.path}: draws {domain.kind}; kakusan distill takes models of pictures")
    recorded: Tree = {}
    file = loaded.path.parent / "recipe.toml" if loaded.path else Path()
    if file.is_file():
        recorded = {k: v for k, v in recipe.read(file).get("data", {}).items() if k in ("flip", "held_out", "labels")}
    augmented = "augment" in loaded.model.encoders
    settings = recorded | {"path": data, "fit": domain.how, "augment": augmented}
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
) -> facade.Trained:
    """Plan, write the recipe, train; the run directory is what training makes."""
    assert teacher.path is not None
    tree = _planned(teacher, project, wish)
    note = "kakusan distill: everything that decides this run, beside its teacher (environment.json)."
    recipe.write(run.recipe, tree, note)
    objective = tree["training"]["objective"]
    distilled = {
        "method": "consistency",
        "steps": wish.steps,
        "count": wish.count,
        "teacher": str(teacher.path.resolve()),
        "hash": teacher.info_["hash"],
        "guidance": objective["guidance"],
        "autoguidance": objective["autoguidance"],
    }
    about = {"device": str(teacher.device), "data": project.cache.fingerprint, "from": distilled["teacher"]}
    write_json(run.environment, rundir.environment() | about | {"processes": 1, "distilled": distilled})
    return _trained(teacher, project, tree, run, distilled, False, shown, begun)


def resume_student(run: RunDir, tree: Tree, about: Tree, shown: Progress, begun: dict[str, float]) -> facade.Trained:
    """Go on with an interrupted student exactly as it would have gone on, or with the report it still lacks."""
    from kakusan.app.distil import report

    distilled = about["distilled"]
    if read_info(rundir.find_model(distilled["teacher"]))["hash"] != distilled["hash"]:
        raise KakusanError(
            f"{distilled['teacher']}: is no longer the teacher that {run.path} began with; put it back as it was"
        )
    teacher = load(distilled["teacher"], str(about.get("device", "auto")))
    project = project_of(teacher.domain, tree["data"], shown)
    facade.same_data(run, tree, about, project)
    done = facade.Trained(run.path, run.model, run.report, False)
    if not (run.model.is_file() and run.report.is_file()):
        done = _trained(teacher, project, tree, run, distilled, True, shown, begun)
    if not done.interrupted and distilled["count"]:
        made = report(teacher, project, int(distilled["steps"]), int(distilled["count"]), run, shown)
        return replace(done, interrupted=made.interrupted)
    return done


def _trained(
    teacher: Loaded,
    project: Project,
    tree: Tree,
    run: RunDir,
    distilled: Tree,
    again: bool,
    shown: Progress,
    begun: dict[str, float],
) -> facade.Trained:
    """The training loop, with a teacher."""
    return facade.go(
        run, project, tree, teacher.device, shown, again, begun, distilled["teacher"], ALONE, False, teacher.model,
        {"distilled": distilled},
    )  # fmt: skip


def _planned(teacher: Loaded, project: Project, wish: Wish) -> Tree:
    """The student's recipe: the teacher's network, learning the ends of its guided trajectories."""
    assert teacher.path is not None
    known = sampler.defaults(teacher.model)
    spec = copy.deepcopy(read_info(teacher.path)["spec"]) | {"weak": None}
    spec["defaults"] = {
        "solver": {"kind": "solver/ddim"},
        "grid": {"kind": "grid/consistency"},
        "steps": wish.steps,
        "guidance": 1.0,
        "autoguidance": 1.0,
        "eta": 0.0,
    }
    auto = known["autoguidance"] if wish.autoguidance is None else wish.autoguidance
    objective = {
        "kind": "objective/consistency",
        "path": "teacher",
        "guidance": float(known["guidance"] if wish.guidance is None else wish.guidance),
        "autoguidance": float(auto) if teacher.model.weak is not None else 1.0,
    }
    training = {
        "kind": "training",
        "objective": objective,
        "optim": {"kind": "optim/muon", "lr": 0.005, "lr_rest": 0.0035},
        "batch": min(64, max(4, len(project.train))),
        "minutes": wish.minutes,
        "seed": wish.seed,
        "held_out": False,
        "evaluations": 0,
        "weak": 0.0,
        "previews": 6,
    }
    tree = recipe.override({"data": project.settings, "model": spec, "training": training}, wish.overrides)
    if tree["training"].get("steps") is not None:
        tree["training"]["minutes"] = None
    elif tree["training"]["minutes"] is None:
        tree["training"]["minutes"] = MINUTES
    return tree
