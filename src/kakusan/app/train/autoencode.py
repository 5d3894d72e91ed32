"""The verb ``train --autoencoder``: an autoencoder trained by the same loop, and the file that ``--latent`` takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kakusan.app.command.show import Progress
from kakusan.app.train import recipe, reconstructed, rundir, trained
from kakusan.app.train.chronicle import Budget, Chronicle
from kakusan.app.train.latent import read_latent
from kakusan.app.train.project import Project
from kakusan.app.train.rundir import RunDir
from kakusan.app.train.trained import Trained
from kakusan.catalog import build
from kakusan.checkpoint import save_model
from kakusan.core.autoencoder import Autoencoder
from kakusan.core.objective import Objective
from kakusan.domains.latent import Latent
from kakusan.files import write_json
from kakusan.part import KakusanError, Spec
from kakusan.training import timing
from kakusan.training.hooks import Result
from kakusan.training.optim import Optim
from kakusan.training.ranks import Ranks
from kakusan.training.settings import Training
from kakusan.training.stop import Stop

__all__ = ["SETTINGS", "begin", "go"]

Tree = dict[str, Any]
SETTINGS = {"labels": "none", "captions": "none", "augment": False}  # an autoencoder sees the pictures and no more
BATCH = 16
# of (0.01, 0.003), (0.02, 0.003) and (0.02, 0.01) the last was best on icons of 32 pixels: PSNR 17.8, 19.5 and 20.3 dB
# after 90 steps, one seed each
OPTIM: Spec = {"kind": "optim/muon", "lr": 0.02, "lr_rest": 0.01}
RESERVE = 8.0  # seconds for the latent's scale, the reconstructions and the report
SCALED = 2048  # training pictures that the scale of the latent is measured on


def begin(
    run: RunDir,
    project: Project,
    written: Tree,
    overrides: Sequence[str],
    wanted: Mapping[str, Any],
    start: str | Path | None,
    device: torch.device,
    shown: Progress,
    begun: dict[str, float],
    ranks: Ranks,
) -> Trained:
    """Plan a run, write down what decides it, and train; ``wanted``: minutes or steps, and the seed."""
    tree = ranks.lead(lambda: _planned(project, written, overrides, wanted, start, ranks))
    if ranks.first:
        _show(project, tree, device, shown)
        note = "kakusan train --autoencoder: everything that decides this run. Train again with --recipe."
        recipe.write(run.recipe, tree, note)
        about = {"device": str(device), "data": project.cache.fingerprint, "from": str(start) if start else None}
        write_json(run.environment, rundir.environment() | about | {"processes": ranks.world, "autoencoder": True})
    return go(run, project, tree, device, shown, False, begun, start, ranks)


def _planned(
    project: Project,
    written: Tree,
    overrides: Sequence[str],
    wanted: Mapping[str, Any],
    start: str | Path | None,
    ranks: Ranks,
) -> Tree:
    """The run's whole recipe: what the data decide, under the network to start from, the recipe file, overrides."""
    domain = project.domain
    net: Spec = {"kind": "net/autoencoder", "channels": domain.channels, "latent": 4 if domain.channels == 1 else 8}
    if start is not None:
        net = read_latent(start, flag="--from").autoencoder.spec()
    batch = min(BATCH, max(4, len(project.train)))
    tree: Tree = {
        "data": project.settings,
        "model": {"kind": Latent.kind, "domain": domain.spec(), "autoencoder": net},
        "training": {
            "kind": "training",
            "objective": {"kind": "objective/autoencoding", "coverage": domain.mode == "RGBA"},
            "optim": OPTIM,
            "batch": batch + -batch % ranks.world,
            "minutes": 10.0,
            "steps": None,
            "seed": 0,
            "weak": 0.0,
            "previews": 8,
        },
    }
    tree = recipe.merge(tree, {k: v for k, v in written.items() if k != "data"})
    if {"minutes", "steps"} & wanted.keys():
        tree["training"] |= {"minutes": None, "steps": None}
    tree["training"] |= wanted
    tree["model"]["domain"] = domain.spec()
    tree = recipe.override(tree, [o for o in overrides if not o.startswith("data.")])
    if tree["training"].get("steps") is not None and "minutes" not in wanted:
        tree["training"]["minutes"] = None
    if tree["training"]["batch"] % ranks.world:
        raise KakusanError(f"training.batch={tree['training']['batch']}: give a multiple of {ranks.world} processes")
    _built(tree)  # what does not fit is said before a run is begun
    return tree


