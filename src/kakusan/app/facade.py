"""The Python API: ``train``, ``resume``, ``load``, ``reproduce``. The command line says the same words."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kakusan.app import chronicle, doctor, rundir, runpage, sheet
from kakusan.app import recipe as recipes
from kakusan.app.chronicle import Budget, Chronicle
from kakusan.app.columns import columns
from kakusan.app.latent import read_latent
from kakusan.app.loaded import Loaded, Sample, load, pick_device
from kakusan.app.project import Project, open_project
from kakusan.app.rundir import RunDir
from kakusan.app.sampled import titles
from kakusan.app.samples import reproduce, save_samples
from kakusan.app.show import Progress, size
from kakusan.catalog import build
from kakusan.checkpoint import load_model, read_info, save_model
from kakusan.core.model import Model
from kakusan.domains.latent import Latent
from kakusan.evaluation.health import Finding, diagnose, reference_stats
from kakusan.evaluation.memorisation import Copying, copies
from kakusan.files import write_json
from kakusan.part import KakusanError
from kakusan.training import loop, plan
from kakusan.training.captions import PROMPT, Captions
from kakusan.training.hooks import Result
from kakusan.training.ranks import Ranks, join
from kakusan.training.schedule import CLOCKS, readings
from kakusan.training.settings import Training
from kakusan.training.stop import Stop

__all__ = ["Loaded", "Sample", "Trained", "load", "model_info", "reproduce", "resume", "save_samples", "train"]

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


def train(
    data: str | Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    out: str | Path | None = None,
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    labels: str | None = None,
    captions: str | None = None,
    fit: str | None = None,
    flip: bool | None = None,
    size: int | None = None,
    seed: int | None = None,
    device: str = "auto",
    start: str | Path | None = None,
    snapshots: bool = False,
    autoencoder: bool = False,
    latent: str | Path | None = None,
    upscale: int | None = None,
    masks: bool | None = None,
    control: str | Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train a model on the pictures at ``data``, complete after ``minutes`` (10 if there are no ``steps`` either).

    Pictures with captions give a model that draws from words; ``captions="none"`` leaves them unread. ``recipe`` (a
    TOML file) and dotted ``overrides`` take over any part of the plan; ``start`` begins from another model's weights;
    ``snapshots`` keeps the averaged model of every preview point. ``autoencoder`` trains one of the pictures, and
    ``latent`` (its run or file) a model in its latent, which then carries it. ``upscale`` trains what enlarges pictures
    so many times, in place of what draws them; ``masks`` also teaches to fill holes, ``control`` to follow maps: a
    folder of them by the pictures' names, or "edges". In each of several processes (torchrun, Ray Train) it does that
    process's part.
    """
    begun = readings()
    if autoencoder and latent is not None:
        raise KakusanError(f"--autoencoder and --latent {latent}: first the one, then a model trained in its latent")
    with join() as ranks, progress or Progress() as given_progress:
        shown = _shown(given_progress, ranks)
        chosen = pick_device(ranks.device(device))
        through = None if latent is None else read_latent(latent, chosen)
        given = {"labels": labels, "captions": captions, "fit": fit, "flip": flip, "size": size, "upscale": upscale}
        given |= {"masks": masks, "control": None if control is None else str(control)}
        written = _written(recipe, overrides)
        settings = written.get("data", {}) | {k: v for k, v in given.items() if v is not None} | {"path": str(data)}
        _apart(settings, autoencoder, latent)
        own = written.get("model") or {}
        if own.get("kind") == Latent.kind and not autoencoder:
            raise KakusanError(f"--recipe {recipe}: is of an autoencoder; to train one again add --autoencoder")
        run = RunDir(Path(ranks.lead(lambda: str(rundir.fresh(out, data).path))))
        try:
            if autoencoder:
                from kakusan.app import autoencode

                project = _opened(settings | autoencode.SETTINGS, shown, own.get("domain"), ranks)
                wanted = _wanted(minutes, steps, seed)
                return autoencode.begin(run, project, written, overrides, wanted, start, chosen, shown, begun, ranks)
            project = _opened(settings, shown, own.get("domain") if through is None else None, ranks, through)
            tree = ranks.lead(
                lambda: _planned(project, written, overrides, minutes, steps, seed, start, chosen, shown, ranks)
            )
        except BaseException:
            if ranks.first:
                with contextlib.suppress(OSError):  # folders that hold something stay
                    run.path.rmdir()
                    if out is None:
                        run.path.parent.rmdir()
            raise
        if ranks.first:
            note = f"kakusan train {data}: everything that decides this run. Train again with --recipe."
            recipes.write(run.recipe, tree, note)
            about = {"device": str(chosen), "data": project.cache.fingerprint, "from": str(start) if start else None}
            about |= {"snapshots": snapshots}
            if through is not None:
                hash_ = save_model(run.autoencoder, project.diffused, {"from": str(latent)})
                about |= {"latent": {"from": str(latent), "hash": hash_}}
            write_json(run.environment, rundir.environment() | about | {"processes": ranks.world})
        return go(run, project, tree, chosen, shown, False, begun, start, ranks, snapshots)


