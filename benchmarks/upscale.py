"""How well a model enlarges pictures that it was not trained on, beside interpolation.

    pip install "kakusan[eval]"
    python benchmarks/upscale.py icons-upscale icons-256:test-concepts [-n 300] [--out upscale.json]

Each picture is made small by means over squares, as in training, rounded to 8 bits, and enlarged: by the model, by
cubic and by Lanczos interpolation and by repeating pixels. PSNR is over all numbers that the model sees (colours
multiplied by alpha); of a mean of the model's seeds too, which leaves out what it guesses. Fréchet distances are to the
same pictures in features that look at 224 pixels (kakusan.evaluation); the floor is two halves of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Pil
from torch import Tensor
from torch.nn import functional as F

from kakusan.app.draw.loaded import Loaded, load
from kakusan.app.draw.upscale import encoder_of, upscale
from kakusan.app.edit.editing import Wanted, model_domain
from kakusan.domains.domain import Record
from kakusan.domains.image import Image
from kakusan.evaluation.features import extractor
from kakusan.evaluation.frechet import frechet
from kakusan.files import write_json
from kakusan.training.source import open_source

INTERPOLATIONS = {
    "cubic": Pil.Resampling.BICUBIC,
    "Lanczos": Pil.Resampling.LANCZOS,
    "repeated": Pil.Resampling.NEAREST,
}


def tensors(domain: Image, pictures: Sequence[np.ndarray]) -> Tensor:
    """Pictures (H, W, C) as the domain diffuses them, (N, C, H, W)."""
    return torch.stack([domain.tensor(Record(p, {"name": "picture"})) for p in pictures])


def pictures(domain: Image, x: Tensor) -> np.ndarray:
    """The way back."""
    return np.stack([record.data for record in domain.records(x)])


def interpolated(x: Tensor, factor: int, how: Pil.Resampling) -> Tensor:
    """x (N, C, h, w) so many times as large, channel by channel."""
    size = (x.shape[3] * factor, x.shape[2] * factor)
    planes = [torch.from_numpy(np.array(Pil.fromarray(p).resize(size, how))) for p in x.flatten(0, 1).numpy()]
    return torch.stack(planes).unflatten(0, x.shape[:2])


def psnr(truth: Tensor, made: Tensor) -> float:
    """Mean over pictures of 20 log10(2 / rms), for numbers in [-1, 1]."""
    rms = (truth - made).square().mean((1, 2, 3)).sqrt().clamp(min=1e-5)
    return float((20 * torch.log10(2 / rms)).mean())


def measured(
    loaded: Loaded, data: str, count: int, seeds: int, steps: int | None, embed: Callable[[np.ndarray], np.ndarray]
) -> dict[str, dict[str, Any]]:
    """A row a way."""
    domain, factor = model_domain(loaded), encoder_of(loaded).factor
    large = [domain.fitted(record) for record in open_source(data).sample(count)]
    truth = tensors(domain, large)
    small = domain.resized((truth.shape[2] // factor, truth.shape[3] // factor))
    low = pictures(small, F.avg_pool2d(truth, factor))
    real, half = embed(np.stack(large)), len(large) // 2
    rows: dict[str, dict[str, Any]] = {"floor": {"frechet": frechet(real[:half], real[half:])}}
    begun = time.perf_counter()
    drawn = np.stack([[e.data for e in upscale(loaded, p, Wanted(n=seeds, steps=steps))] for p in low])
    seconds = (time.perf_counter() - begun) / (len(low) * seeds)
    ways = {"model": drawn[:, 0]} | {
        name: pictures(domain, interpolated(tensors(small, list(low)), factor, how))
        for name, how in INTERPOLATIONS.items()
    }
    for name, made in ways.items():
        rows[name] = {"psnr": psnr(truth, tensors(domain, list(made))), "frechet": frechet(real, embed(made))}
    mean = torch.stack([tensors(domain, list(drawn[:, i])) for i in range(seeds)]).mean(0)
    rows["model"] |= {"psnr_of_mean": psnr(truth, mean), "seconds": seconds}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", help="large pictures that the model was not trained on")
    parser.add_argument("-n", "--count", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, help="default: the model's own")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    loaded = load(chosen.model, "cpu")
    embed = extractor("efficientnet-lite0-224")
    rows = measured(loaded, chosen.data, chosen.count, chosen.seeds, chosen.steps, embed)
    for name, row in rows.items():
        print(f"{name:10}" + "  ".join(f"{what} {value:.4g}" for what, value in row.items()))
    if chosen.out:
        write_json(chosen.out, {"model": loaded.info_["hash"], "pictures": chosen.count, "rows": rows})


if __name__ == "__main__":
    main()
