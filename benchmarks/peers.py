"""Peer: another library's U-Net, training step and sampler, for comparison with ours on the same machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["Peer", "make_peer"]


def make_peer(shape: tuple[int, ...], parameters: int) -> Peer:
    """The UNet2DModel nearest to ``parameters`` of the same plan (three levels, two blocks, attention at the last)."""
    try:
        from diffusers import UNet2DModel
    except ImportError:
        sys.exit("--peer diffusers: it is not installed (pip install diffusers)")

    def network(width: int) -> nn.Module:
        return UNet2DModel(
            sample_size=shape[1],
            in_channels=shape[0],
            out_channels=shape[0],
            layers_per_block=2,
            block_out_channels=(width, 2 * width, 2 * width),
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
        )

    def miss(width: int) -> int:
        with torch.device("meta"):
            return abs(sum(p.numel() for p in network(width).parameters()) - parameters)

    return Peer(network(min(range(16, 161, 8), key=miss)), shape)


class Peer:
    """As its own training example goes: DDPM noise, squared error, clipping, AdamW (fused here); DPM-Solver++ 2M."""

    def __init__(self, net: nn.Module, shape: tuple[int, ...]) -> None:
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.shape = shape
        self.parameters = sum(p.numel() for p in net.parameters())

    def _noise(self, batch: int) -> torch.Tensor:
        return torch.randn(batch, *self.shape).contiguous(memory_format=torch.channels_last)

    def training(self, batch: int) -> Callable[[], None]:
        from diffusers import DDPMScheduler

        net, noising = self.net, DDPMScheduler()
        optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
        x0 = self._noise(batch)

        def run() -> None:
            net.train()
            eps = torch.randn_like(x0)
            t = torch.randint(0, 1000, (batch,))
            out: Any = net(noising.add_noise(x0, eps, t), t)  # type: ignore[arg-type]
            F.mse_loss(out.sample, eps).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()

        return run

    def sampling(self, batch: int, steps: int) -> Callable[[], None]:
        from diffusers import DPMSolverMultistepScheduler

        net, solver = self.net, DPMSolverMultistepScheduler()

        def run() -> None:
            net.eval()
            solver.set_timesteps(steps)
            with torch.inference_mode():
                x = self._noise(batch)
                for t in solver.timesteps:
                    x = solver.step(net(x, t).sample, t, x).prev_sample

        return run