def _built(tree: Tree) -> tuple[Autoencoder, Training]:
    """The autoencoder with its first weights, and how it is trained."""
    training = build(tree["training"], "training")
    assert isinstance(training, Training)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        latent = build(tree["model"], "model")
    if not isinstance(latent, Latent):
        raise KakusanError(f"model.kind is {tree['model']['kind']!r}: --autoencoder trains a {Latent.kind!r}")
    return latent.autoencoder.requires_grad_(True), training


def _show(project: Project, tree: Tree, device: torch.device, shown: Progress) -> None:
    net, training = _built(tree)
    objective, optim = training.objective, training.optim
    assert isinstance(objective, Objective) and isinstance(optim, Optim)
    batch = project.sample_batch(training.batch, device)
    shape = (net.latent, *(n // net.factor for n in project.domain.size))
    seconds = timing.time_steps(net.to(device).to(memory_format=torch.channels_last), objective, optim, batch)  # type: ignore[call-overload]
    numbers = math.prod(batch.x0.shape[1:])
    shown.plan(
        {
            "data": f"{len(project.train):,} pictures, {project.domain.width} x {project.domain.height} "
            + project.domain.mode
            + (f"; {len(project.held):,} held out" if project.held is not None else ""),
            "network": f"autoencoder, {sum(p.numel() for p in net.parameters()) / 1e6:.2f}M parameters",
            "latent": f"{shape[2]} x {shape[1]} with {shape[0]} channels, {numbers / math.prod(shape):.0f} times fewer "
            "numbers",
            "speed": f"{training.batch / seconds:,.0f} pictures/s",
            "length": f"{training.minutes:g} minutes" if training.minutes else f"{training.steps:,} steps",
        }
    )


def go(
    run: RunDir,
    project: Project,
    tree: Tree,
    device: torch.device,
    shown: Progress,
    again: bool,
    begun: dict[str, float],
    start: str | Path | None,
    ranks: Ranks,
) -> Trained:
    """Train, and finish: the latent's scale, the file, reconstructions, the report."""
    net, training = _built(tree)
    if start is not None and ranks.first and not (run.path / "state").exists():
        _take_weights(net, start)
    with Stop() as stop:
        hooks = _Hooks(run, project, shown, Budget(0, 0, RESERVE), stop)
        result = trained.looped(net, training, hooks, device, again, begun, ranks)
        if result.interrupted:
            return Trained(run.path, None, None, True, first=ranks.first)
        done = Trained(run.path, run.model, run.report, False, first=False)
        if ranks.first:
            done = _finish(run, project, training, result, hooks, shown)
        ranks.wait()
        return done


def _take_weights(net: Autoencoder, start: str | Path) -> None:
    """Another autoencoder's weights, all of them."""
    try:
        net.load_state_dict(read_latent(start, flag="--from").autoencoder.state_dict())
    except RuntimeError as error:
        raise KakusanError(f"--from {start}: its weights do not fit this network; leave the network to it") from error


class _Hooks(Chronicle):
    """The progress line, and reconstructions of the same pictures over time."""

    def on_preview(self, step: int, model: Any) -> None:
        made = reconstructed.pairs(Latent(self.project.domain, model), self.project, 16)
        self.run.samples.mkdir(exist_ok=True)
        reconstructed.save(made, self.run.samples / f"step-{step:06d}.png")


def _finish(
    run: RunDir, project: Project, training: Training, result: Result, hooks: Chronicle, shown: Progress
) -> Trained:
    """The scale of the latent, the model file, what it makes of pictures kept aside, the report."""
    shown.note("measuring the latent, reconstructing pictures kept aside, writing the report ...")
    latent = Latent(project.domain, result.model)  # type: ignore[arg-type]
    with torch.no_grad():
        latent = latent.measured(*latent.moments(project.some(SCALED))).eval()
    held = reconstructed.measure(latent, project, held=True)
    known = reconstructed.measure(latent, project, held=False)
    summary = trained.summarised(project, training, result, hooks) | {
        "psnr": held.psnr,
        "psnr_trained": known.psnr,
        "latent": list(latent.blank(1)[0]),
    }
    data = {"fingerprint": project.cache.fingerprint, "pictures": len(project.train)}
    save_model(run.model, latent, {"data": data, "training": summary, "licence": ""})
    made = reconstructed.pairs(latent, project, 16)
    reconstructed.save(made, run.path / "grid.png")
    report = reconstructed.write_report(run, project, latent, held, known, summary)
    return Trained(run.path, run.model, report, False, [], summary)
