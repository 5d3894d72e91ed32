"""How fast kakusan samples beside Diffusers: the same network, and each one's own network at its own steps.

    pip install "kakusan[diffusers,export,openvino]"
    python benchmarks/against_diffusers.py forward [--size 32] [--channels 3] [--rounds 10]
    python benchmarks/against_diffusers.py samples MODEL [--steps 2] [--rounds 3]

``forward``: one evaluation of one UNet2DModel (the tuned peer's of time_to_quality.py, with random weights) by
Diffusers, eager as its users run it and channels-last, and by every engine of kakusan's that is installed, from the
same weights, each checked against Diffusers' result; milliseconds, the ratio to eager Diffusers, and the share of the
machine's own rate in a 2048^2 product. ``samples``: samples a second of MODEL with so many steps, by every engine,
beside the tuned peer's network of the same shape with Diffusers' DPM-Solver++ in 20 steps (its weights do not matter
for time); how good either is, few_steps.py and docs/explanation/quality.md say. All in turns, the best of each.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from quality.peer_diffusers import STEPS, unet
from quality.peer_diffusers_tuned import Edm
from torch.utils.flop_counter import FlopCounterMode

import kakusan
from kakusan.app.deploy.engines import LASTING, ledger, network_file, noise, swap
from kakusan.app.draw.sampler import Request
from kakusan.core.batch import Cond
from kakusan.part import KakusanError
from kakusan.runtime.nets import engine

BATCHES = (1, 64)
CHANNELS = (32, 64, 128)  # the tuned peer's, for pictures of up to 32 pixels
TIME = 500  # of 1000
ALLOWED = 1e-3  # of the largest number

Way = Callable[[], Any]


def turns(ways: dict[str, Way], rounds: int) -> dict[str, float]:
    """The least seconds of each, all of them in every round; the first round is not counted."""
    best = dict.fromkeys(ways, float("inf"))
    for i in range(rounds + 1):
        for name, run in ways.items():
            begun = time.perf_counter()
            run()
            if i:
                best[name] = min(best[name], time.perf_counter() - begun)
    return best


def peer_network(shape: torch.Size) -> torch.nn.Module:
    """The tuned peer's network, no weight of it zero: a wrong result could hide behind one."""
    net = unet(shape, CHANNELS, 1, groups=16).eval()
    torch.manual_seed(0)
    for p in net.parameters():
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=p[0].numel() ** -0.5)
    return net


def installed(engines: tuple[str, ...], make: Callable[[str], Way]) -> dict[str, Way]:
    """What can be made of each engine; what is missing is said."""
    found = {}
    for name in engines:
        try:
            found[f"kakusan, {name}"] = make(name)
        except KakusanError as missing:
            print(missing)
    return found


def answer(net: torch.nn.Module, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """What a network of Diffusers says."""
    return net(x, at).sample


@torch.inference_mode()
def forward(shape: torch.Size, rounds: int) -> None:
    """The table of one network's evaluation."""
    peer, schedule = peer_network(shape), DDPMScheduler()
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(Path(folder) / "unet")  # type: ignore[operator]
        schedule.save_pretrained(Path(folder) / "scheduler")
        ours = kakusan.load(folder, device="cpu")
    net, threads = ours.model.denoiser.net, torch.get_num_threads()
    x, _, cond = noise(ours.model, tuple(shape), 2)
    calls = installed(
        LASTING,
        lambda name: engine(name, net, x, cond, network_file(ours, tuple(shape), "model"), ledger(), threads)[0],
    )
    kept = float(schedule.alphas_cumprod[TIME])
    with FlopCounterMode(display=False) as counter:
        peer(x[:1], torch.tensor([TIME]))
    last = copy.deepcopy(peer).to(memory_format=torch.channels_last)
    square = torch.randn(2048, 2048)
    for batch in BATCHES:
        x = torch.randn(batch, *shape)
        at, lam = torch.full((batch,), TIME), torch.full((batch,), kept / (1 - kept)).log() / 2
        folded = x.contiguous(memory_format=torch.channels_last)
        ways: dict[str, Way] = {
            "Diffusers": partial(answer, peer, x, at),
            "Diffusers, channels-last": partial(answer, last, folded, at),
        }
        ways |= {name: partial(call, folded, lam, Cond()) for name, call in calls.items()}
        truth = ways["Diffusers"]()
        off = {name: float((way() - truth).abs().max() / truth.abs().max()) for name, way in ways.items()}
        if max(far for name, far in off.items() if "bf16" not in name) > ALLOWED:  # which rounds; how far is printed
            raise SystemExit(f"the results are not the same: {off}")
        taken = turns(ways | {"product": lambda: square @ square}, rounds)
        rate = 2 * 2048**3 / taken.pop("product")
        print(f"\nbatch {batch}: {rate / 1e9:.0f} GFLOP/s in a product, {threads} threads")
        for name, seconds in taken.items():
            share = counter.get_total_flops() * batch / seconds / rate
            gain = taken["Diffusers"] / seconds
            print(f"{name:<26}{1000 * seconds:>9.2f} ms{gain:>7.2f}x{100 * share:>6.0f}% of it   off {off[name]:.0e}")


def samples(model: str, steps: int | None, rounds: int) -> None:
    """The table of samples a second."""
    shape = torch.Size(kakusan.load(model, device="cpu").domain.blank(1)[0])
    peer = peer_network(shape).to(memory_format=torch.channels_last)
    edm = Edm(0.5, max(shape[1:]))

    def drawing(name: str, batch: int) -> Way:
        loaded = kakusan.load(model, device="cpu")
        swap(loaded, name, Request(seeds=list(range(batch)), steps=steps))
        return lambda: loaded.sample(batch, steps=steps)

    for batch in BATCHES:
        ways: dict[str, Way] = {f"Diffusers, {STEPS} steps": partial(edm.draw, peer, shape, batch)}
        ways |= installed(LASTING, partial(drawing, batch=batch))
        taken = turns(ways, rounds)
        first = next(iter(taken.values()))
        print(f"\nbatch {batch}, {torch.get_num_threads()} threads")
        for name, seconds in taken.items():
            print(f"{name:<26}{batch / seconds:>10.2f} pictures/s{first / seconds:>8.1f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("forward")
    one.add_argument("--size", type=int, default=32)
    one.add_argument("--channels", type=int, default=3)
    one.add_argument("--rounds", type=int, default=10)
    many = verbs.add_parser("samples")
    many.add_argument("model")
    many.add_argument("--steps", type=int)
    many.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    if asked.verb == "forward":
        forward(torch.Size((asked.channels, asked.size, asked.size)), asked.rounds)
    else:
        samples(asked.model, asked.steps, asked.rounds)


if __name__ == "__main__":
    main()
