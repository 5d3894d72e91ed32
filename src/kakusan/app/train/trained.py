"""Trained: a training, from the tree that decides it to the model file and the report that it leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kakusan.app.command.show import Progress
from kakusan.app.draw import sheet
from kakusan.app.draw.loaded import Loaded, Sample, load
from kakusan.app.draw.sampled import titles
from kakusan.app.judge import doctor
from kakusan.app.judge.copying import examined
from kakusan.app.train import adapters, beginning, chronicle, keeping, runpage
from kakusan.app.train.chronicle import Budget, Chronicle
from kakusan.app.train.project import Project
from kakusan.app.train.rundir import RunDir
from kakusan.catalog import build
from kakusan.checkpoint import save_model
from kakusan.core.model import Model
from kakusan.domains.latent import Latent
from kakusan.evaluation.health import Finding, diagnose, reference_stats
from kakusan.evaluation.memorisation import Copying
from kakusan.nets.lora import factors
from kakusan.training import loop
from kakusan.training.captions import Captions
from kakusan.training.data import Batches
from kakusan.training.hooks import Result
from kakusan.training.kept import Kept, Mixed
from kakusan.training.ranks import Ranks
from kakusan.training.schedule import CLOCKS
from kakusan.training.settings import Training
from kakusan.training.stop import Stop

__all__ = ["Trained", "go", "looped", "summarised"]

Tree = dict[str, Any]
COMPARED = 20_000  # training pictures, at most, that samples are compared with


@dataclass(frozen=True)
class Trained:
    """What a training left: the model's file (None when interrupted before any), the run and what was found.

    ``first``: False in the processes that only followed the first one.
    """

    run: Path
    path: Path | None
    report: Path | None
    interrupted: bool
    findings: list[Finding] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    first: bool = True

    def load(self, device: str = "auto") -> Loaded:
        """The finished model, ready to sample."""
        return load(self.run, device)


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
    snapshots: bool,
    teacher: Model | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Trained:
    """Train, and finish: samples, findings, model file, report; a student follows its ``teacher``, and its file says
    so (``origin``)."""
    training = build(tree["training"], "training")
    assert isinstance(training, Training)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = build(tree["model"], "model")
    assert isinstance(model, Model)
    begins = not (run.path / "state").exists()  # else the state has what became of the weights it began from
    lora = training.adapters
    if start is not None and ranks.first and (begins or lora is not None):
        beginning.take_weights(model, start, shown, whole=lora is not None)
    if project.latents is not None:  # the one that encoded the data, wherever the other weights came from
        assert isinstance(model.domain, Latent)
        model.domain.load_state_dict(project.latents.latent.state_dict())
    if ranks.first and begins:
        _fill(model, shown)
    base = beginning.base_of(run, start, lora)
    captions = project.captions(model)
    if captions is not None:
        _read(captions, shown)
    if lora is not None:
        model.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            lora.attach(model.denoiser.net)
    budget = Budget.of(model.to(device), project, training.minutes) if ranks.first else Budget(0, 0, 0.0)
    with Stop() as stop:
        if not ranks.lead(lambda: beginning.keep(run, project, start, training.seed, device, shown, stop)):
            return Trained(run.path, None, None, True, first=ranks.first)
        words = project.settings["keep"]
        kept = keeping.read(run, words, model, training.seed) if words else None
        hooks = Chronicle(run, project, shown, budget, stop, snapshots)
        result = looped(model, training, hooks, device, again, begun, ranks, captions, teacher, kept)
        if result.interrupted:
            return Trained(run.path, None, None, True, first=ranks.first)
        if ranks.first:
            done = _finish(run, project, training, result, hooks, shown, stop, origin, base)
        else:
            done = Trained(run.path, run.model if lora is None else run.lora, run.report, False, first=False)
        ranks.wait()
        return done


def looped(
    model: torch.nn.Module,
    training: Training,
    hooks: Chronicle,
    device: torch.device,
    again: bool,
    begun: Mapping[str, float],
    ranks: Ranks,
    captions: Captions | None = None,
    teacher: Model | None = None,
    kept: Kept | None = None,
) -> Result:
    """The training loop on a project's pictures, which ``hooks`` know; where it was stopped, how to go on is said."""
    project, run = hooks.project, hooks.run
    parts = (ranks.rank, ranks.world)
    own = training.batch // (1 if kept is None else 2)
    batches: Batches | Mixed = project.batches(own, training.seed, device, *parts, training.reference, captions)
    if kept is not None:
        assert isinstance(batches, Batches) and isinstance(model, Model)
        batches = Mixed(batches, kept, model)
    try:
        result = loop.run(
            model,
            batches,
            training,
            run.path,
            device,
            hooks,
            held_out=project.held_out(training.batch, training.seed, *parts, captions),
            stop=hooks.stop,
            resume=again,
            spent=CLOCKS[training.clock]() - begun[training.clock] if not again else 0.0,
            reserve=hooks.budget.reserve,
            ranks=ranks,
            teacher=teacher,
        )
    finally:
        batches.close()
        hooks.progress.stop()
    if result.interrupted:
        words = f"stopped at step {result.step:,}; everything is saved. Go on with: kakusan resume {run.path}"
        hooks.progress.note(words)
    return result


