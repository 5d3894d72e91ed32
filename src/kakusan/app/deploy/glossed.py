"""Put a glossary into the file of a model that reads words: no training, and all its weights stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from kakusan.catalog import find
from kakusan.checkpoint import load_model, read_info, save_model
from kakusan.conditions.glossary import given, parsed
from kakusan.conditions.text import Words
from kakusan.part import KakusanError, Spec

__all__ = ["put_glossary"]


@dataclass(frozen=True)
class _Stored:
    """A model as its file has it."""

    tree: Spec
    weights: Mapping[str, Tensor]

    def spec(self) -> Spec:
        return self.tree

    def state_dict(self) -> dict[str, Any]:
        return dict(self.weights)


def put_glossary(model: str | Path, glossary: str | Path, out: str | Path | None = None) -> str:
    """Write a model file with ``glossary`` (a file, or the text itself; "" takes one out) to ``out``, otherwise over
    itself, and return its hash: another than before, since it reads prompts differently.

    The weak model beside it gets the same one. What the glossary does not name is read as it was, to the bit.
    """
    source, text = Path(model), given(str(glossary))
    parsed(text)
    load_model(source)  # whole and undamaged, or nothing is written
    about, weights = read_info(source), safetensors.torch.load_file(source)
    found = list(_readers(about["spec"]))
    if not found:
        raise KakusanError(f"{source}: this model reads no words of its own vocabulary: a glossary has nothing to do")
    for reader in found:
        reader["glossary"] = text
    dtype = next(v.dtype for v in weights.values() if v.is_floating_point())
    return save_model(source if out is None else out, _Stored(about["spec"], weights), about["info"], dtype)


def _readers(spec: Any) -> Iterator[Spec]:
    """The encoders of words in a spec."""
    children = spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else ()
    if isinstance(spec, dict) and "kind" in spec and issubclass(find(spec["kind"], "model"), Words):
        yield spec
    for child in children:
        yield from _readers(child)
