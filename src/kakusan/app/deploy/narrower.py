"""Narrower: a network of the same kind and depth with a share of the parameters."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from kakusan.catalog import build, find
from kakusan.part import KakusanError

__all__ = ["narrower"]

Tree = dict[str, Any]


def narrower(net: Tree, share: float) -> Tree:
    """The spec of a network whose ``width`` gives it nearest to ``share`` of the parameters; all else stays."""
    if "width" not in find(net["kind"], "model.denoiser.net").signature().parameters:
        raise KakusanError(f"--student-size {share:g}: {net['kind']} has no width to make less of")
    width, heads = int(net["width"]), int(net.get("heads", 1))
    unit = math.lcm(heads, 8 if width >= 64 else 2)
    least = max(2, 2 * int(net.get("dims", 1)))
    widths = [w for w in range(unit, width, unit) if w >= least]
    if not widths:
        raise KakusanError(f"--student-size {share:g}: a network of width {width} and {heads} heads is narrow already")
    wanted = share * _parameters(net)
    chosen = min(widths, key=lambda w: abs(_parameters({**net, "width": w}) - wanted))
    return {**net, "width": chosen}


def _parameters(net: Tree) -> int:
    with torch.device("meta"):
        made = build(net, "model.denoiser.net")
    assert isinstance(made, nn.Module)
    return sum(p.numel() for p in made.parameters())
