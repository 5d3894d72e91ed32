"""Varying: a picture as the start of new samples; and requests made again from recipes, its picture found again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kakusan.app.draw.prompts import recalled as value_of
from kakusan.app.draw.sampler import Request
from kakusan.app.draw.start import Start, level_of, stamp
from kakusan.app.train import adapters, spatial, styled
from kakusan.domains.domain import Record
from kakusan.domains.latent import seen
from kakusan.domains.picture import read_recipe
from kakusan.part import KakusanError
from kakusan.training.references import STYLE

if TYPE_CHECKING:
    from kakusan.app.draw.loaded import Loaded, Sample

__all__ = ["lora_of", "model_of", "recalled", "remark", "request"]

_MOST = 50  # variants of variants whose pictures are made again
_WORDS = ("prompt", "label", "cond", "negative", "wildcards")  # of ``settings``, what are no fields of a Request


def model_of(picture: str | Path) -> str:
    """The model that made a picture, from the recipe inside it."""
    made = read_recipe(picture) if Path(picture).is_file() else None
    if not Path(picture).is_file():
        raise KakusanError(f"{picture}: no such file")
    if not made or not made.get("file"):
        raise KakusanError(f"{picture}: carries no recipe; name a model: kakusan vary MODEL {picture}")
    return str(made["file"])


def lora_of(picture: str | Path) -> list[str]:
    """The adapters that were merged into that model."""
    return adapters.recalled((read_recipe(picture) or {}).get("lora"), Path(picture))


def remark(loaded: Loaded, picture: str | Path) -> str:
    """What happened to a picture that is not as the model makes them; empty where nothing did."""
    record, made, _ = _opened(loaded, picture)
    domain = seen(loaded.domain)
    size = getattr(domain, "size", record.data.shape[:2])
    if made is not None or tuple(record.data.shape[:2]) == tuple(size):
        return ""
    (h, w), (height, width) = record.data.shape[:2], size
    how = getattr(domain, "how", "fit")
    return f"{picture} is {w} x {h} pixels; it was fitted to the model's {width} x {height} ({how})"


def _opened(loaded: Loaded, picture: str | Path | Sample) -> tuple[Record, dict[str, Any] | None, str]:
    """A picture with the recipe that this very model made it by, if it did, and its path."""
    if not isinstance(picture, (str, Path)):
        record, made, path = picture.record, picture.recipe, ""
    else:
        file = Path(picture)
        if not file.is_file():
            raise KakusanError(f"{file}: no such file")
        record, made, path = loaded.domain.load(file.read_bytes(), file.name), read_recipe(file), str(file)
    own = made is not None and made.get("model") == loaded.info_.get("hash")
    return record, made if own else None, path


def request(
    loaded: Loaded,
    picture: str | Path | Sample,
    n: int,
    settings: Mapping[str, Any],
    strength: str | float = "subtle",
    seed: int = 0,
) -> Request:
    """``n`` variants of a picture; what is not asked for is as in its own recipe, or the model's default."""
    record, made, path = _opened(loaded, picture)
    given = {k: v for k, v in settings.items() if v is not None}
    words = {k: given.pop(k, None) for k in _WORDS}
    for name in given:
        if name not in Request.__dataclass_fields__ or name in ("seeds", "start", "names"):
            raise KakusanError(f"vary takes no argument {name!r}")
    asked = loaded.request(
        n, words["prompt"], words["label"], seed, words["cond"], None, words["negative"],
        words["wildcards"] or "turn", **given,
    )  # fmt: skip
    named = {*(words["cond"] or {}), *(k for k in ("prompt", "label") if words[k] is not None)}
    cond = {k: v for k, v in asked.cond.items() if k in named}  # no class by chance: the picture is what it is
    if made is not None:
        before = _settings(made)
        base = {k: [_pictured(loaded, k, v, made, Path(path))] * n for k, v in _values(made, "cond").items()}
        against = {k: [v] * n for k, v in _values(made, "negative").items()}
        asked = replace(asked, **{k: v for k, v in before.items() if k not in given})
        cond, asked = base | cond, replace(asked, negative=against | asked.negative)
    x0 = _tensor(loaded, record, asked.size)
    source = {"picture": path, "stamp": stamp(x0), "recipe": made}
    return replace(asked, cond=cond, start=Start(x0, level_of(strength), source))