def _read(captions: Captions, shown: Progress) -> None:
    """All captions prepared before the first step, and how many are cut."""
    total = len(captions.names)
    if total > 2000:
        shown.start(total, "reading captions", "caption")
    cut = captions.prepare(lambda done, of: shown.update(done, of) if done % 256 == 0 else None)
    shown.stop()
    if cut:
        shown.warn(f"{cut:,} of {total:,} captions are longer than the model reads: their ends are left out")


def _fill(model: Model, shown: Progress) -> None:
    """Vectors of words that come from a pretrained encoder, made before the first step."""
    for name in model.encoders:
        fill = getattr(model.encoder(name), "fill", None)
        if fill is not None and not getattr(model.encoder(name), "filled", False):
            shown.start(len(model.encoder(name).vocabulary), "making word vectors", "word")
            fill(lambda done, total: shown.update(done, total))
            shown.stop()


def _finish(
    run: RunDir, project: Project, training: Training, result: Result, hooks: Chronicle, shown: Progress, stop: Stop,
    origin: Mapping[str, Any] | None = None, base: Mapping[str, str] | None = None,
) -> Trained:  # fmt: skip
    """The model file (or that of adapters beside ``base``), then what shows the model: asked to stop there, the file is
    whole and the rest is for later."""
    reference = reference_stats(project.some(256))
    summary = summarised(project, training, result, hooks)
    info = {
        "data": {
            "fingerprint": project.cache.fingerprint,
            "pictures": len(project.train),
            "classes": project.facts.classes,
        },
        "training": summary | {"warnings": list(hooks.warnings)},
        "reference": reference,
        "licence": "",
    } | dict(origin or {})
    path, device = run.model, str(next(result.model.parameters()).device)
    if base and training.adapters is not None:
        path = run.lora
        del info["reference"]
        adapters.save(path, result.model.denoiser.net, training.adapters, base, info)
    else:
        save_model(path, result.model, info)
    shown.note("drawing samples, checking them, writing the report ...")
    loaded = load(run.path if base else path, device)
    samples = chronicle.final_samples(loaded, project, hooks.budget.final, stop)
    if stop():
        return _unreported(run, shown)
    sheet.save(sheet.grid([s.shown for s in samples], columns=8, labels=titles(samples)), run.path / "grid.png")
    raw = torch.stack([s.raw for s in samples if s.raw is not None])
    context = {"run": run.path, "minutes": summary["minutes"], "epochs": summary["epochs"]}
    findings = diagnose(raw, reference, context)
    copying = _copying(project, samples, stop)
    if stop():
        return _unreported(run, shown)
    if copying is not None and copying.verdict in ("copying", "some copies"):
        hooks.warnings.append(copying.message)
        shown.warn(copying.message)
    summary["warnings"] = list(hooks.warnings)
    report = runpage.write_report(run, project, loaded, samples, findings, copying, summary, training.objective)
    return Trained(run.path, path, report, False, findings, summary)


def _unreported(run: RunDir, shown: Progress) -> Trained:
    """Stopped between the model file and the report."""
    path = run.lora if run.lora.is_file() else run.model
    shown.note(f"stopped: {path} is finished; for its samples and report: kakusan resume {run.path}")
    return Trained(run.path, path, None, True)


def summarised(project: Project, training: Training, result: Result, hooks: Chronicle) -> dict[str, Any]:
    """What a training was, for the model's file and the report; parameters are those that it moved."""
    seen = result.step * training.batch // (2 if project.settings["keep"] else 1)
    moved = {n: p for n, p in result.model.named_parameters() if not n.startswith(("weak.", "domain."))}
    if training.adapters is not None:
        moved = factors(result.model.denoiser.net)
    return {
        "parameters": sum(p.numel() for p in moved.values()),
        "steps": result.step,
        "seconds": round(result.seconds, 1),
        "minutes": round(result.seconds / 60, 2),
        "pictures_seen": seen,
        "pictures_per_second": round(seen / max(result.seconds, 1e-9), 1),
        "epochs": round(seen / max(1, len(project.train)), 2),
        "loss": result.loss,
        "ema_width": result.width,
        "best_step": result.best_step,
        "overfit": result.overfit,
        "memory": doctor.memory_peak(),
        "warnings": list(hooks.warnings),
    }


def _copying(project: Project, samples: Sequence[Sample], stop: Stop) -> Copying | None:
    """The samples against (a part of) the training pictures, where what is drawn is not to be like one of them."""
    if project.facts.upscale or project.facts.instructed:
        return None  # what is enlarged or changed is like its picture, as it should be
    raw = torch.stack([s.raw.cpu() for s in samples if s.raw is not None])
    return examined(project, raw, COMPARED, 256, stop)