def _apart(settings: Tree, autoencoder: bool, latent: str | Path | None) -> None:
    """Pictures as conditions and latents do not go together."""
    asked = [name for name in ("upscale", "masks", "control") if settings.get(name)]
    if asked and (autoencoder or latent is not None):
        other = "--autoencoder" if autoencoder else f"--latent {latent}"
        raise KakusanError(f"--{asked[0]} and {other} do not go together: pictures as conditions are of pixels")


def _shown(progress: Progress, ranks: Ranks) -> Progress:
    """One process of several talks."""
    return progress if ranks.first else Progress(stream=io.StringIO(), quiet=True, live=False)


def _opened(
    settings: Tree, shown: Progress, domain: Tree | None, ranks: Ranks, latent: Latent | None = None
) -> Project:
    """The data, decoded once on each machine, and the same in every process."""
    project = ranks.in_turn(lambda: open_project(settings, shown, domain, latent))
    ranks.same(
        hashlib.sha256(np.asarray(project.cache.hashes).tobytes()).hexdigest(), f"the data in {settings['path']}"
    )
    if project.latents is not None and project.latents.kept:
        if len(project.cache) > 2000:
            shown.start(len(project.cache), "encoding", "picture")
        project.latents.prepare(lambda done, of: shown.update(done, of))
        shown.stop()
    return project


def _written(path: str | Path | None, overrides: Sequence[str]) -> Tree:
    """What the recipe file says, with overrides of the [data] section applied early."""
    tree = recipes.read(path) if path is not None else {}
    early = [o for o in overrides if o.startswith("data.")]
    return recipes.override({"data": {}} | tree, early) if early else tree


def _planned(
    project: Project,
    written: Tree,
    overrides: Sequence[str],
    minutes: float | None,
    steps: int | None,
    seed: int | None,
    start: str | Path | None,
    device: torch.device,
    shown: Progress,
    ranks: Ranks,
) -> Tree:
    """The run's whole recipe: the plan from data, time and machine, under the user's recipe, under overrides."""
    late = [o for o in overrides if not o.startswith("data.")]
    base = _continued(project, start) if start is not None else {}
    wanted = _wanted(minutes, steps, seed)

    def overlay(tree: Tree) -> Tree:
        over = {k: v for k, v in written.items() if k != "data"}
        tree["training"]["batch"] += -tree["training"]["batch"] % ranks.world
        tree = recipes.merge(recipes.merge(tree, base), over)
        if "steps" in wanted or "minutes" in wanted:
            tree["training"] |= {"steps": None, "minutes": None}
        tree["training"] |= wanted
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
    _show_plan(project, tree, made, shown)
    return tree


def _wanted(minutes: float | None, steps: int | None, seed: int | None) -> Tree:
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


def _continued(project: Project, start: str | Path) -> Tree:
    """The model to start from, as a tree, its data facts checked against the new data."""
    about = read_info(rundir.find_model(start))
    spec = about["spec"]
    if "denoiser" not in spec:
        raise KakusanError(f"--from {start}: holds a {spec.get('kind')!r}, not a model to go on from")
    channels = spec["denoiser"]["net"].get("channels")
    if channels != project.facts.shape[0]:
        raise KakusanError(
            f"--from {start}: that model has {channels} channels, "
            f"the data {project.facts.shape[0]} ({project.domain.mode}"
            + ("" if project.latents is None else ", in the autoencoder's latent")
            + ")"
        )
    net = {**spec["denoiser"]["net"], "vector": project.facts.vector}
    model: Tree = {"denoiser": {**spec["denoiser"], "net": net}}
    if project.facts.vocabulary and PROMPT in spec["encoders"]:
        model["encoders"] = {PROMPT: spec["encoders"][PROMPT]}  # its words keep their numbers
    return {"model": model}


