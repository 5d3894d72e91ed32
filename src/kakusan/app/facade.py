"""The Python API: ``train``, ``resume``, ``load``, ``reproduce``. The command line says the same words."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kakusan.app.command.show import Progress
from kakusan.app.draw.loaded import Loaded, Sample, load, pick_device
from kakusan.app.draw.samples import reproduce, save_samples
from kakusan.app.draw.shipped import summary
from kakusan.app.train import autoencode, finetune, keeping, longer, planned, rundir
from kakusan.app.train import recipe as recipes
from kakusan.app.train.latent import read_latent
from kakusan.app.train.project import Project, open_project
from kakusan.app.train.rundir import RunDir
from kakusan.app.train.trained import Trained, go
from kakusan.checkpoint import read_info, save_model
from kakusan.domains.latent import Latent
from kakusan.files import write_json
from kakusan.part import KakusanError
from kakusan.training.ranks import Ranks, join
from kakusan.training.schedule import readings

__all__ = ["Loaded", "Sample", "Trained", "load", "model_info", "reproduce", "resume", "save_samples", "train"]

Tree = dict[str, Any]


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
    lora: int | None = None,
    prompt: str | None = None,
    label: str | None = None,
    keep: str | Sequence[str] | None = None,
    snapshots: bool = False,
    autoencoder: bool = False,
    latent: str | Path | None = None,
    upscale: int | None = None,
    masks: bool | None = None,
    control: str | Path | None = None,
    pairs: str | Path | None = None,
    style_image: str | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train a model on the pictures at ``data``, complete after ``minutes`` (10 if there are no ``steps`` either).

    Pictures with captions give a model that draws from words; ``captions="none"`` leaves them unread. ``recipe`` (a
    TOML file) and dotted ``overrides`` take over any part of the plan; ``start`` fine-tunes a model: by adapters of
    rank ``lora`` beside its weights (0: the weights themselves; by default adapters for fewer than 50 pictures), with
    one ``prompt`` or ``label`` for all pictures; ``keep`` says what it should go on to draw as it did, or how many
    samples of it; ``snapshots`` keeps the averaged model of every preview point. ``autoencoder`` trains one of the
    pictures, and ``latent`` (its run or file) a model in its latent, which then carries it. ``upscale`` trains what
    enlarges pictures so many times, in place of what draws them; ``masks`` also teaches to fill holes, ``control`` to
    follow maps: a folder of them by the pictures' names, or "edges". ``pairs``, a list of pairs of pictures, trains
    what changes pictures as it is told. ``style_image``, "label" or a field, teaches to draw in the style of another
    picture: in training one that is equal in it. In each of several processes (torchrun, Ray Train) it does that
    process's part.
    """
    begun = readings()
    if autoencoder and latent is not None:
        raise KakusanError(f"--autoencoder and --latent {latent}: first the one, then a model trained in its latent")
    with join() as ranks, progress or Progress() as given_progress:
        shown = _shown(given_progress, ranks)
        chosen = pick_device(ranks.device(device))
        through = None if latent is None else read_latent(latent, chosen)
        asked = {
            "labels": labels, "captions": captions, "fit": fit, "flip": flip, "size": size, "upscale": upscale,
            "masks": masks, "control": control, "pairs": pairs, "style_image": style_image, "prompt": prompt,
            "label": label, "keep": keeping.listed(keep),
        }  # fmt: skip
        said = planned.written(recipe, overrides)
        settings = _settings(said, data, asked)
        _apart(settings, autoencoder, None if latent is None else f"--latent {latent}")
        tuned = None
        if start is not None and not autoencoder:
            tuned = finetune.way(start, settings, lora, said.get("training") or {})
            settings = tuned.settings(settings)
            steps = tuned.steps(minutes, steps, said.get("training") or {})
        alone = tuned is not None and tuned.rank > 0
        _alone(settings, start, lora, snapshots and alone)
        own = said.get("model") or {}
        if own.get("kind") == Latent.kind and not autoencoder:
            raise KakusanError(f"--recipe {recipe}: is of an autoencoder; to train one again add --autoencoder")
        run = RunDir(Path(ranks.lead(lambda: str(rundir.fresh(out, data).path))))
        with rundir.tidied(run, out is None) if ranks.first else contextlib.nullcontext():
            if autoencoder:
                project = _opened(settings | autoencode.SETTINGS, shown, own.get("domain"), ranks)
                wanted = planned.wanted(minutes, steps, seed)
                return autoencode.begin(run, project, said, overrides, wanted, start, chosen, shown, begun, ranks)
            domain, encoders = own.get("domain") if through is None else None, None
            if tuned is not None:
                encoders = tuned.encoders
                if through is None:
                    domain, through = tuned.base.domain(settings.get("size"), settings.get("fit"), chosen)
                    _apart(settings, autoencoder, None if through is None else f"--from {start}, a model in a latent,")
            project = _opened(settings, shown, domain, ranks, through, encoders, alone)
            tree = ranks.lead(
                lambda: planned.planned(project, said, overrides, minutes, steps, seed, tuned, chosen, shown, ranks)
            )
            if tree["training"].get("adapters") and tuned is None:
                raise KakusanError("training.adapters: are trained beside a model: name it with --from MODEL")
        if ranks.first:
            note = f"kakusan train {data}: everything that decides this run. Train again with --recipe."
            recipes.write(run.recipe, tree, note)
            about = {"device": str(chosen), "snapshots": snapshots, "processes": ranks.world}
            whence = None if through is None else str(latent if latent is not None else start)
            _record(run, project, about, start, whence, tuned)
        return go(run, project, tree, chosen, shown, False, begun, start, ranks, snapshots)