def recalled(loaded: Loaded, made: Mapping[str, Any], file: Path, depth: int = 0) -> Request:
    """The request of one sample again, from its recipe; ``file`` is where that was read. ``depth``: how many variants
    lead here, each from the one before."""
    if depth > _MOST:
        raise KakusanError(f"{file}: began from more than {_MOST} pictures in turn that are gone; put the last back")
    cond, negative = ({k: [v] for k, v in _values(made, name).items()} for name in ("cond", "negative"))
    cond = {k: [_pictured(loaded, k, v[0], made, file)] for k, v in cond.items()}
    again = Request(seeds=[int(made["seed"])], cond=cond, negative=negative, **_settings(made))
    if "from" not in made:
        return again
    source = made["from"]
    x0 = _found(loaded, source, again.size, file, depth)
    return replace(again, start=Start(x0, float(source["level"]), {k: v for k, v in source.items() if k != "level"}))


def _found(loaded: Loaded, source: Mapping[str, Any], size: tuple[int, ...] | None, file: Path, depth: int) -> Tensor:
    """The picture that a sample began from: where it was, beside the sample, or made again from its own recipe."""
    name = Path(source["picture"])
    places = [name, file.parent / name.name, file.parent.parent / name.name] if name.name else []
    there = [p for p in places if p.is_file()]
    for place in there:
        x0 = _tensor(loaded, loaded.domain.load(place.read_bytes(), place.name), size)
        if stamp(x0) == source["stamp"]:
            return x0
    if source.get("recipe"):
        x0 = _tensor(loaded, loaded.draw(recalled(loaded, source["recipe"], file, depth + 1))[0].record, size)
        if stamp(x0) == source["stamp"]:
            return x0
    state = f"{there[0]} has changed" if there else f"{name} is not there"
    raise KakusanError(f"{file}: began from a picture, and {state}; put it back as it was, or beside {file.name}")


def _tensor(loaded: Loaded, record: Record, size: tuple[int, ...] | None) -> Tensor:
    """The picture as the model sees it, (C, *S), at the size of the samples."""
    domain = loaded.domain if size is None else loaded.domain.resized(size)
    own = Record(np.array(record.data), record.meta)  # what decoders give may be read only
    with torch.no_grad():
        return domain.encode(domain.tensor(own)[None])[0]


def _values(made: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {str(k): value_of(v) for k, v in (made.get(name) or {}).items()}


def _pictured(loaded: Loaded, name: str, value: Any, made: Mapping[str, Any], file: Path) -> Any:
    """A condition that is a picture, from its file, which has to be what it was; any other as it is."""
    if not isinstance(value, dict) or "picture" not in value:
        return value
    path = Path(str(value["picture"]))
    what = "style image" if name == STYLE else "map"
    place = next((p for p in (path, file.parent / path.name) if p.is_file()), None)
    if place is None:
        raise KakusanError(f"{file}: its {what} {path} is not there any more; put it back, or beside {file.name}")
    size = tuple(int(n) for n in made["size"]) if made.get("size") else None
    given = styled.styled(loaded, place) if name == STYLE else spatial.mapped(loaded, place, size)
    if given.source is None or given.source["sha256"] != value["sha256"]:
        raise KakusanError(f"{file}: its {what} {place} has changed since; put the old file back")
    return given


def _settings(made: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a Request but seeds, conditions and start."""
    guidance = made["guidance"]
    out: dict[str, Any] = {
        "steps": int(made["steps"]),
        "guidance": {str(k): float(v) for k, v in guidance.items()} if isinstance(guidance, dict) else float(guidance),
        "autoguidance": float(made.get("autoguidance", 1.0)),
        "eta": float(made["eta"]),
        "churn": float(made["churn"]),
        "grid": made["grid"],
        "solver": dict(made["solver"]),
        "size": tuple(int(n) for n in made["size"]) if made.get("size") else None,
        "tile": bool(made.get("tile")),
    }
    for name in ("guidance_rescale", "apg", "threshold", "chaos"):
        out[name] = float(made[name]) if made.get(name) is not None else None
    if made.get("guidance_interval") is not None:
        out["guidance_interval"] = [float(v) for v in made["guidance_interval"]]
    return out
