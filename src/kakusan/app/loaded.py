"""Loaded: a model ready to sample; its samples know their recipe and show themselves in a notebook."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kakusan.app import rundir, sampler
from kakusan.app.editable import Editable
from kakusan.app.sampler import Request
from kakusan.checkpoint import load_model
from kakusan.core.model import Model
from kakusan.core.sample import Step
from kakusan.domains.domain import Domain, Record
from kakusan.nets.layers import keep_memory
from kakusan.part import KakusanError
from kakusan.training.machine import flush_denormals

__all__ = ["Loaded", "Sample", "load", "pick_device"]

Report = Callable[[int, int], None]  # (network steps done, of all)
Asked = Callable[[], bool]  # whether to stop


@dataclass
class Sample:
    """One sample: the record in its own units, the seed that makes it again and the whole recipe."""

    record: Record
    seed: int
    recipe: dict[str, Any]
    domain: Domain = field(repr=False)
    frames: list[np.ndarray] = field(default_factory=list, repr=False)  # the reverse process, when a film was asked for
    raw: torch.Tensor | None = field(default=None, repr=False)  # (C, *S) as the model left it, unclamped

    @property
    def data(self) -> np.ndarray:
        """The sample in its own units; a picture is (H, W, C)."""
        return self.record.data

    @property
    def shown(self) -> np.ndarray:
        """The sample as a picture to look at, (H, W, C) uint8 or uint16."""
        return self.domain.shown(self.record)

    @property
    def label(self) -> Any:
        """The class it was asked to be, if any."""
        return self.recipe.get("cond", {}).get("label")

    def save(self, path: str | Path, recipe: bool = True) -> Path:
        """Write it losslessly, with its recipe inside unless ``recipe`` is False."""
        return self.domain.save(self.record, Path(path), self.recipe if recipe else None)

    def _repr_png_(self) -> bytes | None:
        from PIL import Image as Pil

        a = self.shown
        if a.ndim != 3 or a.shape[2] not in (1, 3, 4):
            return None
        if a.dtype == np.uint16:
            a = (a >> 8).astype(np.uint8)
        scale = max(1, 128 // max(a.shape[:2]))
        picture = Pil.fromarray(a[..., 0] if a.shape[2] == 1 else a)
        out = io.BytesIO()
        picture.resize((picture.width * scale, picture.height * scale), Pil.Resampling.NEAREST).save(out, "PNG")
        return out.getvalue()


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


def load(model: str | Path, device: str = "auto") -> Loaded:
    """The model of a run, a file, or the name of a model that ships, ready to sample."""
    path, chosen = rundir.find_model(model), pick_device(device)
    built, info = load_model(path, chosen)
    return Loaded(built, info, path)


class Loaded(Editable):
    """A model with what is known about it."""

    def __init__(self, model: Model, info: dict[str, Any], path: Path | None = None) -> None:
        if not isinstance(model.domain, Domain):
            raise KakusanError("this model has no data domain: sample it with kakusan.core.sample directly")
        self.model, self.info_, self.path, self.domain = model, info, path, model.domain
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
        } | self.info_

    def request(
        self,
        n: int,
        prompt: str | None,
        label: Any,
        seed: int,
        cond: dict[str, Any] | None,
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> Request:
        """The words of a user as a Request; one value of a condition serves all samples, a list one each."""
        if n < 1:
            raise KakusanError(f"n={n}: ask for at least one sample")
        chosen = list(seeds) if seeds is not None else [seed + i for i in range(n)]
        given = dict(cond or {})
        if label is not None:
            given["label"] = label
        if prompt is not None:
            given["prompt"] = prompt
        for name in given:
            if name not in self.model.encoders:
                known = ", ".join(k for k in self.model.encoders if k != "augment") or "none: it is unconditional"
                raise KakusanError(f"this model has no condition {name!r}; it has: {known}")
        values = {k: list(v) if isinstance(v, (list, tuple)) else [v] * len(chosen) for k, v in given.items()}
        if self.classes and "label" not in values:
            values["label"] = list(sampler.random_labels(self.classes, chosen))
        return Request(seeds=chosen, cond=values, **settings)

    def sample(
        self,
        n: int = 1,
        *,
        prompt: str | None = None,
        label: Any = None,
        seed: int = 0,
        steps: int | None = None,
        solver: str | None = None,
        guidance: float | None = None,
        autoguidance: float | None = None,
        eta: float | None = None,
        churn: float | None = None,
        size: int | tuple[int, int] | None = None,
        cond: dict[str, Any] | None = None,
        film: bool = False,
        batch: int | None = None,
        progress: Report | None = None,
        stop: Asked | None = None,
    ) -> list[Sample]:
        """Draw n samples; sample i has the seed ``seed + i`` and is the same picture in whatever batch it is drawn.

        ``stop`` is asked at every step; once it says True, the samples of the batches finished so far are returned.
        """
        grown = (size, size) if isinstance(size, int) else size
        settings = {
            "steps": steps, "solver": solver, "guidance": guidance, "autoguidance": autoguidance,
            "eta": eta, "churn": churn, "size": grown,
        }  # fmt: skip
        request = self.request(n, prompt, label, seed, cond, **settings)
        return self.draw(request, film, batch, progress, stop)

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
        width = batch or sampler.plan_batches(total, shape, settled["guidance"] != 1, self.device)
        out: list[Sample] = []
        while len(out) < total and not (stop and stop()):
            rows = range(len(out), min(total, len(out) + width))
            part = replace(
                request,
                seeds=[request.seeds[i] for i in rows],
                cond={k: [v[i] for i in rows] for k, v in request.cond.items()},
            )
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
            samples.append(Sample(record, seed, recipe, self.domain, frames[i], decoded[i].float()))
        return samples

    def records(self, step: Step) -> list[Record]:
        """What the samples would be if sampling ended at this step."""
        return self.domain.records(self.domain.decode(sampler.to_tensor(step)))

    def stream(self, n: int = 1, *, seed: int = 0, label: Any = None, **settings: Any) -> Iterator[Step]:
        """The sampling loop itself, one step at a time, for one batch; to cancel is to stop iterating.

        ``model.records(step)`` shows any step.
        """
        allowed = {"steps", "solver", "guidance", "autoguidance", "eta", "churn", "size", "cond", "prompt"}
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
        named: dict[str, Any] = {}
        for name, values in request.cond.items():
            value = values[row]
            named[name] = self.classes[value] if name == "label" and isinstance(value, int) else value
        return {
            "kakusan": 1,
            "model": self.info_.get("hash", ""),
            "file": str(self.path) if self.path else "",
            "seed": int(seed),
            "cond": named,
            "size": list(request.size) if request.size else None,
        } | settled


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
