"""The catalog: an explicit table from ``kind`` to class. A model file can name these and nothing else.

Other packages add parts by an entry point of the group ``kakusan.catalog`` whose name is the kind.
"""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from kakusan.part import KakusanError, Part, Spec

__all__ = ["CATALOG", "build", "find", "kinds"]

CATALOG: dict[str, str] = {
    "process/vp": "kakusan.core.process:VP",
    "process/ve": "kakusan.core.process:VE",
    "process/flow": "kakusan.core.process:Flow",
    "process/shifted": "kakusan.core.process:Shifted",
    "process/zero-terminal": "kakusan.core.process:ZeroTerminal",
    "process/tabulated": "kakusan.core.process:Tabulated",
    "param/eps": "kakusan.core.param:Eps",
    "param/x0": "kakusan.core.param:X0",
    "param/v": "kakusan.core.param:V",
    "param/velocity": "kakusan.core.param:Velocity",
    "param/karras": "kakusan.core.param:Karras",
    "space/flat": "kakusan.core.space:Flat",
    "space/centred": "kakusan.core.space:Centred",
    "space/sphere": "kakusan.core.space:Sphere",
    "density/uniform-t": "kakusan.core.objective:UniformT",
    "density/log-normal": "kakusan.core.objective:LogNormal",
    "density/logit-normal": "kakusan.core.objective:LogitNormal",
    "density/laplace": "kakusan.core.objective:Laplace",
    "weight/eps-uniform": "kakusan.core.objective:EpsUniform",
    "weight/min-snr": "kakusan.core.objective:MinSNR",
    "weight/edm": "kakusan.core.objective:EDM",
    "weight/sigmoid": "kakusan.core.objective:Sigmoid",
    "weight/flow-uniform": "kakusan.core.objective:FlowUniform",
    "objective/denoising": "kakusan.core.objective:Denoising",
    "objective/autoencoding": "kakusan.core.autoencoder:Autoencoding",
    "objective/consistency": "kakusan.distillation.consistency:Consistency",
    "objective/imitation": "kakusan.distillation.imitation:Imitation",
    "objective/mean-flow": "kakusan.distillation.meanflow:MeanFlow",
    "objective/progressive": "kakusan.distillation.progressive:Progressive",
    "grid/karras": "kakusan.core.grid:Karras",
    "grid/uniform-lam": "kakusan.core.grid:UniformLam",
    "grid/uniform-t": "kakusan.core.grid:UniformT",
    "grid/discrete": "kakusan.core.grid:Discrete",
    "grid/listed": "kakusan.core.grid:Listed",
    "grid/learned": "kakusan.core.grid:Learned",
    "grid/every": "kakusan.core.grid:Every",
    "grid/consistency": "kakusan.core.grid:Consistency",
    "solver/ddim": "kakusan.core.solver:DDIM",
    "solver/heun": "kakusan.core.solver:Heun",
    "solver/dpm2m": "kakusan.core.solver:DPM2M",
    "solver/unipc": "kakusan.core.solver:UniPC",
    "solver/ipndm": "kakusan.core.solver:IPNDM",
    "solver/learned": "kakusan.core.solver:Learned",
    "guide/plain": "kakusan.core.guide:Plain",
    "guide/classifier-free": "kakusan.core.guide:ClassifierFree",
    "guide/several": "kakusan.core.guide:Several",
    "guide/apart": "kakusan.core.guide:Apart",
    "guide/chain": "kakusan.core.guide:Chain",
    "guide/auto": "kakusan.core.guide:Autoguidance",
    "guide/interval": "kakusan.core.guide:Interval",
    "guide/relaxed": "kakusan.core.guide:Relaxed",
    "guide/apg": "kakusan.core.strong:APG",
    "guide/rescaled": "kakusan.core.strong:Rescaled",
    "guide/thresholded": "kakusan.core.strong:Thresholded",
    "denoiser": "kakusan.core.denoiser:Denoiser",
    "model": "kakusan.core.model:Model",
    "net/unet": "kakusan.nets.unet:UNet",
    "net/dit": "kakusan.nets.dit:DiT",
    "net/unet2d": "kakusan.nets.unet2d:UNet2D",
    "net/autoencoder": "kakusan.nets.autoencoder:ConvAutoencoder",
    "gan/generator": "kakusan.nets.gan:Generator",
    "gan/discriminator": "kakusan.nets.gan:Discriminator",
    "gan/dc-generator": "kakusan.nets.dcgan:DCGenerator",
    "gan/dc-discriminator": "kakusan.nets.dcgan:DCDiscriminator",
    "condition/label": "kakusan.conditions.label:Label",
    "condition/text": "kakusan.conditions.text:Text",
    "condition/text-table": "kakusan.conditions.table:TextTable",
    "condition/text-transformers": "kakusan.conditions.pretrained:PretrainedText",
    "condition/vector": "kakusan.conditions.scalar:Vector",
    "condition/scalar": "kakusan.conditions.scalar:Scalar",
    "condition/guidance": "kakusan.conditions.guidance:Guidance",
    "condition/landing": "kakusan.conditions.landing:Landing",
    "condition/tags": "kakusan.conditions.tags:Tags",
    "condition/low-resolution": "kakusan.conditions.spatial:LowResolution",
    "condition/mask": "kakusan.conditions.spatial:Mask",
    "condition/map": "kakusan.conditions.spatial:Map",
    "condition/source": "kakusan.conditions.spatial:Source",
    "condition/picture": "kakusan.conditions.picture:Picture",
    "domain/image": "kakusan.domains.image:Image",
    "domain/latent": "kakusan.domains.latent:Latent",
    "augment/affine": "kakusan.domains.augment:Affine",
    "adapters/lora": "kakusan.nets.lora:LoRA",
    "optim/muon": "kakusan.training.optim:Muon",
    "optim/adamw": "kakusan.training.optim:AdamW",
    "training": "kakusan.training.settings:Training",
    "training/adversarial": "kakusan.training.adversarial:Adversarial",
}

