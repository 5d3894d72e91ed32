"""Loaded: a model ready to sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kakusan.app.command import asking
from kakusan.app.draw import branches, prompts, sampler, varying
from kakusan.app.draw.sampled import Sample
from kakusan.app.draw.sampler import Request
from kakusan.app.draw.shipped import called
from kakusan.app.edit.editable import Editable
from kakusan.app.train import adapters, rundir, styled
from kakusan.checkpoint import load_model
from kakusan.core.model import Model
from kakusan.core.sample import Step
from kakusan.distillation.imitation import DENOISING
from kakusan.domains.domain import Domain, Record
from kakusan.nets.layers import keep_memory
from kakusan.part import KakusanError
from kakusan.training.captions import PROMPT
from kakusan.training.machine import flush_denormals

__all__ = ["Loaded", "Sample", "load", "pick_device"]

Report = Callable[[int, int], None]  # (network steps done, of all)
Asked = Callable[[], bool]  # whether to stop


def pick_device(device: str = "auto") -> torch.device:
    """``auto``: CUDA, else MPS, else the CPU; one that is not there is refused. Prepares the process for heavy work."""
    keep_memory()
    flush_denormals()
    if device == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise KakusanError(f"--device {device}: no such device; use auto, cpu, cuda, cuda:1 or mps") from error
    try:
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise KakusanError(f"--device {device}: not available here ({reason}); use --device auto") from error
    return chosen


def load(model: str | Path, device: str = "auto", *, lora: str | Path | Sequence[str | Path] | None = None) -> Loaded:
    """The model of a run, a file, or the name of a model that ships, ready to sample.

    ``lora``: adapters trained from it, a run or a file or several, each perhaps with its weight (``"runs/mine:0.8"``);
    they are merged into the weights. A run of adapters is itself the model that they were trained from, with them.
    """
    wanted = adapters.asked(lora)
    if (own := adapters.of_run(model)) is not None:
        model, wanted = adapters.read(own).base["file"], [(own, 1.0), *wanted]
    path, chosen = rundir.find_model(model), pick_device(device)
    built, info = load_model(path, chosen)
    told = adapters.add(built, str(info["hash"]), str(model), wanted)
    return Loaded(built, info, path, told)


class Loaded(Editable):
    """A model with what is known about it."""

    def __init__(
        self, model: Model, info: dict[str, Any], path: Path | None = None, lora: Sequence[dict[str, Any]] = ()
    ) -> None:
        if not isinstance(model.domain, Domain):
            raise KakusanError("this model has no data domain: sample it with kakusan.core.sample directly")
        self.model, self.info_, self.path, self.domain = model, info, path, model.domain
        self.lora = list(lora)  # adapters that are merged into it: file, hash, weight
        self.runtime = "eager"  # what evaluates the networks; another engine: kakusan.app.deploy.engines.swap
        if next(model.parameters()).device.type == "cpu":
            model.to(memory_format=torch.channels_last)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def classes(self) -> list[str]:
        """Names of the classes it can draw; empty without labels."""
        return list(self.model.encoder("label").names) if "label" in self.model.encoders else []

    def info(self) -> dict[str, Any]:
        """What the file says about the model: parameters, domain, classes, defaults, training summary, hash."""
        return {
            "path": str(self.path) if self.path else None,
            "classes": self.classes,
            "domain": self.domain.spec(),
            "defaults": sampler.defaults(self.model),
            **({"lora": self.lora} if self.lora else {}),
        } | self.info_

    def request(
        self,
        n: int | None,
        prompt: str | Sequence[str] | None,
        label: Any,
        seed: int,
        cond: Mapping[str, Any] | None,
        seeds: Sequence[int] | None = None,
        negative: Mapping[str, Any] | None = None,
        wildcards: str = "turn",
        prompts: str | Path | None = None,
        from_line: int = 1,
        **settings: Any,
    ) -> Request:
        """The words of a user as a Request; one value of a condition serves all samples, a list one each."""
        if prompts is not None:
            if prompt is not None:
                raise KakusanError(f"--prompts {prompts} and a prompt {prompt!r}: give one of the two")
            prompt, seeds, settings["names"] = asking.per_line(prompts, n, seed, from_line)
        given = dict(cond or {})
        given |= {} if label is None else {"label": label}
        given |= {} if prompt is None else {"prompt": prompt}
        return asking.ask(self.model, n, seed, given, negative or {}, seeds, wildcards, settings)

    def remarks(self, request: Request) -> list[str]:
        """What is worth telling of a request before it is drawn: words that the model does not know; that without a
        prompt, a model that reads words draws unconditionally; more steps than a student was made for."""
        told, student = [], self.info_.get("distilled") or {}
        most = max(4, student.get("steps") or 0)
        if request.steps is not None and request.steps > most and student.get("method", "shrink") not in DENOISING:
            told.append(f"--steps {request.steps}: this student was made for 1 to {most}; more help little")
        if PROMPT not in self.model.encoders:
            return told
        given = [*request.cond.get(PROMPT, [None]), *request.negative.get(PROMPT, [])]
        values = [t.value for v in given for t in (v.terms if isinstance(v, prompts.Mix) else (prompts.Term(v),))]
        encoder = self.model.encoder(PROMPT)
        return told + list(dict.fromkeys(words for value in dict.fromkeys(values) for words in encoder.remarks(value)))

    def sample(
        self,
        n: int | None = None,
        *,
        prompt: str | Sequence[str] | None = None,
        label: Any = None,
        seed: int = 0,
        steps: int | None = None,
        solver: str | None = None,
        guidance: float | Mapping[str, float] | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float | None = None,
        apg: float | None = None,
        autoguidance: float | None = None,
        negative: Mapping[str, Any] | None = None,
        threshold: float | None = None,
        chaos: float | None = None,
        tile: bool = False,
        eta: float | None = None,
        churn: float | None = None,
        size: int | tuple[int, int] | None = None,
        cond: Mapping[str, Any] | None = None,
        style_image: str | Path | Sequence[str | Path] | None = None,
        prompts: str | Path | None = None,
        from_line: int = 1,
        wildcards: str = "turn",
        film: bool = False,
        batch: int | None = None,
        progress: Report | None = None,
        stop: Asked | None = None,
    ) -> list[Sample]:
        """Draw n samples; sample i has the seed ``seed + i`` and is the same picture in whatever batch it is drawn.

        n is 1 where nothing else says: a list has a value for each sample, wildcards stand for several prompts, and
        each of a file of ``prompts`` (from line ``from_line`` on) gets n samples. ``guidance`` is one weight, or one
        for each condition. ``style_image``: a picture in whose style to draw, or one a sample. ``stop`` is asked at
        every step; once it says True, the samples of the batches finished so far are returned.
        """
        settings = {
            "steps": steps, "solver": solver, "guidance": guidance, "guidance_interval": guidance_interval,
            "guidance_rescale": guidance_rescale, "apg": apg, "autoguidance": autoguidance, "threshold": threshold,
            "chaos": chaos, "tile": tile, "eta": eta, "churn": churn, "size": size,
        }  # fmt: skip
        cond = styled.added(self, cond, style_image)
        request = self.request(n, prompt, label, seed, cond, None, negative, wildcards, prompts, from_line, **settings)
        return self.draw(request, film, batch, progress, stop)

    def vary(
        self,
        picture: str | Path | Sample,
        n: int = 4,
        *,
        strength: str | float = "subtle",
        seed: int = 0,
        stop: Asked | None = None,
        progress: Report | None = None,
        **settings: Any,
    ) -> list[Sample]:
        """Variants of a picture: noised again to a level and fallen from there with seeds of their own.

        ``strength`` "subtle" (0.6) or "strong" (2.5), or that level sigma/alpha. A sample of this model is varied with
        the conditions and settings of its recipe, what is not asked otherwise; ``settings`` are those of ``sample``.
        """
        options = {"strength": strength, "seed": seed}
        return self.draw(varying.request(self, picture, n, settings, **options), stop=stop, progress=progress)

    def draw(
        self,
        request: Request,
        film: bool = False,
        batch: int | None = None,
        progress: Report | None = None,
        stop: Asked | None = None,
    ) -> list[Sample]:
        """The samples of a request, in batches that fit memory; a batch that does not fit after all is halved.

        Fewer when ``stop`` said so on the way.
        """
        shape = self.domain.blank(1, size=request.size)[0]
        settled = sampler.settle(self.model, request)
        total = len(request.seeds)
        words = {"cond": _first(request.cond), "negative": _first(request.negative)}
        width = batch or sampler.plan_batches(total, shape, branches.count(settled | words), self.device)
        out: list[Sample] = []
        while len(out) < total and not (stop and stop()):
            rows = range(len(out), min(total, len(out) + width))
            part = request.rows(rows)
            try:
                out += self._batch(part, settled, film, _Count(progress, len(out), len(rows), total), stop)
            except torch.OutOfMemoryError as error:
                if width == 1:
                    raise KakusanError(f"one sample of shape {shape} does not fit {self.device}'s memory") from error
                width = max(1, width // 2)
        return out

    def _batch(
        self, request: Request, settled: dict[str, Any], film: bool, tell: Report, stop: Asked | None
    ) -> list[Sample]:
        """One batch; none of it when asked to stop before its end."""
        shapes = self.domain.blank(len(request.seeds), size=request.size)
        frames: list[list[np.ndarray]] = [[] for _ in shapes]
        last: Step | None = None
        for last in sampler.steps(self.model, request, shapes):
            tell(last.index + 1, last.count)
            if stop and last.t > 0 and stop():
                return []
            if film and _kept(last.index, last.count):
                for kept, record in zip(frames, self.records(last), strict=True):
                    kept.append(self.domain.shown(record))
        assert last is not None
        decoded = self.domain.decode(last.x)
        records = self.domain.records(decoded)
        samples = []
        for i, (record, seed) in enumerate(zip(records, request.seeds, strict=True)):
            recipe = self._recipe(request, settled, seed, i)
            record.meta |= {"seed": seed, "recipe": recipe}
            name = request.names[i] if request.names else ""
            samples.append(Sample(record, seed, recipe, self.domain, frames[i], decoded[i].float(), name))
        return samples

    def records(self, step: Step) -> list[Record]:
        """What the samples would be if sampling ended at this step."""
        return self.domain.records(self.domain.decode(sampler.to_tensor(step)))

    def stream(self, n: int = 1, *, seed: int = 0, label: Any = None, **settings: Any) -> Iterator[Step]:
        """The sampling loop itself, one step at a time, for one batch; to cancel is to stop iterating.

        ``model.records(step)`` shows any step.
        """
        allowed = {
            "steps", "solver", "guidance", "guidance_interval", "guidance_rescale", "apg", "autoguidance", "negative",
            "threshold", "chaos", "tile", "eta", "churn", "size", "cond", "prompt", "wildcards",
        }  # fmt: skip
        for name in settings:
            if name not in allowed:
                raise KakusanError(
                    f"stream takes no argument {name!r}; it takes: n, seed, label, {', '.join(sorted(allowed))}"
                )
        cond, prompt = settings.pop("cond", None), settings.pop("prompt", None)
        request = self.request(n, prompt, label, seed, cond, **settings)
        yield from sampler.steps(self.model, request, self.domain.blank(n, size=request.size))

    def _recipe(self, request: Request, settled: dict[str, Any], seed: int, row: int) -> dict[str, Any]:
        """Everything that makes one sample again."""
        named = {name: self._said(name, values[row]) for name, values in request.cond.items()}
        against = {name: self._said(name, values[row]) for name, values in request.negative.items()}
        return {
            "kakusan": 1,
            "model": self.info_.get("hash", ""),
            "file": called(self.path),
            "seed": int(seed),
            "cond": named,
            "size": list(request.size) if request.size else None,
            **({"negative": against} if against else {}),
            **({"from": request.start.source | {"level": request.start.level}} if request.start else {}),
            **({"lora": self.lora} if self.lora else {}),
            **({} if self.runtime == "eager" else {"runtime": self.runtime}),
        } | settled

    def _said(self, name: str, value: Any) -> Any:
        """A condition's value as a recipe keeps it: classes by name."""
        return self.classes[value] if name == "label" and isinstance(value, int) else prompts.recorded(value)


def _first(values: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The first sample's conditions, by which a batch is measured."""
    return {name: each[0] for name, each in values.items() if len(each)}


def _kept(index: int, count: int, most: int = 60) -> bool:
    """Which steps a film shows: all of a short run, at most ``most`` of a long one and the last always."""
    stride = max(1, -(-count // most))
    return index % stride == 0 or index == count - 1


@dataclass(frozen=True)
class _Count:
    """Steps of one batch as network steps of all samples."""

    progress: Report | None
    done: int
    rows: int
    total: int

    def __call__(self, index: int, count: int) -> None:
        if self.progress is not None:
            self.progress(self.done * count + self.rows * index, self.total * count)
