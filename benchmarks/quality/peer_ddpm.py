"""denoising-diffusion-pytorch with the defaults of its Trainer, in an environment of its own.

Run by time_to_quality.py as ``python -m quality.peer_ddpm``; needs torch, numpy, einops, ema-pytorch, accelerate, scipy
and denoising-diffusion-pytorch. torchvision, which it imports for its folder reader and its picture grids alone, is
stood in for by empty modules where it is missing: neither is used here, pictures come as tensors.

Its settings: Unet(dim 32, dim_mults (1, 2, 4)) instead of (64, (1, 2, 4, 8)), which is no size for a CPU; the native
picture size; then GaussianDiffusion's and Trainer's defaults: 1000 times, sigmoid schedule, pred_v, batch 16, Adam 1e-4
with betas (0.9, 0.99), clip 1, EMA 0.995 every 10 steps. No mirror images, which no other system gets.
Sampler: its DDIM in 50 steps; its README says 250 "for faster inference", but from 50 on DDIM hardly gains (Song et al.
2020, table 1: FID 4.67 at 50, 4.16 at 100 steps), far less than the differences measured here.
"""

from __future__ import annotations

import argparse
import sys
import time
import types
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import torch

from quality.data import pictures
from quality.record import SAMPLES, Budget, Facts, batches, save_samples, shares, tensor, to_uint8, versions, write

BATCH, STEPS = 16, 50


def stand_in_for_torchvision() -> bool:
    """Empty torchvision modules where it is not installed; whether that was so."""
    if find_spec("torchvision") is not None:
        return False
    for name in ("torchvision", "torchvision.transforms", "torchvision.utils"):
        module = types.ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, is_package=name == "torchvision")
        module.__path__ = []
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    return True


def run(train: Path, minutes: float, seed: int, out: Path, count: int, steps: int | None = None) -> Facts:
    """Train for so many minutes, draw the samples, store them."""
    stood_in = stand_in_for_torchvision()
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA

    torch.manual_seed(seed)
    x = tensor(pictures(train))
    budget = Budget(minutes, steps)
    net = Unet(dim=32, dim_mults=(1, 2, 4), channels=x.shape[1])
    diffusion = GaussianDiffusion(net, image_size=tuple(x.shape[2:]), sampling_timesteps=STEPS)
    optimiser = torch.optim.Adam(diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))
    ema = EMA(diffusion, beta=0.995, update_every=10)
    feed = batches(x, BATCH)
    for _ in budget.steps():
        loss = diffusion(next(feed).float() / 255)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        ema.update()
    seconds = budget.elapsed()
    ema.ema_model.eval()
    begun = time.monotonic()
    drawn = torch.cat([ema.ema_model.sample(batch_size=n) for n in shares(count)])
    taken = time.monotonic() - begun
    save_samples(out, to_uint8(drawn * 2 - 1))
    known = versions(["torch", "denoising-diffusion-pytorch", "ema-pytorch"])
    known["torchvision"] = "stood in for" if stood_in else versions(["torchvision"])["torchvision"]
    return Facts(
        parameters=sum(p.numel() for p in net.parameters()),
        steps=budget.done,
        pictures=budget.done * BATCH,
        seconds=seconds,
        sampler="DDIM",
        sampler_steps=STEPS,
        samples=count,
        sample_seconds=taken,
        settings="Unet dim 32 (1, 2, 4), sigmoid schedule, pred_v, batch 16, Adam 1e-4, EMA 0.995 every 10, fp32",
        versions=known,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--train", "--out", "--data"):
        parser.add_argument(name, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--steps", type=int)
    args = parser.parse_args()
    facts = run(Path(args.train), args.minutes, args.seed, Path(args.out), args.samples, args.steps)
    known = {"counted": args.steps is not None}
    write(Path(args.out), facts, system="ddpm-pytorch", data=args.data, minutes=args.minutes, seed=args.seed, **known)


if __name__ == "__main__":
    main()
