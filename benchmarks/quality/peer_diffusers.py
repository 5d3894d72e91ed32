"""Diffusers' U-Net with the settings of Diffusers' own script, train_unconditional.py, at a size that suits a CPU.

The script's: DDPM, 1000 times, linear schedule, eps-prediction, mean squared error; batch 16; AdamW 1e-4, betas
(0.95, 0.999), decay 1e-6; 500 steps of warm-up, then a cosine to zero at the end of the run; clip 1; EMA with inv_gamma
1, power 3/4, at most 0.9999 (its README's --use_ema); fp32. Ours: channels (32, 64, 64) for (128, 128, 256, 256, 512,
512), so 1.6M parameters, attention where it is smallest; the native picture size; no mirror images.
Sampler: Diffusers' DPM-Solver++ 2M made from the training scheduler's settings, 20 steps, as its documentation shows.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn.functional import mse_loss

from quality.data import pictures
from quality.record import Budget, Facts, batches, save_samples, shares, tensor, to_uint8, versions

BATCH, WARMUP, STEPS = 16, 500, 20


def unet(shape: torch.Size, channels: tuple[int, ...], layers: int, groups: int = 32) -> torch.nn.Module:
    """A UNet2DModel for pictures (C, H, W), attention at its lowest level."""
    levels = len(channels)
    if shape[1] % 2 ** (levels - 1) or shape[1] != shape[2]:
        raise SystemExit(f"pictures of {shape[1]} x {shape[2]} do not halve {levels - 1} times in this U-Net")
    return UNet2DModel(
        sample_size=shape[1],
        in_channels=shape[0],
        out_channels=shape[0],
        layers_per_block=layers,
        block_out_channels=channels,
        norm_num_groups=groups,
        down_block_types=("DownBlock2D",) * (levels - 1) + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
    )


class Cosine:
    """Linear warm-up over WARMUP steps, then a half cosine over the rest of the time: 0 at the budget's end."""

    def __init__(self) -> None:
        self.warm: float | None = None  # share of the time gone when the warm-up ended

    def factor(self, step: int, gone: float) -> float:
        """What the learning rate is multiplied by; ``gone`` is the share of the time used."""
        if step < WARMUP:
            return step / WARMUP
        if self.warm is None:
            self.warm = gone
        return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (gone - self.warm) / max(1e-9, 1 - self.warm)))


@torch.inference_mode()
def draw(net: torch.nn.Module, scheduler: object, shape: torch.Size, count: int) -> Tensor:
    """``count`` samples by a Diffusers scheduler's own loop."""
    scheduler.set_timesteps(STEPS)
    x = torch.randn(count, *shape) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(net(scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample
    return x


def run(train: Path, minutes: float, seed: int, out: Path, count: int, steps: int | None = None) -> Facts:
    """Train for so many minutes, draw the samples, store them."""
    torch.manual_seed(seed)
    x = tensor(pictures(train))
    budget = Budget(minutes, steps)
    net = unet(x.shape[1:], (32, 64, 64) if x.shape[2] <= 32 else (32, 64, 64, 64), 2)
    ema = EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    noise_levels = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", prediction_type="epsilon")
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    schedule, feed, step = Cosine(), batches(x, BATCH), -1
    for step in budget.steps():
        for group in optimiser.param_groups:
            group["lr"] = 1e-4 * schedule.factor(step, budget.gone())
        clean = next(feed).float() / 127.5 - 1
        noise = torch.randn_like(clean)
        times = torch.randint(0, 1000, (len(clean),))
        mse_loss(net(noise_levels.add_noise(clean, noise, times), times).sample, noise).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        ema.step(net.parameters())
    seconds = budget.elapsed()
    ema.copy_to(net.parameters())
    net.eval()
    begun = time.monotonic()
    sampler = DPMSolverMultistepScheduler.from_config(noise_levels.config)
    drawn = torch.cat([draw(net, sampler, x.shape[1:], n) for n in shares(count)])
    taken = time.monotonic() - begun
    save_samples(out, to_uint8(drawn))
    return Facts(
        parameters=sum(p.numel() for p in net.parameters()),
        steps=step + 1,
        pictures=(step + 1) * BATCH,
        seconds=seconds,
        sampler="DPM-Solver++ 2M",
        sampler_steps=STEPS,
        samples=count,
        sample_seconds=taken,
        settings="UNet2DModel (32, 64, 64), eps, linear schedule, batch 16, AdamW 1e-4, cosine, EMA, fp32",
        versions=versions(["torch", "diffusers"]),
    )