_DEPTH = 16  # a spec nests no deeper
_ITEMS = 100_000  # and has no more values


@cache
def kinds() -> dict[str, str]:
    """The table with what installed packages add to it; they cannot replace an entry."""
    added = {point.name: point.value for point in entry_points(group="kakusan.catalog")}
    return added | CATALOG


def find(kind: str, where: str = "spec") -> type[Part]:
    """The class of a kind."""
    table = kinds()
    if not isinstance(kind, str) or kind not in table:
        shown = repr(kind)[:60]
        group = [k for k in table if k.split("/")[0] == str(kind).split("/")[0]]
        families = dict.fromkeys(k.partition("/")[0] + "/..." * ("/" in k) for k in table)
        close = difflib.get_close_matches(str(kind), table, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(group or families)}"
        raise KakusanError(f"{where}: kind {shown} is not known; {hint}")
    module, name = table[kind].split(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise KakusanError(f"{where}: kind {kind!r} cannot be loaded: {error}; is its package installed?") from error
    assert isinstance(found, type) and issubclass(found, Part)
    return found


def build(spec: Spec, where: str = "spec") -> Part:
    """The part that a spec describes, built from the bottom up; errors name the place in the tree."""
    _bound(spec, where)
    return _build(spec, where)


def _build(spec: Spec, where: str) -> Part:
    if not isinstance(spec, dict) or "kind" not in spec:
        raise KakusanError(f"{where}: expected a table with a 'kind', got {type(spec).__name__}")
    cls = find(spec["kind"], where)
    allowed = list(cls.signature().parameters)
    arguments: dict[str, Any] = {}
    for name, value in spec.items():
        if name == "kind":
            continue
        if name not in allowed:
            close = difflib.get_close_matches(name, allowed, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it takes: {', '.join(allowed) or 'nothing'}"
            raise KakusanError(f"{where}: {spec['kind']} takes no argument {name[:60]!r}; {hint}")
        arguments[name] = _value(value, f"{where}.{name}")
        if not _fits(arguments[name], _hints(cls).get(name, Any)):
            expected, got = cls.signature().parameters[name].annotation, repr(arguments[name])[:60]
            raise KakusanError(f"{where}.{name}: {spec['kind']} takes {expected} here, got {got}")
    try:
        return cls(**arguments)
    except KakusanError as error:
        raise KakusanError(f"{where}: {error}") from error
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, RuntimeError, MemoryError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise KakusanError(f"{where}: {spec['kind']} cannot be built: {reason}") from error


def shown(name: str) -> str:
    """A name in a path through the tree: what is no name is quoted and cut, so that an error stays one short line."""
    return name if name.isidentifier() and len(name) <= 60 else repr(name[:60])


def _hints(cls: type[Part]) -> dict[str, Any]:
    """The types that a constructor declares."""
    return get_type_hints(cls.__init__) if "__init__" in cls.__dict__ else {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a declared type; an int is a float too, a bool is neither, inf and NaN are nothing."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is Literal:
        return value in inner
    if origin in (list, tuple, Sequence):
        return isinstance(value, list) and all(_fits(v, inner[0]) for v in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, type(None) if hint is None else origin or hint)


def _value(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        if "kind" in value:
            return _build(value, where)
        return {k: _value(v, f"{where}.{shown(k)}") for k, v in value.items()}
    if isinstance(value, list):
        return [_value(v, f"{where}[{i}]") for i, v in enumerate(value)]
    return value


def _bound(spec: Any, where: str) -> None:
    """Refuse specs of absurd depth or size before anything is built."""
    count = 0
    stack: list[tuple[Any, int]] = [(spec, 0)]
    while stack:
        value, depth = stack.pop()
        count += 1
        if depth > _DEPTH or count > _ITEMS:
            raise KakusanError(f"{where}: nested deeper than {_DEPTH} or more than {_ITEMS} values; not a kakusan spec")
        if isinstance(value, dict):
            stack += [(v, depth + 1) for v in value.values()]
        elif isinstance(value, list):
            stack += [(v, depth + 1) for v in value]
