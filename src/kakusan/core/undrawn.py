"""undrawn: modules built without drawing the initial weights that a file's own are about to replace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

__all__ = ["undrawn"]

_MADE = (torch.randn, torch.rand)
_FILLED = (Tensor.normal_, Tensor.uniform_, init.normal_, init.uniform_, init.kaiming_uniform_)  # first argument: where


class undrawn(TorchFunctionMode):
    """Inside this block random tensors are of their shape and dtype and of no particular values.

    The draws of the modules' constructors cost more than reading their weights; on the device ``meta``, where there is
    nothing to draw, torch imports its compiler for them. For constructors alone: every parameter and buffer has to be
    loaded afterwards.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = {} if kwargs is None else kwargs
        if func in _FILLED:
            return args[0] if args else given["tensor"]
        return (torch.empty if func in _MADE else func)(*args, **given)
