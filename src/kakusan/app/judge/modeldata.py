"""The pictures that go with a model: those it is judged by, brought to its size, and those it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kakusan.app.command.show import Progress
from kakusan.app.draw.loaded import Loaded
from kakusan.app.judge.reference import judgeable
from kakusan.app.train import recipe as recipes
from kakusan.app.train.project import Project, project_of
from kakusan.domains.image import Image
from kakusan.domains.latent import seen
from kakusan.part import KakusanError
from kakusan.training.captions import PROMPT
from kakusan.training.source import open_source

__all__ = ["drawing", "opened", "same", "trained_on"]

Tree = dict[str, Any]


def drawing(loaded: Loaded, verb: str) -> None:
    """Refuses a model that changes pictures: without one to change it does what it was hardly trained for."""
    if any(loaded.model.encoder(name).leading for name in loaded.model.encoders):
        raise KakusanError(
            f"{loaded.path}: changes pictures as it is told (kakusan edit MODEL IMAGE --instruct ...); kakusan {verb} "
            "takes models that draw"
        )


def opened(loaded: Loaded, data: str, labels: str, shown: Progress) -> tuple[Project, str]:
    """The data at the model's size, and in words what was done to bring it there (empty where nothing was)."""
    drawing(loaded, "evaluate")
    domain = seen(loaded.domain)
    if not isinstance(domain, Image):
        raise KakusanError(
            f"{loaded.path}: its samples are {domain.kind}, no pictures; kakusan evaluate judges pictures"
        )
    source = open_source(data, labels=labels)
    some = list(source.sample(256))
    natural = Image.fit(some)
    if (natural.mode, natural.channels) != (domain.mode, domain.channels):
        raise KakusanError(
            f"{data}: its pictures are {natural.mode} ({natural.channels} channels), the model draws {domain.mode} "
            f"({domain.channels}): give pictures of the model's kind"
        )
    if natural.depth != domain.depth:
        raise KakusanError(f"{data}: its pictures have {natural.depth} bits, the model draws {domain.depth}")
    sides = {record.data.shape[:2] for record in some}
    small = [side for side in sides if side[0] < domain.height or side[1] < domain.width]
    if small:
        raise KakusanError(
            f"{data}: has pictures of {small[0][1]} x {small[0][0]} pixels, smaller than the model's "
            f"{domain.width} x {domain.height}: enlarging them would judge blur; give larger ones"
        )
    words = ""
    if sides != {domain.size}:
        words = f"data: {domain.how} to {domain.width} x {domain.height}; "
        shown.note(f"{data}: pictures of other sizes are brought to the model's ({words.strip(' ;')})")
    settings = {"path": data, "labels": labels if loaded.classes or labels != "auto" else "none", "fit": domain.how}
    settings["classes"] = loaded.classes or None
    settings["captions"] = "auto" if PROMPT in loaded.model.encoders else "none"
    project = project_of(loaded.domain, settings, shown)
    judgeable(project, "evaluate")
    return project, words


def same(project: Project, loaded: Loaded) -> bool:
    """Whether a model was trained on these pictures."""
    return bool(project.cache.fingerprint == loaded.info_.get("data", {}).get("fingerprint"))


def trained_on(loaded: Loaded, project: Project, named: str | None, shown: Progress) -> tuple[Project | None, str]:
    """The data that the model was trained on, split as in its run, or why it is not known."""
    run = loaded.path.parent if loaded.path else Path()
    recorded: Tree = {}
    if (run / "recipe.toml").is_file():
        recorded = dict(recipes.read(run / "recipe.toml").get("data", {}))
    recorded["classes"] = loaded.classes or None
    if named is not None:
        recorded["path"] = named
    elif same(project, loaded):
        recorded["path"] = project.settings["path"]
    if not recorded.get("path"):
        return (
            None,
            f"{project.settings['path']} is not what the model was trained on; name that with --trained-on DATA",
        )
    try:
        found = project_of(loaded.domain, recorded, shown)
    except (KakusanError, OSError) as error:
        if named is not None:
            raise
        return None, f"{recorded['path']}: {error}; name the training pictures with --trained-on DATA"
    if not same(found, loaded):
        words = f"{recorded['path']} is not, or no longer, what the model was trained on"
        if named is not None:
            raise KakusanError(f"--trained-on {words}")
        return None, words
    return found, ""