def _settings(said: Tree, data: str | Path, asked: Mapping[str, Any]) -> Tree:
    """The [data] section: what a recipe and overrides say under what is asked for, paths as plain words."""
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in asked.items()}
    return said.get("data", {}) | {k: v for k, v in plain.items() if v is not None} | {"path": str(data)}


def _record(
    run: RunDir, project: Project, about: Tree, start: str | Path | None, whence: str | None, tuned: finetune.Way | None
) -> None:
    """What a run was made with, beside its recipe; an autoencoder, from ``whence``, is copied into it."""
    about = about | {"data": project.cache.fingerprint, "from": str(start) if start else None}
    if whence is not None:
        about |= {"latent": {"from": whence, "hash": save_model(run.autoencoder, project.diffused, {"from": whence})}}
    if tuned is not None:
        about |= {"base": tuned.base.origin()}
    write_json(run.environment, rundir.environment() | about)


def _apart(settings: Tree, autoencoder: bool, latent: str | None) -> None:
    """What is trained beside an autoencoder comes after it, and in a latent nothing is enlarged or follows maps."""
    if settings.get("pairs") and autoencoder:
        raise KakusanError(f"--pairs {settings['pairs']} and --autoencoder: first the one, then --pairs with --latent")
    if settings.get("style_image") and autoencoder:
        raise KakusanError("--style-image and --autoencoder: first the one, then --style-image with --latent")
    if settings.get("masks") and autoencoder:
        raise KakusanError("--masks and --autoencoder: first the one, then --masks with --latent")
    asked = [name for name in ("upscale", "control") if settings.get(name)]
    if asked and (autoencoder or latent is not None):
        other = "--autoencoder" if autoencoder else latent
        raise KakusanError(f"--{asked[0]} and {other} do not go together: its pictures are of pixels")


def _alone(settings: Tree, start: str | Path | None, lora: int | None, snapshots: bool) -> None:
    """What is for a training that starts from a model alone."""
    asked = {"lora": lora, **{name: settings.get(name) for name in ("prompt", "label", "keep")}}
    name = next((name for name, value in asked.items() if value is not None), None)
    if start is None and name is not None:
        value = asked[name] if not isinstance(asked[name], list) else ", ".join(asked[name])
        raise KakusanError(f"--{name} {value}: is for training that starts from a model: add --from MODEL")
    if snapshots:
        raise KakusanError("snapshots=True: are of whole models; with start=MODEL add lora=0")


def _shown(progress: Progress, ranks: Ranks) -> Progress:
    """One process of several talks."""
    return progress if ranks.first else Progress(stream=io.StringIO(), quiet=True, live=False)


def _opened(
    settings: Tree,
    shown: Progress,
    domain: Tree | None,
    ranks: Ranks,
    latent: Latent | None = None,
    encoders: Tree | None = None,
    alone: bool = False,
) -> Project:
    """The data, decoded once on each machine, and the same in every process."""
    project = ranks.in_turn(lambda: open_project(settings, shown, domain, latent, encoders, alone))
    ranks.same(
        hashlib.sha256(np.asarray(project.cache.hashes).tobytes()).hexdigest(), f"the data in {settings['path']}"
    )
    if project.latents is not None and project.latents.kept:
        if len(project.cache) > 2000:
            shown.start(len(project.cache), "encoding", "picture")
        project.latents.prepare(lambda done, of: shown.update(done, of))
        shown.stop()
    return project


def resume(run: str | Path, *, minutes: float | None = None, progress: Progress | None = None) -> Trained:
    """Continue an interrupted run, exactly as it would have gone on; with ``minutes``, train a finished run for longer.

    Longer training of a finished run is a new run, RUN-2: a copy that goes on where the run ended, with its optimiser
    and averages, at the learning rate of a run of the whole length; on other pictures than it ended with, or where its
    ``state`` is gone, it starts from the weights alone.
    """
    begun = readings()
    with join() as ranks, progress or Progress() as given_progress:
        shown, folder = _shown(given_progress, ranks), RunDir(Path(run))
        tree, finished, about = ranks.lead(lambda: _begun(folder, minutes))
        if "distilled" in about:
            from kakusan.app.deploy.student import resume_student

            return resume_student(folder, tree, about, shown, begun)
        device = pick_device(ranks.device(str(about.get("device", "auto"))))
        project = _reopened(folder, tree, about, device, shown, ranks)
        if finished:
            on = ranks.lead(lambda: _lengthened(folder, tree, about, project, minutes or 0, shown))
            if on is None:
                return _anew(folder, tree, minutes or 0, shown)
            folder = RunDir(Path(on))
            tree = ranks.lead(lambda: recipes.read(folder.recipe))
        else:
            ranks.lead(lambda: same_data(folder, tree, about, project))
        if about.get("autoencoder"):
            return autoencode.go(folder, project, tree, device, shown, True, begun, about.get("from"), ranks)
        start = about["base"]["file"] if "base" in about else about.get("from")
        return go(folder, project, tree, device, shown, True, begun, start, ranks, bool(about.get("snapshots")))


