"""Cold start: seconds from ``kakusan sample MODEL -n 1`` to the first picture on disk, each in a fresh process.

    python benchmarks/cold_start.py [MODEL] [--rounds 7] [--width 64] [--device cpu]

Without MODEL an untrained network of ``--width`` for 28x28x1 pictures is written first: the time is that of a trained
one. Printed beside it, measured in turns: the interpreter alone and ``import torch`` alone, which no program on torch
can avoid. Files are in the page cache: the first round, which may read them from the disk, is printed by itself.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

FORBIDDEN = ("diffusers", "torch._dynamo", "torch._inductor", "sympy", "onnx", "torch.onnx", "transformers", "scipy")


def untrained(path: Path, width: int) -> None:
    """A model file of the plan's kind."""
    import torch

    from kakusan.catalog import build
    from kakusan.checkpoint import save_model
    from kakusan.core.model import Model
    from kakusan.training.plan import Facts, model_spec, networks

    facts = Facts(60_000, (1, 28, 28), 0.5, {"kind": "domain/image", "size": [28, 28], "mode": "L"})
    net = networks(facts, torch.device("cpu"))[0] | {"width": width}
    model = build(model_spec(facts, net), "model")
    assert isinstance(model, Model)
    save_model(path, model, {})


def finished(command: list[str]) -> Callable[[Path], float]:
    """Seconds until the command has ended."""

    def run(folder: Path) -> float:
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - start

    return run


def pictures_on_disk(command: list[str], count: int = 1) -> Callable[[Path], float]:
    """Seconds until ``count`` pictures of the command are whole on disk (it ends a little later)."""

    def run(folder: Path) -> float:
        start = time.perf_counter()
        with subprocess.Popen([*command, "--out", str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as p:
            while p.poll() is None and sum(_whole(f) for f in folder.glob("*.png")) < count:
                time.sleep(0.005)
            spent = time.perf_counter() - start
            said = p.stderr.read().decode() if p.stderr else ""
        if p.returncode:
            sys.exit(f"{' '.join(command)}: {said}")
        return spent

    return run


def _whole(path: Path) -> bool:
    return path.read_bytes().endswith(b"IEND\xaeB`\x82")


def modules(model: Path, device: str) -> list[str]:
    """Which of the heavy modules that sampling does not need were imported after all."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["sample", str(model), "-n", "1", "--device", device, "--out", folder]
        code = f"import sys; from kakusan.app.cli import _run; _run({words!r}); print(*sys.modules, sep='\\n')"
        out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    loaded = set(out.split())
    return [name for name in FORBIDDEN if name in loaded]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        model = options.model or scratch / "model.safetensors"
        if options.model is None:
            untrained(model, options.width)
        sample = [sys.executable, "-m", "kakusan.app.cli", "sample", str(model), "-n", "1", "--device", options.device]
        cases = {
            "first picture on disk": pictures_on_disk(sample),
            "import torch": finished([sys.executable, "-c", "import torch"]),
            "interpreter": finished([sys.executable, "-c", "pass"]),
        }
        seconds: dict[str, list[float]] = {case: [] for case in cases}
        for lap in range(options.rounds + 1):
            for case, run in cases.items():
                seconds[case].append(run(scratch / f"{lap}"))
        for case, (first, *rest) in seconds.items():
            print(f"{case:24s}{median(rest):7.2f} s median of {len(rest)}, best {min(rest):.2f}, first {first:.2f}")
        shares = [b / a for a, b in zip(seconds["first picture on disk"][1:], seconds["import torch"][1:], strict=True)]
        print(f"import torch is {median(shares):.0%} of it")
        found = modules(model, options.device) or ["none of", *FORBIDDEN]
        print("imported without need:", *found)


if __name__ == "__main__":
    main()
