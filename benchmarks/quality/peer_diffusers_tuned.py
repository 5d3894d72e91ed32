"""Diffusers' U-Net, tuned: what one gets from it with our optimiser, averages, precision, size and memory format.

Taken from kakusan: Muon on the hidden matrices (AdamW on the rest), power-function averages, the cool-down, the
distribution of noise levels and the choice of bf16 by timing. From Diffusers: the network, and one scheduler's EDM
preconditioning and DPM-Solver++ 2M on Karras's noise levels. What is left to tell the two apart is kakusan's network
(it works on folded pictures), its planning by the clock and its training loop. The noise-level input, ln(sigma)/4, is
multiplied by 1000, since this network's sinusoids are made for times of 0 to 1000. The learning rates are kakusan's
own for Muon and the default of its ``optim/muon`` for the rest; nothing was searched for this network.
"""

from __future__ import annotations

import copy
import math
import time
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from diffusers import EDMDPMSolverMultistepScheduler
from torch import Tensor, nn

from kakusan.app.draw.loaded import pick_device
from kakusan.training.ema import PowerEma
from kakusan.training.optim import Muon
from quality.data import pictures
from quality.peer_diffusers import STEPS, unet
from quality.record import Budget, Facts, batches, save_samples, shares, tensor, to_uint8, versions

BATCH, WARMUP, COOL, WIDTH = 64, 20, 0.4, 0.05
MUON, ADAMW = 0.01, 0.003
TIMES = 1000.0
FASTER = 1.1  # bf16 is taken where it is this much faster, as kakusan does


def rate(step: int, gone: float) -> float:
    """Factor of the learning rates: warm-up over 20 steps, constant, linear to zero over the last 40% of the time."""
    return min(1.0, (step + 1) / (WARMUP + 1)) * min(1.0, (1 - gone) / COOL)


class Edm:
    """Training and sampling around Diffusers' EDM scheduler."""

    def __init__(self, spread: float, side: int) -> None:
        self.scheduler = EDMDPMSolverMultistepScheduler(sigma_min=0.01, sigma_max=80.0, sigma_data=spread)
        self.spread = spread
        self.mean = -0.5 + 0.3 * math.log2(side / 32)

    def loss(self, net: nn.Module, clean: Tensor, cast: AbstractContextManager[object]) -> Tensor:
        """EDM's loss: the squared error of x0, weighted by ``(sigma^2 + spread^2) / (sigma spread)^2``."""
        sigma = (self.mean + 1.4 * torch.randn(len(clean), 1, 1, 1)).exp()
        noisy = clean + sigma * torch.randn_like(clean)
        inputs = self.scheduler.precondition_inputs(noisy, sigma).contiguous(memory_format=torch.channels_last)
        with cast:
            out = net(inputs, TIMES * self.scheduler.precondition_noise(sigma).flatten()).sample
        error = self.scheduler.precondition_outputs(noisy, out.float(), sigma) - clean
        return ((sigma**2 + self.spread**2) / (sigma * self.spread) ** 2 * error**2).mean()

    @torch.inference_mode()
    def draw(self, net: nn.Module, shape: torch.Size, count: int) -> Tensor:
        """``count`` samples."""
        self.scheduler.set_timesteps(STEPS)
        x = torch.randn(count, *shape) * self.scheduler.init_noise_sigma
        for t in self.scheduler.timesteps:
            inputs = self.scheduler.scale_model_input(x, t).contiguous(memory_format=torch.channels_last)
            x = self.scheduler.step(net(inputs, TIMES * t).sample, t, x).prev_sample
        return x


def autocast(half: bool) -> AbstractContextManager[object]:
    """bf16 where asked for."""
    return torch.autocast("cpu", torch.bfloat16, enabled=half)


def half_is_faster(edm: Edm, net: nn.Module, clean: Tensor, budget: Budget) -> bool:
    """Time a few steps of a copy in each precision, the first left out; no, once 5% of the time is gone."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    best = {}
    for half in (False, True):
        spare, taken = copy.deepcopy(net), []
        for _ in range(4):
            begun = time.perf_counter()
            edm.loss(spare, clean, autocast(half)).backward()
            taken.append(time.perf_counter() - begun)
            if budget.gone() > 0.05:
                return False
        best[half] = min(taken[1:])
    return best[True] * FASTER < best[False]


def run(train: Path, minutes: float, seed: int, out: Path, count: int, steps: int | None = None) -> Facts:
    """Train for so many minutes, draw the samples, store them."""
    pick_device("cpu")  # sets what kakusan sets for itself: denormals are flushed, freed memory is kept
    torch.manual_seed(seed)
    x = tensor(pictures(train))
    budget = Budget(minutes, steps)
    size = max(x.shape[2:])
    net = unet(x.shape[1:], (32, 64, 128) if size <= 32 else (32, 64, 96, 128), 1, groups=16)
    net.to(memory_format=torch.channels_last)
    edm = Edm(float((x[:: max(1, len(x) // 5000)].float() / 127.5 - 1).std()), size)
    feed, step = batches(x, BATCH), -1
    half = half_is_faster(edm, net, next(feed).float() / 127.5 - 1, budget)
    optimiser = Muon(lr=MUON, lr_rest=ADAMW).build(net)
    ema = PowerEma(net, [WIDTH], every=4)
    for step in budget.steps():
        for group in optimiser.param_groups:
            group["lr"] = group["initial_lr"] * rate(step, budget.gone())
        edm.loss(net, next(feed).float() / 127.5 - 1, autocast(half)).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        with autocast(half):  # as kakusan does, where Muon then iterates in bf16
            optimiser.step()
        optimiser.zero_grad()
        ema.update(step + 1)
    seconds = budget.elapsed()
    ema.update(step + 1, now=True)
    ema.write(WIDTH, net)
    net.eval()
    begun = time.monotonic()
    drawn = torch.cat([edm.draw(net, x.shape[1:], n) for n in shares(count)])
    taken = time.monotonic() - begun
    save_samples(out, to_uint8(drawn))
    return Facts(
        parameters=sum(p.numel() for p in net.parameters()),
        steps=step + 1,
        pictures=(step + 1) * BATCH,
        seconds=seconds,
        sampler="DPM-Solver++ 2M, Karras",
        sampler_steps=STEPS,
        samples=count,
        sample_seconds=taken,
        settings=f"UNet2DModel {tuple(net.config.block_out_channels)}, EDM, channels-last, batch 64, "
        f"Muon {MUON} and AdamW {ADAMW}, power EMA, {'bf16' if half else 'fp32'}",
        versions=versions(["torch", "diffusers", "kakusan"]),
    )
