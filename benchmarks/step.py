"""The share of this machine's own matrix-product rate that training and sampling reach, and where their time goes.

    python benchmarks/step.py [--rounds 7] [--minutes 10 | --width 64] [--batch 1 64] [--only 28] [--threads 2]
    python benchmarks/step.py --peer diffusers          the same against a UNet2DModel of about equal size
    python benchmarks/step.py --winograd --width 80     the training step also with Winograd's filtering
    python benchmarks/step.py --against activations=2   also with that setting of the network, in turns

For pictures of 28x28x1, 32x32x3 and 64x64x4, with the network that the plan chooses for ``--minutes`` here, or the one
of ``--width``. A training step is the loop's own: loss, backward, clipping, Muon, averages (every fourth step). A
sampling step is one solver step of the default sampler. The rates are the machine's best of a 2048^2 fp32 product and
of a 3x3 convolution (128 channels, channels-last), measured in the same rounds, in turns; the share is the median over
the rounds of (GFLOP/s of the step) / (GFLOP/s of the product in that round). GFLOP are PyTorch's count of forward and
backward; the optimiser's own products are listed apart and belong to no share. With Winograd's filtering the GFLOP
are those of the direct convolutions that it stands for, so that rates compare.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import median

import torch
from peers import make_peer
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from kakusan.app.draw.sampler import Request, steps
from kakusan.catalog import build
from kakusan.core.batch import Batch
from kakusan.core.model import Model
from kakusan.core.objective import Objective
from kakusan.core.rng import Rng
from kakusan.nets import winograd
from kakusan.nets.layers import keep_memory, plain_attention
from kakusan.training import plan
from kakusan.training.ema import PowerEma
from kakusan.training.machine import flush_denormals
from kakusan.training.settings import Training

SHAPES = [(1, 28, 28), (3, 32, 32), (4, 64, 64)]
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
SOLVER_STEPS = 5  # of one timed sampling; the first order of the multistep solver is among them
CPU = torch.device("cpu")
GROUPS = {  # operator -> row of the table
    "convolution": ("mkldnn_convolution", "convolution_backward", "_slow_conv", "thnn_conv"),
    "matrix product": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkl_linear", "mkldnn_linear"),
    "attention": ("scaled_dot_product", "softmax"),
    "norm": ("group_norm",),
    "silu": ("silu",),
    "copies": ("copy_", "aten::cat", "clone", "contiguous", "mkldnn_reorder", "index_select", "upsample"),
    "pointwise": ("aten::add", "aten::mul", "addcmul", "aten::sub", "aten::div", "aten::sum", "square", "fill_"),
}


@dataclass
class Case:
    """One thing to time: ``run()`` handles ``pictures`` pictures with ``flop`` GFLOP, ``extra`` of the optimiser."""

    name: str
    run: Callable[[], None]
    pictures: int
    flop: float
    extra: float = 0.0
    parts: dict[str, Callable[[], None]] = field(default_factory=dict)  # run() in pieces, for the table of operators
    seconds: list[float] = field(default_factory=list)


def chosen(shape: tuple[int, ...], minutes: float, width: int | None) -> tuple[Model, Training]:
    """The model that the plan takes for many pictures of this shape and ``minutes``, or the one of ``width``."""
    domain = {"kind": "domain/image", "size": list(shape[1:]), "mode": MODES[shape[0]]}
    facts = plan.Facts(60_000, shape, 0.5, domain)
    if width is None:

        def sample(count: int, model: Model) -> Batch:
            return Batch(torch.randn(count, *shape).contiguous(memory_format=torch.channels_last))

        made = plan.make(facts, sample, minutes=minutes, steps=None, seed=0, device=CPU)
        spec, settings = made.model, made.training
    else:
        net = plan.networks(facts, CPU)[0] | {"width": width}
        spec, settings = plan.model_spec(facts, net), plan.training_spec(facts, None, minutes, 0)
    torch.manual_seed(0)
    model, training = build(spec, "model"), build(settings, "training")
    assert isinstance(model, Model) and isinstance(training, Training)
    return model.to(memory_format=torch.channels_last), training  # type: ignore[call-overload]


def training_case(model: Model, training: Training, shape: tuple[int, ...], batch: int) -> Case:
    """A step as training/loop.py makes it, on pictures of noise."""
    model.train()
    optimiser = training.optim.build(model)
    ema = PowerEma(model, list(training.ema), training.ema_every)
    objective: Objective = training.objective
    params = [p for group in optimiser.param_groups for p in group["params"]]
    data = Batch(torch.randn(batch, *shape).contiguous(memory_format=torch.channels_last))
    count = 0

    def learn() -> None:
        loss, _ = objective.terms(model, data, Rng(range(batch), CPU), count)
        loss.mean().backward()

    def clip() -> None:
        nn.utils.clip_grad_norm_(params, training.clip)

    def move() -> None:
        optimiser.step(finite=torch.tensor(True))
        optimiser.zero_grad(set_to_none=True)

    def average() -> None:
        nonlocal count
        count += 1
        ema.update(count)

    def run() -> None:
        learn()
        clip()
        move()
        average()

    run()
    with plain_attention():  # the fused attention is not counted, its products are
        flop = counted(learn)
    parts = {"network": learn, "clipping": clip, "optimiser": move, "averages": average}
    return Case(f"train, batch {batch}", run, batch, flop, counted(move), parts)


def filtered_case(model: Model, training: Training, shape: tuple[int, ...], direct: Case) -> Case:
    """The same step with Winograd's filtering where layers are wide enough for it."""
    own = copy.deepcopy(model)
    layers = len(winograd.layers(winograd.install(own.denoiser.net)))
    case = training_case(own, training, shape, direct.pictures)
    return replace(case, name=f"  winograd, {layers} layers", flop=direct.flop)


