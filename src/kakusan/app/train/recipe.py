"""Recipes: TOML files of the spec tree, laid over the plan made from the data, with dotted overrides on top."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from kakusan.catalog import find
from kakusan.part import KakusanError

__all__ = ["SECTIONS", "fill", "fit_ports", "merge", "override", "read", "write"]

SECTIONS = ("data", "model", "training")
_LIMIT = 1 << 20  # bytes
_SHORT = {
    "denoiser": "model.denoiser",
    "autoencoder": "model.autoencoder",
    "domain": "model.domain",
    "encoders": "model.encoders",
    "defaults": "model.defaults",
}

Tree = dict[str, Any]


def read(path: str | Path) -> Tree:
    """A recipe file as a tree of the sections data, model and training, each optional."""
    source = Path(path)
    if not source.is_file():
        raise KakusanError(f"--recipe {source}: no such file")
    if source.stat().st_size > _LIMIT:
        raise KakusanError(f"--recipe {source}: {source.stat().st_size} bytes; a recipe has at most {_LIMIT}")
    try:
        tree = tomllib.loads(source.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KakusanError(f"--recipe {source}: not valid TOML: {error}") from error
    for name in tree:
        if name not in SECTIONS:
            raise KakusanError(f"--recipe {source}: section [{name}] is not known; a recipe has {', '.join(SECTIONS)}")
    return tree


def write(path: Path, tree: Mapping[str, Any], note: str = "") -> None:
    """Write a recipe; TOML has no null, so None (always a default) is left out."""
    head = "".join(f"# {line}\n" for line in note.splitlines())
    path.write_text(head + tomli_w.dumps(_without_none(tree)), "utf-8")


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(v) for v in value]
    return value


def merge(base: Tree, over: Mapping[str, Any]) -> Tree:
    """``over`` laid over ``base``; a part of another kind replaces the one below it (see ``fill``)."""
    out = copy.deepcopy(base)
    for name, value in over.items():
        below = out.get(name)
        if isinstance(value, Mapping) and isinstance(below, dict):
            if "kind" in value and value["kind"] != below.get("kind"):
                out[name] = fill(dict(value), below, name)
            else:
                out[name] = merge(below, value)
        else:
            out[name] = copy.deepcopy(value)
    return out


_FROM_DATA = ("channels", "dims", "vector", "tokens", "field", "sigma_data")


def fill(part: Tree, below: Mapping[str, Any], where: str) -> Tree:
    """A part of a new kind takes over the arguments that the data decide: channels, condition sizes, sigma_data."""
    accepted = find(part["kind"], where).signature().parameters
    taken = {k: below[k] for k in _FROM_DATA if k in below and k in accepted and k not in part}
    return {**part, **taken}


def override(tree: Tree, assignments: Iterable[str]) -> Tree:
    """Dotted overrides ``denoiser.net.width=96``; values are TOML (or JSON) literals, anything else a string."""
    out = copy.deepcopy(tree)
    for text in assignments:
        path, equals, raw = text.partition("=")
        if not equals or not path.strip():
            raise KakusanError(f"{text!r}: an override looks like denoiser.net.width=96")
        names = _expand(path.strip()).split(".")
        node: Any = out
        for depth, name in enumerate(names[:-1]):
            child = node.get(name) if isinstance(node, dict) else None
            if not isinstance(child, dict):
                at = ".".join(names[: depth + 1])
                known = ", ".join(k for k, v in node.items() if isinstance(v, dict)) if isinstance(node, dict) else ""
                raise KakusanError(f"{text!r}: the recipe has no part {at!r}; there are: {known}")
            node = child
        value = _literal(raw.strip())
        if isinstance(value, str) and names[-1] == "kind":
            node.update(fill({"kind": value}, node, path))
            allowed = find(value, path).signature().parameters
            for stale in [k for k in node if k != "kind" and k not in allowed]:
                del node[stale]
        node[names[-1]] = value
    return out


def fit_ports(tree: Tree) -> Tree:
    """The network's ports for vectors, tokens and fields as wide as the conditions that enter through them; what a
    pretrained encoder's folder decides is written down."""
    encoders = tree["model"].get("encoders", {})
    for name, encoder in encoders.items():
        settled = getattr(find(encoder["kind"], f"model.encoders.{name}"), "settled", None)
        if settled is not None:
            encoders[name] = settled(encoder)
    net = tree["model"]["denoiser"]["net"]
    accepted = find(net["kind"], "model.denoiser.net").signature().parameters
    if "vector" in accepted:
        net["vector"] = sum(_width(encoder, "dim", name) for name, encoder in encoders.items())
    fields = [getattr(find(e["kind"], f"model.encoders.{name}"), "field", None) for name, e in encoders.items()]
    if "field" in accepted:
        net["field"] = sum(width(e) for width, e in zip(fields, encoders.values(), strict=True) if width is not None)
    widths = {name: width for name, encoder in encoders.items() if (width := _width(encoder, "tokens", name))}
    if len(set(widths.values())) > 1:
        said = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise KakusanError(f"model.encoders: their tokens differ in width ({said}); give them one")
    if "tokens" in accepted:
        net["tokens"] = next(iter(widths.values()), 0)
    return tree


def _width(encoder: Mapping[str, Any], argument: str, name: str) -> int:
    """A width that an encoder is given, or has by default; 0 where it has none."""
    parameter = find(encoder["kind"], f"model.encoders.{name}").signature().parameters.get(argument)
    return 0 if parameter is None else int(encoder.get(argument, parameter.default))


def _expand(path: str) -> str:
    first, dot, rest = path.partition(".")
    if first in SECTIONS:
        return path
    if first in _SHORT:
        return _SHORT[first] + dot + rest
    return f"training.{path}"


def _literal(raw: str) -> Any:
    try:
        return tomllib.loads(f"v = {raw}")["v"]
    except tomllib.TOMLDecodeError:
        pass
    try:
        return json.loads(raw)
    except ValueError:
        return raw
