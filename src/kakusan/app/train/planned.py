"""Planned: the recipe of a new run, from the plan under what the user asked for, and what is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kakusan.app.command.show import Progress, size
from kakusan.app.judge import doctor
from kakusan.app.train import recipe as recipes
from kakusan.app.train.finetune import Way
from kakusan.app.train.project import Project
from kakusan.part import KakusanError
from kakusan.training import plan
from kakusan.training.ranks import Ranks

__all__ = ["planned", "wanted", "written"]

Tree = dict[str, Any]


def written(path: str | Path | None, overrides: Sequence[str]) -> Tree:
    """What the recipe file says, with overrides of the [data] section applied early."""
    tree = recipes.read(path) if path is not None else {}
    early = [o for o in overrides if o.startswith("data.")]
    return recipes.override({"data": {}} | tree, early) if early else tree


def planned(
    project: Project,
    said: Tree,
    overrides: Sequence[str],
    minutes: float | None,
    steps: int | None,
    seed: int | None,
    tuned: Way | None,
    device: torch.device,
    shown: Progress,
    ranks: Ranks,
) -> Tree:
    """The run's whole recipe: the plan from data, time and machine, under the user's recipe, under overrides."""
    late = [o for o in overrides if not o.startswith("data.")]
    base = {} if tuned is None else tuned.tree(project.facts, project.settings)
    asked = wanted(minutes, steps, seed)

    def overlay(tree: Tree) -> Tree:
        over = {k: v for k, v in said.items() if k != "data"}
        tree = recipes.merge(tree, base)
        if base:
            tree["model"]["defaults"] = base["model"]["defaults"]
        share = ranks.world * (2 if project.settings["keep"] else 1)
        tree["training"]["batch"] += -tree["training"]["batch"] % share
        tree = recipes.merge(tree, over)
        if "steps" in asked or "minutes" in asked:
            tree["training"] |= {"steps": None, "minutes": None}
        tree["training"] |= asked
        tree["model"]["domain"] = project.diffused.spec()
        tree = recipes.fit_ports(project.worded(recipes.override(tree, late)))
        if tree["training"].get("steps") is not None and minutes is None:
            tree["training"]["minutes"] = None
        if tree["training"]["batch"] % ranks.world:
            raise KakusanError(
                f"training.batch={tree['training']['batch']}: it needs a multiple of the {ranks.world} processes"
            )
        _same_classes(project, tree)
        return tree

    shown.note(f"timing networks on {device} ...")
    made = plan.make(
        project.facts,
        lambda n, model: project.sample_batch(n // ranks.world, device, model),
        minutes=10.0,
        steps=None,
        seed=0,
        device=device,
        overlay=overlay,
        say=lambda words: shown.note(f"  {words}"),
    )
    tree = {"data": project.settings, "model": made.model, "training": made.training}
    if tuned is not None:
        made = replace(made, warnings=[])  # how much it has to see before it draws at all it has seen
    _show_plan(project, tree, made, shown)
    return tree


def wanted(minutes: float | None, steps: int | None, seed: int | None) -> Tree:
    """What of a run's settings was asked for by name."""
    if minutes is not None and steps is not None:
        raise KakusanError(f"--minutes {minutes:g} and --steps {steps}: give one of the two")
    return {k: v for k, v in (("minutes", minutes), ("steps", steps), ("seed", seed)) if v is not None}


def _same_classes(project: Project, tree: Tree) -> None:
    """A recipe may name the classes; they have to be those of the data."""
    named = tree["model"].get("encoders", {}).get("label", {}).get("classes")
    if project.facts.classes and named is not None and list(named) != project.facts.classes:
        raise KakusanError(
            f"model.encoders.label.classes names {len(named)} classes that are not the data's "
            f"({', '.join(project.facts.classes[:6])}, ...); leave the classes out of the recipe, or use --labels none"
        )


def _adapted(tree: Tree) -> str:
    """What of the network is trained, where it is a part of it."""
    lora = tree["training"].get("adapters")
    return f", of which adapters of rank {lora['rank']} are trained" if lora else ""


def _show_plan(project: Project, tree: Tree, made: plan.Plan, shown: Progress) -> None:
    f, net = made.figures, tree["model"]["denoiser"]["net"]
    limit = tree["training"].get("minutes")
    captions = 0 if project.train.texts is None else len(project.train.texts.captioned())
    rows = {
        "data": f"{len(project.train):,} {project.facts.rows}, "
        + f"{project.domain.width} x {project.domain.height} {project.domain.mode}"
        + (f", {len(project.facts.classes)} classes" if project.facts.classes else "")
        + (f", {captions:,} with captions" if captions else "")
        + (f"; {len(project.held):,} held out" if project.held is not None else "")
        + ("" if project.latents is None else f"; in a latent of {' x '.join(map(str, project.facts.shape))}"),
        "network": f"{net['kind'].split('/')[1]}, {f['parameters'] / 1e6:.2f}M parameters" + _adapted(tree),
        "training": f"batch {tree['training']['batch']}, {tree['training']['optim']['kind'].split('/')[1]}"
        + (", augmented (told to the network, so it does not leak)" if project.augment else ""),
        "speed": f"{f['pictures_per_second']:,.0f} pictures/s",
        "length": (f"{limit:g} minute{'' if limit == 1 else 's'}, " if limit else "")
        + f"about {f['steps']:,} steps, {f['pictures_seen']:,} pictures, {f['epochs']:.1f} epochs",
        "memory": f"{size(doctor.memory_peak())} so far",
        "disk": f"{size(f['disk'])} at most",
    }
    shown.plan(rows)
    for words in made.warnings:
        shown.warn(words)
