"""Rounds: the trainings that a student consists of, one after the other, each with a recipe of its own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kakusan.app.deploy.narrower import narrower
from kakusan.app.draw import sampler
from kakusan.app.draw.loaded import Loaded
from kakusan.app.train import recipe
from kakusan.app.train.project import Project
from kakusan.checkpoint import read_info
from kakusan.conditions.guidance import Guidance
from kakusan.conditions.landing import Landing
from kakusan.distillation.imitation import DENOISING
from kakusan.distillation.meanflow import LANDING
from kakusan.distillation.teacher import WEIGHT
from kakusan.part import KakusanError
from kakusan.training import plan

__all__ = ["Wish", "planned"]

MINUTES = 10.0
FIRST = 32  # steps of the teacher that the first halving follows, at least
Tree = dict[str, Any]
Round = tuple[str, Tree]  # the name of its folder, "" for the student's own; its recipe


@dataclass(frozen=True)
class Wish:
    """What is asked of a student."""

    method: str
    steps: int
    minutes: float | None
    guidance: float | None
    autoguidance: float | None
    overrides: Sequence[str]
    seed: int
    count: int = 0  # samples of each point of the report
    size: float | None = None  # share of the teacher's parameters, None = all
    weights: tuple[float, float] | None = None  # between which the weight of guidance is an input of the student


def planned(teacher: Loaded, project: Project, wish: Wish) -> list[Round]:
    """All rounds in their order; the time, or the steps, are shared evenly among them."""
    assert teacher.path is not None
    known = sampler.defaults(teacher.model)
    spec = copy.deepcopy(read_info(teacher.path)["spec"]) | {"weak": None}
    auto = known["autoguidance"] if wish.autoguidance is None else wish.autoguidance
    weight = known["guidance"] if wish.guidance is None else wish.guidance
    if not isinstance(weight, (int, float)):
        raise KakusanError(
            "this teacher weighs each condition by itself, which goes into no student: give one weight, --guidance 2"
        )
    guided = {
        "guidance": float(weight),
        "autoguidance": float(auto) if teacher.model.weak is not None else 1.0,
    }
    if wish.method == "guidance" and wish.weights is None and set(guided.values()) == {1.0}:
        raise KakusanError(
            "--method guidance: this teacher draws without guidance, in one evaluation a step; for a weight of its own "
            "give --guidance 2, for fewer steps another --method"
        )
    if wish.method in DENOISING:
        objective, drawn = _imitation(known, project, guided)
    else:
        objective, drawn = _METHODS[wish.method](known, wish.steps, guided)
    if wish.size is not None:
        spec["denoiser"]["net"] = narrower(spec["denoiser"]["net"], wish.size)
    if wish.weights is not None:
        _weighed(spec, wish.weights, guided["guidance"], wish.guidance is not None)
    if wish.method == "mean-flow":
        _landing(spec)
    spec["defaults"] = drawn | {"steps": wish.steps, "guidance": 1.0, "autoguidance": 1.0, "eta": 0.0}
    tree = {"data": project.settings, "model": spec, "training": _training(objective, project, wish)}
    tree = recipe.override(tree, wish.overrides)
    training = tree["training"]
    if training.get("steps") is not None:
        training["minutes"] = None
    elif training["minutes"] is None:
        training["minutes"] = MINUTES
    rounds = _halvings(tree, wish.steps) if wish.method == "progressive" else [("", tree)]
    if wish.size is not None and wish.method not in DENOISING:
        first = _imitation(known, project, guided)
        rounds.insert(0, ("shrink", _shrunk(rounds[0][1], *first, int(known["steps"]))))
    return _shared(rounds)


def _weighed(spec: Tree, weights: tuple[float, float], usual: float, asked: bool) -> None:
    """The weight of guidance as one more condition of the student, the teacher's own (or the one asked for) unless
    told otherwise."""
    low, high = weights
    encoders, net = spec["encoders"], spec["denoiser"]["net"]
    said = f"--guidance-range {low:g},{high:g}"
    if not set(encoders) - {"augment"}:
        raise KakusanError(f"{said}: this model has no conditions to be guided by; leave it out")
    if WEIGHT in encoders:
        raise KakusanError(f"{said}: this model takes the weight as an input already; distil its teacher")
    if asked and not low <= usual <= high:
        raise KakusanError(f"--guidance {usual:g}: it is the student's usual weight, and lies outside {said}")
    made = Guidance(low, high, min(max(usual, low), high))
    encoders[WEIGHT] = made.spec()
    net["vector"] = int(net.get("vector", 0)) + made.dim


def _landing(spec: Tree) -> None:
    """Where a step lands as one more condition of the student."""
    encoders, net = spec["encoders"], spec["denoiser"]["net"]
    if LANDING not in encoders:
        made = Landing()
        encoders[LANDING] = made.spec()
        net["vector"] = int(net.get("vector", 0)) + made.dim


def _consistency(known: Tree, steps: int, guided: Tree) -> tuple[Tree, Tree]:
    """The objective, and the solver and grid that draw with it."""
    objective = {"kind": "objective/consistency", "path": "teacher", **guided}
    return objective, {"solver": {"kind": "solver/ddim"}, "grid": {"kind": "grid/consistency"}}


def _mean_flow(known: Tree, steps: int, guided: Tree) -> tuple[Tree, Tree]:
    """The second of two steps is near sigma/alpha = 1: 1.2 was measured better than 3 and 6."""
    objective = {"kind": "objective/mean-flow", **guided}
    grid = {"kind": "grid/every", "base": {"kind": "grid/uniform-lam", "k_min": 0.02}, "steps": FIRST}
    return objective, {"solver": {"kind": "solver/ddim"}, "grid": grid}


def _progressive(known: Tree, steps: int, guided: Tree) -> tuple[Tree, Tree]:
    base = known["grid"]
    while base["kind"] in ("grid/learned", "grid/every"):
        base = base["base"]
    if base["kind"] in ("grid/consistency", "grid/listed"):
        base = sampler.DEFAULTS["grid"]
    first = 2 * steps
    while first < FIRST:
        first *= 2
    grid = {"kind": "grid/every", "base": base, "steps": first}
    objective = {"kind": "objective/progressive", "steps": steps, "grid": grid, **guided}
    return objective, {"solver": {"kind": "solver/ddim"}, "grid": grid}


def _imitation(known: Tree, project: Project, guided: Tree) -> tuple[Tree, Tree]:
    """Drawn as the teacher is, at the levels that it was trained at."""
    objective = {
        "kind": "objective/imitation",
        "density": {"kind": "density/log-normal", "mean": plan.noise_level(project.facts), "std": 1.4},
        "weight": {"kind": "weight/edm", "sigma_data": project.facts.sigma_data},
        **guided,
    }
    return objective, {"solver": known["solver"], "grid": known["grid"]}


def _shrunk(tree: Tree, objective: Tree, drawn: Tree, steps: int) -> Tree:
    """The round before the others of a smaller student: it learns to answer as the teacher does."""
    made = copy.deepcopy(tree)
    made["training"] |= {"objective": objective, "optim": dict(_SCRATCH)}
    made["model"]["defaults"] |= drawn | {"steps": steps}
    return made


_METHODS = {"consistency": _consistency, "mean-flow": _mean_flow, "progressive": _progressive}


_TUNED = {"kind": "optim/muon", "lr": 0.005, "lr_rest": 0.0035}  # of weights that are good already
_SCRATCH = {"kind": "optim/muon", "lr": 0.01, "lr_rest": 0.007}


def _training(objective: Tree, project: Project, wish: Wish) -> Tree:
    return {
        "kind": "training",
        "objective": objective,
        "optim": dict(_SCRATCH if wish.method == "shrink" else _TUNED),
        "batch": min(64, max(4, len(project.train))),
        "minutes": wish.minutes,
        "seed": wish.seed,
        "held_out": False,
        "evaluations": 0,
        "weak": 0.0,
        "previews": 6,
    }


def _halvings(tree: Tree, steps: int) -> list[Round]:
    """A round for every halving of the teacher's steps down to ``steps``; guidance goes in with the first."""
    objective = tree["training"]["objective"]
    grid = objective["grid"]
    first = grid.get("steps", 0) if grid["kind"] == "grid/every" else 0
    if objective["steps"] != steps:
        raise KakusanError(f"objective.steps={objective['steps']}: the student's steps are told by --steps {steps}")
    count, rest = 0, first
    while rest > steps and rest % 2 == 0:
        count, rest = count + 1, rest // 2
    if rest != steps or not count:
        raise KakusanError(
            f"objective.grid: halving {first} steps does not lead to {steps}; give a grid/every whose steps are "
            f"{2 * steps}, {4 * steps}, {8 * steps}, ..."
        )
    rounds = []
    for i in range(1, count + 1):
        made = copy.deepcopy(tree)
        here = first // 2**i
        made["training"]["objective"] |= {"steps": here} | ({"guidance": 1.0, "autoguidance": 1.0} if i > 1 else {})
        made["model"]["defaults"] |= {"steps": here, "grid": copy.deepcopy(grid)}
        rounds.append(("" if i == count else f"steps-{here}", made))
    return rounds


def _shared(rounds: list[Round]) -> list[Round]:
    """Minutes, or steps, shared evenly; only the last round shows samples on its way."""
    for name, tree in rounds:
        training = tree["training"]
        if training.get("steps") is not None:
            training["steps"] = max(1, int(training["steps"]) // len(rounds))
        else:
            training["minutes"] /= len(rounds)
        if name:
            training["previews"] = 0
    return rounds