def _show_plan(project: Project, tree: Tree, made: plan.Plan, shown: Progress) -> None:
    f, net = made.figures, tree["model"]["denoiser"]["net"]
    limit = tree["training"].get("minutes")
    captions = 0 if project.train.texts is None else len(project.train.texts.captioned())
    rows = {
        "data": f"{len(project.train):,} pictures, "
        + f"{project.domain.width} x {project.domain.height} {project.domain.mode}"
        + (f", {len(project.facts.classes)} classes" if project.facts.classes else "")
        + (f", {captions:,} with captions" if captions else "")
        + (f"; {len(project.held):,} held out" if project.held is not None else "")
        + ("" if project.latents is None else f"; in a latent of {' x '.join(map(str, project.facts.shape))}"),
        "network": f"{net['kind'].split('/')[1]}, {f['parameters'] / 1e6:.2f}M parameters",
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


def resume(run: str | Path, *, minutes: float | None = None, progress: Progress | None = None) -> Trained:
    """Continue an interrupted run, exactly as it would have gone on; with ``minutes``, train a finished run for longer.

    Longer training of a finished run is a new run, RUN-2, which starts from its weights.
    """
    begun = readings()
    with join() as ranks, progress or Progress() as given_progress:
        shown, folder = _shown(given_progress, ranks), RunDir(Path(run))
        tree, finished, about = ranks.lead(lambda: _begun(folder, minutes))
        if "distilled" in about:
            from kakusan.app.student import resume_student

            return resume_student(folder, tree, about, shown, begun)
        if finished:
            return _longer(folder, tree, minutes or 0, shown)
        device = pick_device(ranks.device(str(about.get("device", "auto"))))
        if about.get("autoencoder"):
            from kakusan.app import autoencode

            project = _opened(tree["data"], shown, tree["model"]["domain"], ranks)
            ranks.lead(lambda: same_data(folder, tree, about, project))
            return autoencode.go(folder, project, tree, device, shown, True, begun, about.get("from"), ranks)
        latent = read_latent(folder.autoencoder, device) if about.get("latent") else None
        project = _opened(tree["data"], shown, tree["model"]["domain"], ranks, latent)
        ranks.lead(lambda: same_data(folder, tree, about, project))
        return go(
            folder, project, tree, device, shown, True, begun, about.get("from"), ranks, bool(about.get("snapshots"))
        )


def _begun(folder: RunDir, minutes: float | None) -> list[Any]:
    """A run's recipe, whether it is finished, and what it was begun on; refused where ``minutes`` do not fit that."""
    run = rundir.existing(folder.path).path
    about = _environment(folder)
    student = about.get("distilled") or {}
    awaited = bool(student.get("count")) and not (run / "few-steps.html").is_file()
    finished = folder.model.is_file() and folder.report.is_file() and not awaited
    if finished and student:
        raise KakusanError(f"{run}: this student is finished; make another: kakusan distill {student['teacher']} DATA")
    if finished and minutes is None:
        raise KakusanError(f"{run}: this run is finished; train it for longer with: kakusan resume {run} --minutes 30")
    if not finished and minutes is not None:
        raise KakusanError(f"{run}: still unfinished, its length is decided; first: kakusan resume {run}")
    return [recipes.read(folder.recipe), finished, about]


def same_data(folder: RunDir, tree: Tree, about: dict[str, Any], project: Project) -> None:
    if about.get("data", project.cache.fingerprint) != project.cache.fingerprint:
        raise KakusanError(
            f"{folder.path}: the pictures in {tree['data']['path']} are not those the run began with; "
            f"put them back as they were, or begin a new run: kakusan train {tree['data']['path']}"
        )


def _longer(folder: RunDir, tree: Tree, minutes: float, shown: Progress) -> Trained:
    number = 2
    while folder.path.with_name(f"{folder.path.name}-{number}").exists():
        number += 1
    out = folder.path.with_name(f"{folder.path.name}-{number}")
    shown.note(f"{folder.path} is finished and stays as it is; {out} goes on from its weights")
    data = {
        k: tree["data"].get(k) for k in ("labels", "captions", "fit", "flip", "size", "upscale", "masks", "control")
    }
    fields = tree["data"].get("fields")
    again = [f"data.fields={fields}"] if fields else []
    about = _environment(folder)
    return train(
        tree["data"]["path"], minutes=minutes, out=out, start=folder.path, progress=shown, overrides=again,
        autoencoder=bool(about.get("autoencoder")), latent=folder.autoencoder if about.get("latent") else None, **data,
    )  # fmt: skip


def _environment(folder: RunDir) -> dict[str, Any]:
    """What the run was begun on; an empty table where that is not known."""
    try:
        found = json.loads(folder.environment.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


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
    if start is not None and ranks.first and begins:
        _take_weights(model, start, shown)
    if project.latents is not None:  # the one that encoded the data, wherever the other weights came from
        assert isinstance(model.domain, Latent)
        model.domain.load_state_dict(project.latents.latent.state_dict())
    if ranks.first and begins:
        _fill(model, shown)
    captions = project.captions(model)
    if captions is not None:
        _read(captions, shown)
    batches = project.batches(
        training.batch, training.seed, device, ranks.rank, ranks.world, training.reference, captions
    )
    budget = Budget.of(model.to(device), project, training.minutes) if ranks.first else Budget(0, 0, 0.0)
    with Stop() as stop:
        hooks = Chronicle(run, project, shown, budget, stop, snapshots)
        try:
            result = loop.run(
                model,
                batches,
                training,
                run.path,
                device,
                hooks,
                held_out=project.held_out(training.batch, training.seed, ranks.rank, ranks.world, captions),
                stop=stop,
                resume=again,
                spent=CLOCKS[training.clock]() - begun[training.clock] if not again else 0.0,
                reserve=budget.reserve,
                ranks=ranks,
                teacher=teacher,
            )
        finally:
            batches.close()
            shown.stop()
        if result.interrupted:
            shown.note(f"stopped at step {result.step:,}; everything is saved. Go on with: kakusan resume {run.path}")
            return Trained(run.path, None, None, True, first=ranks.first)
        if ranks.first:
            done = _finish(run, project, training, result, hooks, shown, stop, origin)
        else:
            done = Trained(run.path, run.model, run.report, False, first=False)
        ranks.wait()
        return done


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


def _take_weights(model: Model, start: str | Path, shown: Progress) -> None:
    """Start from another model's weights: all that fit by name and shape; what is new stays at its beginning."""
    source, _ = load_model(rundir.find_model(start))
    own, given = model.state_dict(), source.state_dict() | columns(model, source)
    fitting = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise KakusanError(f"--from {start}: none of its weights fits this network; leave the network to --from")
    model.load_state_dict(fitting, strict=False)
    if len(fitting) < len(own):
        shown.note(f"started from {start}: {len(fitting)} of {len(own)} tensors; the others are new")
    else:
        shown.note(f"started from {start}")


def _finish(
    run: RunDir, project: Project, training: Training, result: Result, hooks: Chronicle, shown: Progress, stop: Stop,
    origin: Mapping[str, Any] | None = None,
) -> Trained:  # fmt: skip
    """The model file, then what shows the model: asked to stop there, the file is whole and the rest is for later."""
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
    save_model(run.model, result.model, info)
    shown.note("drawing samples, checking them, writing the report ...")
    loaded = load(run.model, str(next(result.model.parameters()).device))
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
    return Trained(run.path, run.model, report, False, findings, summary)


def _unreported(run: RunDir, shown: Progress) -> Trained:
    """Stopped between the model file and the report."""
    shown.note(f"stopped: {run.model} is finished; for its samples and report: kakusan resume {run.path}")
    return Trained(run.path, run.model, None, True)


def summarised(project: Project, training: Training, result: Result, hooks: Chronicle) -> dict[str, Any]:
    """What a training was, for the model's file and the report; parameters are those that it moved."""
    seen = result.step * training.batch
    return {
        "parameters": sum(
            p.numel() for n, p in result.model.named_parameters() if not n.startswith(("weak.", "domain."))
        ),
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
    """The samples against (a part of) the training pictures, where some are held out to compare with.

    Once asked to stop, against fewer: the result is then of no use.
    """
    if project.held is None or project.facts.upscale:
        return None  # what is enlarged is like its picture, as it should be
    raw = torch.stack([s.raw.cpu() for s in samples if s.raw is not None])
    near = min(len(project.train), COMPARED)
    chosen = np.linspace(0, len(project.train) - 1, near).astype(np.int64)
    starts = itertools.takewhile(lambda i: i == 0 or not stop(), range(0, len(chosen), 1024))
    pieces = (project.domain.floats(project.train.rows(chosen[i : i + 1024])) for i in starts)
    found = copies(raw, pieces, project.some(256, held=True), mirror=bool(project.settings["flip"]))
    # pairs name rows of what was compared; from here on, of all that was trained on
    return replace(found, pairs=[replace(pair, train=int(chosen[pair.train])) for pair in found.pairs])


def model_info(model: str | Path) -> dict[str, Any]:
    """What a model's file says about it, without building the model."""
    path = rundir.find_model(model)
    about = read_info(path)
    return {
        "path": str(path),
        "hash": about["hash"],
        "parameters": about["parameters"],
        "bytes": path.stat().st_size,
        **about["info"],
        "spec": about["spec"],
    }