def with_setting(model: Model, setting: str) -> Model:
    """The same model with another value of one of the network's arguments, ``name=value`` in JSON."""
    name, _, value = setting.partition("=")
    own = copy.deepcopy(model)
    own.denoiser.net = own.denoiser.net.replace(**{name: json.loads(value)})
    return own.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def sampling_case(model: Model, shape: tuple[int, ...], batch: int) -> Case:
    """Steps of the model's default solver and guidance."""

    def run() -> None:
        for _ in steps(model, Request(range(batch), steps=SOLVER_STEPS), [shape] * batch):
            pass

    model.eval()
    with plain_attention():
        flop = counted(run)
    return Case(f"sample, batch {batch}", run, batch * SOLVER_STEPS, flop, parts={"network": run})


def counted(run: Callable[[], None]) -> float:
    """GFLOP of a call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def machine_rates() -> dict[str, Case]:
    """The two yardsticks."""
    square = torch.randn(2048, 2048)
    conv = nn.Conv2d(128, 128, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
    x = torch.randn(64, 128, 14, 14).contiguous(memory_format=torch.channels_last)

    def convolve() -> None:
        with torch.inference_mode():
            conv(x)

    return {
        "product": Case("product", lambda: torch.mm(square, square), 1, 2 * 2048**3 / 1e9),
        "convolution": Case("convolution", convolve, 1, 2 * 9 * 128 * 128 * 64 * 14 * 14 / 1e9),
    }


def measure(cases: list[Case], rates: dict[str, Case], rounds: int) -> None:
    """Every case once a round, in turns with the yardsticks (each the best of three calls); the first round is lost."""
    for lap in range(rounds + 1):
        for rate in rates.values():
            rate.seconds.append(min(timed(rate.run) for _ in range(3)))
        for case in cases:
            case.seconds.append(min(timed(case.run) for _ in range(3)) if case.pictures < 16 else timed(case.run))
        if lap == 0:
            for case in [*cases, *rates.values()]:
                case.seconds.clear()


def share(case: Case, rate: Case) -> float:
    """Median over the rounds of the case's rate over the yardstick's."""
    return median(case.flop / s / (rate.flop / r) for s, r in zip(case.seconds, rate.seconds, strict=True))


def where_time_goes(case: Case) -> str:
    """One line: share of self CPU time by kind of operator; what is not the network counts as one kind each."""
    table: dict[str, float] = {}
    for part, run in case.parts.items():
        with profile(activities=[ProfilerActivity.CPU]) as found:
            run()
        for event in found.key_averages():
            names = [row for row, keys in GROUPS.items() if any(k in event.key for k in keys)]
            row = part if part != "network" else names[0] if names else "other"
            table[row] = table.get(row, 0.0) + event.self_cpu_time_total
    total = sum(table.values())
    rows = sorted(table.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {spent / total:.1%}" for name, spent in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--minutes", type=float, default=10, help="the time for which the plan chooses the network")
    parser.add_argument("--width", type=int, help="take this width in place of the plan's")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--only", type=int, help="pictures of this side")
    parser.add_argument("--threads", type=int, help="threads of PyTorch")
    parser.add_argument("--peer", choices=["diffusers"], help="compare pictures a second")
    parser.add_argument("--winograd", action="store_true", help="also train with Winograd's filtering")
    parser.add_argument("--against", metavar="NAME=VALUE", help="compare with that setting of the network")
    parser.add_argument("--plain-malloc", action="store_true", help="leave the allocator as it is")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    flush_denormals()
    if not options.plain_malloc:
        keep_memory()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for shape in SHAPES:
        if options.only in (None, shape[1]):
            report(shape, options)


def report(shape: tuple[int, ...], options: argparse.Namespace) -> None:
    """Measure one picture shape and print its tables."""
    model, training = chosen(shape, options.minutes, options.width)
    parameters = sum(p.numel() for p in model.parameters())
    learning = [training_case(model, training, shape, batch) for batch in options.batch]
    own = learning + [sampling_case(model, shape, batch) for batch in options.batch]
    twins = [(case, filtered_case(model, training, shape, case)) for case in learning if options.winograd]
    if options.against:
        other = with_setting(model, options.against)
        made = [training_case(other, training, shape, batch) for batch in options.batch]
        made += [sampling_case(other, shape, batch) for batch in options.batch]
        named = [replace(case, name=f"  {options.against}") for case in made]
        twins += zip(own, named, strict=True)
    cases = [each for case in own for each in (case, *(twin for of, twin in twins if of is case))]
    peers: list[Case] = []
    if options.peer:
        peer = make_peer(shape, parameters)
        print(f"\n{options.peer}: UNet2DModel with {peer.parameters / 1e6:.2f}M parameters")
        for batch in options.batch:
            run = peer.training(batch)
            peers.append(Case(f"train, batch {batch}", run, batch, counted(run)))
        for batch in options.batch:
            run = peer.sampling(batch, SOLVER_STEPS)
            peers.append(Case(f"sample, batch {batch}", run, batch * SOLVER_STEPS, counted(run)))
    rates = machine_rates()
    measure([*cases, *peers], rates, options.rounds)
    product, convolution = rates["product"], rates["convolution"]
    best = [rate.flop / min(rate.seconds) for rate in (product, convolution)]
    width = model.denoiser.net.spec()["width"]
    title = f"{shape[1]}x{shape[2]}x{shape[0]}, {parameters / 1e6:.2f}M parameters (width {width})"
    print(f"\n{title}; 2048^2 product {best[0]:.0f} GFLOP/s, 3x3 convolution {best[1]:.0f} GFLOP/s")
    heads = ("ms", "pictures/s", "GFLOP", "optimiser", "GFLOP/s", "of product", "of convolution")
    print(f"{'':20s}" + "".join(f"{head:>15s}" for head in heads))
    for case in cases:
        spent = median(case.seconds)
        print(
            f"{case.name:20s}{spent * 1e3:15.2f}{case.pictures / spent:15.1f}{case.flop:15.3f}{case.extra:15.3f}"
            f"{case.flop / spent:15.1f}{share(case, product):15.1%}{share(case, convolution):15.1%}"
        )
    for case, twin in twins:
        ratio = median(a / b for a, b in zip(case.seconds, twin.seconds, strict=True))
        print(f"{twin.name} in place of it, {case.name}: {ratio:.2f} times as fast")
    for case in cases:
        print(f"  {case.name}: {where_time_goes(case)}")
    for case, peer_case in zip(own, peers, strict=False):
        pairs = zip(case.seconds, peer_case.seconds, strict=True)
        ratio = median((case.pictures / a) / (peer_case.pictures / b) for a, b in pairs)
        speed = peer_case.pictures / median(peer_case.seconds)
        print(f"  {options.peer}, {case.name}: {speed:.1f} pictures/s; kakusan {ratio:.2f} times as many")


if __name__ == "__main__":
    main()