def _reopened(folder: RunDir, tree: Tree, about: Tree, device: torch.device, shown: Progress, ranks: Ranks) -> Project:
    """The data of a run as it saw them: through its own domain, in its own latent, with the conditions it has."""
    domain = tree["model"]["domain"]
    if about.get("autoencoder"):
        return _opened(tree["data"], shown, domain, ranks)
    latent = read_latent(folder.autoencoder, device) if about.get("latent") else None
    known = tree["model"].get("encoders") if "base" in about else None
    return _opened(tree["data"], shown, domain, ranks, latent, known, bool(tree["training"].get("adapters")))


def _begun(folder: RunDir, minutes: float | None) -> list[Any]:
    """A run's recipe, whether it is finished, and what it was begun on; refused where ``minutes`` do not fit that."""
    run = rundir.existing(folder.path).path
    about = folder.about()
    student = about.get("distilled") or {}
    awaited = bool(student.get("count")) and not (run / "few-steps.html").is_file()
    made = folder.model.is_file() or folder.lora.is_file()
    finished = made and folder.report.is_file() and not awaited
    if finished and student:
        raise KakusanError(f"{run}: this student is finished; make another: kakusan distill {student['teacher']} DATA")
    if finished and folder.lora.is_file():
        raise KakusanError(f"{run}: these adapters are finished; train others: kakusan train DATA --from MODEL")
    if finished and minutes is None:
        raise KakusanError(f"{run}: this run is finished; train it for longer with: kakusan resume {run} --minutes 30")
    if not finished and minutes is not None:
        raise KakusanError(f"{run}: still unfinished, its length is decided; first: kakusan resume {run}")
    return [recipes.read(folder.recipe), finished, about]


def same_data(folder: RunDir, tree: Tree, about: dict[str, Any], project: Project) -> None:
    if _changed(about, project):
        raise KakusanError(
            f"{folder.path}: the pictures in {tree['data']['path']} are not those the run began with; "
            f"put them back as they were, or begin a new run: kakusan train {tree['data']['path']}"
        )


def _changed(about: Tree, project: Project) -> bool:
    """Whether the data are others than a run began with."""
    return bool(about.get("data", project.cache.fingerprint) != project.cache.fingerprint)


def _lengthened(
    folder: RunDir, tree: Tree, about: Tree, project: Project, minutes: float, shown: Progress
) -> str | None:
    """Where the finished run goes on; None where it can not, and why is said."""
    if _changed(about, project):
        shown.note(f"the pictures in {tree['data']['path']} are not those that {folder.path} ended with")
        return None
    on = longer.lengthen(folder, tree, minutes, shown)
    if on is None:
        shown.note(f"{folder.path / 'state'} is gone, and with it the optimiser and the averages")
    return None if on is None else str(on.path)


def _anew(folder: RunDir, tree: Tree, minutes: float, shown: Progress) -> Trained:
    """A new training that starts from the finished one's weights."""
    out = longer.beside(folder)
    shown.note(f"{folder.path} is finished and stays as it is; {out} starts from its weights")
    same = (
        "labels", "captions", "fit", "flip", "size", "upscale", "masks", "control", "pairs", "style_image",
        "prompt", "label", "keep",
    )  # fmt: skip
    data = {k: tree["data"].get(k) for k in same}
    again = [f"data.{k}={v}" for k in ("fields", "held_out") if (v := tree["data"].get(k)) not in (None, "", [])]
    again += [f"training.clock={tree['training'].get('clock', 'wall')}"]
    about = folder.about()
    return train(
        tree["data"]["path"], minutes=minutes, out=out, start=folder.path, lora=0, progress=shown, overrides=again,
        autoencoder=bool(about.get("autoencoder")), latent=folder.autoencoder if about.get("latent") else None, **data,
    )  # fmt: skip


def model_info(model: str | Path) -> dict[str, Any]:
    """What a model's file says about it, without building the model; ``card``: a shipped model's card in short."""
    path = rundir.find_model(model)
    about = read_info(path)
    return {
        "path": str(path),
        "card": summary(path),
        "hash": about["hash"],
        "parameters": about["parameters"],
        "bytes": path.stat().st_size,
        **about["info"],
        "spec": about["spec"],
    }
