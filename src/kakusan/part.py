"""Part: an object that remembers the arguments it was built with, which are its configuration.

The signature of a constructor is the schema; the recorded arguments, as a tree with a ``kind`` at each node,
are the recipe file, the metadata of a checkpoint and the Python object: one tree, three places.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Self

__all__ = ["KakusanError", "Part", "Spec"]

Spec = dict[str, Any]


class KakusanError(Exception):
    """A mistake that its user can mend: the message names the argument, the value received and the fix."""


class Part:
    """Base of everything that a recipe can name.

    A concrete part sets ``kind`` ("process/vp"). Its constructor takes plain values (numbers, strings, booleans,
    None, lists and dicts of them) and other parts, and nothing else; ``spec()`` gives them back as a tree.
    """

    kind: ClassVar[str] = ""
    _args: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        bound = cls.signature().bind_partial(*args, **kwargs)
        bound.apply_defaults()
        object.__setattr__(self, "_args", dict(bound.arguments))
        return self

    @classmethod
    def signature(cls) -> inspect.Signature:
        """The constructor's own arguments: the schema of this part's spec."""
        if "__init__" not in cls.__dict__:
            return inspect.Signature()
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        return inspect.Signature(parameters)

    def spec(self) -> Spec:
        """The tree that rebuilds this part: ``{"kind": kind, argument: value, ...}``, defaults written out."""
        if not self.kind:
            raise KakusanError(f"{type(self).__name__} has no kind: only concrete parts have a spec")
        return {"kind": self.kind} | {name: _plain(value, name) for name, value in self._args.items()}

    def replace(self, **changes: Any) -> Self:
        """A new part of the same class, built with some arguments changed (learned weights are not copied)."""
        return type(self)(**(self._args | changes))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self._args.items())})"


def _plain(value: Any, where: str) -> Any:
    """A recorded argument as JSON-able data."""
    if isinstance(value, Part):
        return value.spec()
    if isinstance(value, (list, tuple)):
        return [_plain(v, where) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v, where) for k, v in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise KakusanError(f"argument {where!r} is a {type(value).__name__}: a part takes plain values and parts only")
