"""How fast the networks run here: milliseconds a training step and a forward pass, and their share of the peak.

    python benchmarks/net_step.py [--rounds 5] [--only unet-64] [--bf16] [--plain-malloc]

The peak is a 2048^2 fp32 matrix product measured in the same process, in turns with the networks; every figure is the
best of the rounds, so that a busy machine disturbs it least. GFLOP are counted by PyTorch; training is forward,
backward and AdamW. A share can exceed 100%: oneDNN's convolutions may be faster than the matrix product.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from kakusan.core.batch import NO_COND
from kakusan.core.denoiser import Net
from kakusan.nets.dit import DiT
from kakusan.nets.layers import keep_memory
from kakusan.nets.unet import UNet

CASES: dict[str, tuple[Callable[[], Net], int, int]] = {  # name -> network, channels, size
    "unet-32 28px grey": (lambda: UNet(1, width=32, unshuffle=2), 1, 28),
    "unet-64 28px grey": (lambda: UNet(1, width=64, unshuffle=2), 1, 28),
    "unet-96 28px grey": (lambda: UNet(1, width=96, unshuffle=2), 1, 28),
    "unet-64 32px RGB": (lambda: UNet(3, width=64, unshuffle=2), 3, 32),
    "unet-96 64px RGBA": (lambda: UNet(4, width=96, unshuffle=4), 4, 64),
    "dit-256x8 28px grey": (lambda: DiT(1), 1, 28),
}


def training_step(net: Net, x: torch.Tensor, lam: torch.Tensor, bf16: bool) -> Callable[[], None]:
    """Forward, backward and AdamW."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)

    def run() -> None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            out = net(x, lam, NO_COND)
        (out - x).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()

    return run


def inference(net: Net, x: torch.Tensor, lam: torch.Tensor, bf16: bool) -> Callable[[], None]:
    """One evaluation."""

    def run() -> None:
        with torch.inference_mode(), torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            net(x, lam, NO_COND)

    return run


def timed(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of ``repeats`` runs."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--plain-malloc", action="store_true", help="leave the allocator as it is")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    if not options.plain_malloc:
        keep_memory()
    square = torch.randn(2048, 2048)
    rows = []
    for name, (make, channels, size) in CASES.items():
        if options.only not in name:
            continue
        net, x, lam = make(), torch.randn(options.batch, channels, size, size), torch.randn(options.batch)
        with FlopCounterMode(display=False) as counter:
            net(x[:2], lam[:2], NO_COND)
        runs = {
            "train": (training_step(net, x, lam, options.bf16), 1),
            "forward": (inference(net, x, lam, options.bf16), 1),
            "one": (inference(net, x[:1], lam[:1], options.bf16), 10),
        }
        rows.append((name, net, counter.get_total_flops() / 2e9, runs, dict.fromkeys(runs, float("inf"))))
    peak = float("inf")
    for _ in range(options.rounds):
        peak = min(peak, timed(lambda: square @ square, 2))
        for _, _, _, runs, best in rows:
            for kind, (run, repeats) in runs.items():
                best[kind] = min(best[kind], timed(run, repeats))
    rate = 2 * 2048**3 / peak / 1e9
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, 2048^2 fp32 product {rate:.0f} GFLOP/s")
    titles = ("params", "GFLOP", "train", "a second", "share", "forward", "share", "batch 1")
    print(f"{'network':22s}" + "".join(f"{title:>10s}" for title in titles))
    for name, net, flop, _, best in rows:
        size = sum(p.numel() for p in net.parameters()) / 1e6
        train = 3 * flop * options.batch / best["train"] / rate
        forward = flop * options.batch / best["forward"] / rate
        print(
            f"{name:22s}{size:9.2f}M{flop:10.3f}{best['train'] * 1e3:8.1f}ms{options.batch / best['train']:10.0f}"
            f"{train:10.0%}{best['forward'] * 1e3:8.1f}ms{forward:10.0%}{best['one'] * 1e3:8.2f}ms"
        )


if __name__ == "__main__":
    main()
