"""The data as a model to start from takes them: one caption or class for all pictures, classes by the model's names;
what the pictures lack is said."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kakusan.domains.image import Image
from kakusan.part import KakusanError, Spec
from kakusan.training.captions import PROMPT
from kakusan.training.metadata import Gathered
from kakusan.training.source import Source

__all__ = ["as_drawn", "name_classes", "suit"]

LISTED = 12  # classes named in an error


def suit(
    source: Source, chosen: Mapping[str, Any], encoders: Mapping[str, Spec], alone: bool, tell: Callable[[str], None]
) -> None:
    """Change a source for a model with these encoders; ``alone``: conditions of the data that it lacks are left out,
    since only adapters are trained."""
    if chosen["prompt"] is not None:
        source.texts = _all(str(chosen["prompt"]), len(source), PROMPT in encoders)
    if chosen["label"] is not None:
        if "label" not in encoders:
            raise KakusanError(f"--label {chosen['label']}: the model to start from has no classes; leave it out")
        source.labels, source.classes = np.zeros(len(source), np.int32), [str(chosen["label"])]
    if "label" in encoders:
        _classes(source, encoders["label"], chosen["label"] is not None, tell)
    elif alone and source.labels is not None:
        tell(f"the model knows no classes: the {len(source.classes)} of the data are left out")
        source.labels, source.classes = None, []
    if PROMPT in encoders and source.texts is None and chosen["captions"] != "none" and chosen["pairs"] is None:
        tell(
            "the pictures have no captions, and the model reads words: what they show is learnt as what it draws "
            'without a prompt; give all of them one, as --prompt "a photo of sks mug"'
        )
    elif alone and PROMPT not in encoders and source.texts is not None:
        tell("the model reads no words: the captions of the data are left out")
        source.texts = None


def name_classes(source: Source, names: Sequence[str], tell: Callable[[str], None]) -> None:
    """Classes that the data only number, 0 and up, take as many names in their order; others keep their own."""
    numbers = [str(i) for i in range(len(source.classes))]
    if source.labels is None or not names or source.classes != numbers or list(names) == numbers:
        return
    if len(names) != len(numbers):
        listed = ", ".join(names[:LISTED])
        raise KakusanError(
            f"{source.path}: numbers its {len(numbers)} classes, and there are {len(names)} names ({listed}); "
            "give a name for each, or --labels none"
        )
    source.classes = list(names)
    tell(f"{source.path}: numbers its classes; they are called {names[0]!r} and so on, in their order")


def as_drawn(source: Source, domain: Image, tell: Callable[[str], None]) -> None:
    """Says where the pictures are of another kind than the model draws, and become of its kind."""
    own = Image.fit(source.sample(64))
    if (own.mode, own.depth) != (domain.mode, domain.depth):
        theirs, ours = (f"{d.mode} of {d.depth} bits" for d in (own, domain))
        tell(f"the pictures are {theirs} and are made {ours}, as the model draws")


def _all(caption: str, count: int, read: bool) -> Any:
    """One caption for all pictures."""
    if not read:
        raise KakusanError(f"--prompt {caption!r}: the model to start from reads no words; leave it out")
    if not caption.strip():
        raise KakusanError("--prompt: is empty; say what the pictures show, as 'a photo of sks mug'")
    found = Gathered()
    for _ in range(count):
        found.add([caption])
    return found.texts()


def _classes(source: Source, label: Spec, said: bool, tell: Callable[[str], None]) -> None:
    """The source's classes as the model's, by name in any case."""
    named = label["classes"]
    names = [str(i) for i in range(named)] if isinstance(named, int) else [str(name) for name in named]
    called = str(label.get("called", "label"))
    if source.labels is None:
        tell(
            f"the pictures have no {called}, which the model knows {len(names)} of: they are learnt as none; name it "
            f"with --label {names[0]!r}, or by a folder for each"
        )
        return
    name_classes(source, names, tell)
    folded = {name.casefold(): i for i, name in enumerate(names)}
    unknown = next((name for name in source.classes if name.casefold() not in folded), None)
    if unknown is not None:
        close = difflib.get_close_matches(unknown.casefold(), folded, n=3, cutoff=0.4)
        near = f"nearest: {', '.join(names[folded[c]] for c in close)}" if close else ", ".join(names[:LISTED])
        where = "--label" if said else f"{source.path}:"
        fix = "" if said else "; rename the folder, or --labels none"
        raise KakusanError(f"{where} {unknown!r} is no {called} of the model to start from ({near}){fix}")
    table = np.array([folded[name.casefold()] for name in source.classes], np.int32)
    source.labels = np.where(source.labels < 0, -1, table[np.maximum(source.labels, 0)]).astype(np.int32)
    source.classes, source.called = names, called
