"""Inception-v3 as published Fréchet distances use it: the network of 2015, ported from TensorFlow (Heusel et al. 2017).

It differs from other Inception-v3s: average pools leave padding out of the mean, the last block's pool takes the
maximum, and its classifier has 1,008 outputs (not used here). Names of the weights are those of pytorch-fid and of
torch-fidelity, whose file (``pt_inception-2015-12-05-6726825d.pth``, 91 MB) the user fetches; none is bundled.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kakusan.evaluation.weights import digest, load_into, read_weights

__all__ = ["DIMENSIONS", "InceptionV3", "load_inception"]

DIMENSIONS = 2048
EPS = 1e-3  # of its batch norms

Kernel = int | tuple[int, int]
Step = tuple[str, int, Kernel] | tuple[str, int, Kernel, int]  # name, outputs, kernel, stride (1 if left out)
Fork = list[Step]  # steps that take the same input; their outputs are joined
Branch = list[Step | Fork | str]  # the strings name pools


def grid35(pooled: int) -> list[Branch]:
    """Blocks at 35 x 35 places: 224 + ``pooled`` channels."""
    return [
        [("branch1x1", 64, 1)],
        [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
        ["average", ("branch_pool", pooled, 1)],
    ]


def grid17(inner: int) -> list[Branch]:
    """Blocks at 17 x 17 places: 768 channels, filters of 7 x 7 split into 1 x 7 and 7 x 1."""
    row, column = (1, 7), (7, 1)
    double: Branch = [("branch7x7dbl_1", inner, 1), ("branch7x7dbl_2", inner, column), ("branch7x7dbl_3", inner, row)]
    return [
        [("branch1x1", 192, 1)],
        [("branch7x7_1", inner, 1), ("branch7x7_2", inner, row), ("branch7x7_3", 192, column)],
        [*double, ("branch7x7dbl_4", inner, column), ("branch7x7dbl_5", 192, row)],
        ["average", ("branch_pool", 192, 1)],
    ]


def grid8(pool: str) -> list[Branch]:
    """Blocks at 8 x 8 places: 2,048 channels."""
    row, column = (1, 3), (3, 1)
    return [
        [("branch1x1", 320, 1)],
        [("branch3x3_1", 384, 1), [("branch3x3_2a", 384, row), ("branch3x3_2b", 384, column)]],
        [
            ("branch3x3dbl_1", 448, 1),
            ("branch3x3dbl_2", 384, 3),
            [("branch3x3dbl_3a", 384, row), ("branch3x3dbl_3b", 384, column)],
        ],
        [pool, ("branch_pool", 192, 1)],
    ]


HALVING_35: list[Branch] = [
    [("branch3x3", 384, 3, 2)],
    [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3, 2)],
    ["halve"],
]
HALVING_17: list[Branch] = [
    [("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2)],
    [
        ("branch7x7x3_1", 192, 1),
        ("branch7x7x3_2", 192, (1, 7)),
        ("branch7x7x3_3", 192, (7, 1)),
        ("branch7x7x3_4", 192, 3, 2),
    ],
    ["halve"],
]
BLOCKS: dict[str, list[Branch]] = {
    "Mixed_5b": grid35(32),
    "Mixed_5c": grid35(64),
    "Mixed_5d": grid35(64),
    "Mixed_6a": HALVING_35,
    "Mixed_6b": grid17(128),
    "Mixed_6c": grid17(160),
    "Mixed_6d": grid17(160),
    "Mixed_6e": grid17(192),
    "Mixed_7a": HALVING_17,
    "Mixed_7b": grid8("average"),
    "Mixed_7c": grid8("maximum"),  # not an average here: the published network has it so
}


def pooled(kind: str, x: Tensor) -> Tensor:
    """ "average" (padding left out of the mean) and "maximum" keep the size, "halve" takes the maximum, stride 2."""
    if kind == "average":
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    return F.max_pool2d(x, 3, 1, 1) if kind == "maximum" else F.max_pool2d(x, 3, 2)


class Block(nn.Module):
    """Branches side by side, their channels joined; a step pads to keep the size unless it has stride 2."""

    def __init__(self, inputs: int, branches: list[Branch]) -> None:
        super().__init__()
        self.branches, self.outputs = branches, 0
        for branch in branches:
            channels = inputs
            for step in branch:
                if not isinstance(step, str):
                    channels = sum(self._add(channels, s) for s in (step if isinstance(step, list) else [step]))
            self.outputs += channels

    def _add(self, inputs: int, step: Step) -> int:
        name, outputs, size, *rest = step
        kernel = size if isinstance(size, tuple) else (size, size)
        stride = rest[0] if rest else 1
        padding = (kernel[0] // 2, kernel[1] // 2) if stride == 1 else (0, 0)
        self.add_module(name, nn.Conv2d(inputs, outputs, kernel, stride, padding))
        return outputs

    def _step(self, step: Step | Fork | str, x: Tensor) -> Tensor:
        if isinstance(step, str):
            return pooled(step, x)
        if isinstance(step, list):
            return torch.cat([self._step(s, x) for s in step], 1)
        return F.relu(self.get_submodule(step[0])(x), inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        ends = []
        for branch in self.branches:
            y = x
            for step in branch:
                y = self._step(step, y)
            ends.append(y)
        return torch.cat(ends, 1)


class InceptionV3(nn.Module):
    """RGB pictures (N, 3, 299, 299) of values 0 to 255 -> (N, 2048), the mean over places of the last feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = nn.Conv2d(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = nn.Conv2d(32, 32, 3)
        self.Conv2d_2b_3x3 = nn.Conv2d(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = nn.Conv2d(64, 80, 1)
        self.Conv2d_4a_3x3 = nn.Conv2d(80, 192, 3)
        inputs = 192
        for name, branches in BLOCKS.items():
            block = Block(inputs, branches)
            self.add_module(name, block)
            inputs = block.outputs

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.Conv2d_1a_3x3(x / 127.5 - 1))
        x = F.relu(self.Conv2d_2b_3x3(F.relu(self.Conv2d_2a_3x3(x))))
        x = F.relu(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(F.relu(self.Conv2d_4a_3x3(x)), 3, 2)
        for name in BLOCKS:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))


def load_inception(path: str | Path) -> tuple[InceptionV3, str]:
    """The network with a file's weights, and their hash. Raises KakusanError if the file is damaged or another's."""
    state = read_weights(path)
    with torch.device("meta"):  # every value comes from the file
        network = InceptionV3()
    network = network.to_empty(device="cpu").eval()
    names = {name: (f"{name}.conv", f"{name}.bn") for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    load_into(network, state, names, EPS, f"in {path}")
    return network, digest(state)
