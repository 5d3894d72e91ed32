"""How well a model enlarges pictures that it was not trained on, beside interpolation.

    pip install "kakusan[eval]"
    python benchmarks/upscale.py icons-upscale icons-256:test-concepts [-n 300] [--out upscale.json]

Each picture is made small by means over squares, as in training, rounded to 8 bits, and enlarged: by the model, by
cubic and by Lanczos interpolation and by repeating pixels. PSNR is over all channels with colours multiplied by alpha
(what is seen over black); of a mean of the model's seeds too, which leaves out what it guesses. Fréchet distances are
to the same pictures in features (kakusan.evaluation); the floor is two halves of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Pil
from torch.nn import functional as F

from kakusan.app.draw.loaded import Loaded, load
from kakusan.app.draw.upscale import encoder_of, upscale
from kakusan.app.edit.editing import Wanted, model_domain
from kakusan.domains.domain import Record
from kakusan.evaluation.features import extractor, views
from kakusan.evaluation.frechet import frechet
from kakusan.files import write_json
from kakusan.training.source import open_source

INTERPOLATIONS = {
    "cubic": Pil.Resampling.BICUBIC,
    "Lanczos": Pil.Resampling.LANCZOS,
    "repeated": Pil.Resampling.NEAREST,
}


def pairs(loaded: Loaded, data: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Large pictures (N, H, W, C) uint8 and their means over squares, in the model's mode."""
    domain, factor = model_domain(loaded), encoder_of(loaded).factor
    large = np.stack([domain.fitted(r) for r in open_source(data).sample(count)])
    x = torch.stack([domain.tensor(Record(p, {"name": str(i)})) for i, p in enumerate(large)])
    small = F.avg_pool2d(x, factor)
    return large, np.stack([np.asarray(r.data) for r in domain.resized(tuple(small.shape[2:])).records(small)])


def interpolated(small: np.ndarray, size: tuple[int, int], how: Pil.Resampling) -> np.ndarray:
    """A picture (h, w, C) at another size; colours are multiplied by alpha meanwhile, so that edges keep theirs."""
    a = seen(small)
    planes = [np.asarray(Pil.fromarray(plane).resize(size[::-1], how)) for plane in a.transpose(2, 0, 1)]
    wide = np.clip(np.stack(planes, 2), 0, 255)
    if wide.shape[2] == 4:
        alpha = wide[..., 3:] / 255
        wide[..., :3] = np.where(alpha > 0, np.clip(wide[..., :3] / np.maximum(alpha, 1e-6), 0, 255), 0)
    return np.rint(wide).astype(np.uint8)


def seen(a: np.ndarray) -> np.ndarray:
    """(..., C) float32 with colours multiplied by alpha where there is one."""
    a = a.astype(np.float32)
    return np.concatenate([a[..., :3] * a[..., 3:] / 255, a[..., 3:]], -1) if a.shape[-1] == 4 else a


def psnr(truth: np.ndarray, made: np.ndarray) -> float:
    """Mean over pictures of 20 log10(255 / rms)."""
    rms = np.sqrt(((seen(truth) - made) ** 2).mean((1, 2, 3)))
    return float((20 * np.log10(255 / np.maximum(rms, 1e-3))).mean())


def measured(
    loaded: Loaded, data: str, count: int, seeds: int, steps: int | None, embed: Callable[[np.ndarray], np.ndarray]
) -> dict[str, dict[str, Any]]:
    """A row a way."""
    large, small = pairs(loaded, data, count)
    size, half = (large.shape[1], large.shape[2]), count // 2
    real = embed(large)
    rows: dict[str, dict[str, Any]] = {"floor": {"frechet": frechet(real[:half], real[half:])}}
    begun = time.perf_counter()
    made = np.stack([[e.data for e in upscale(loaded, p, Wanted(n=seeds, steps=steps))] for p in small])
    seconds = (time.perf_counter() - begun) / (len(small) * seeds)
    ways = {"model": made[:, 0]} | {
        name: np.stack([interpolated(p, size, how) for p in small]) for name, how in INTERPOLATIONS.items()
    }
    for name, pictures in ways.items():
        rows[name] = {"psnr": psnr(large, seen(pictures)), "frechet": frechet(real, embed(pictures))}
    rows["model"] |= {"psnr_of_mean": psnr(large, seen(made).mean(1)), "seconds": seconds}
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
    loaded, extract = load(chosen.model, "cpu"), extractor(device="cpu")

    def embed(pictures: np.ndarray) -> np.ndarray:
        return np.concatenate([extract(view) for view in views(pictures)], 1)

    rows = measured(loaded, chosen.data, chosen.count, chosen.seeds, chosen.steps, embed)
    for name, row in rows.items():
        print(f"{name:10}" + "  ".join(f"{what} {value:.4g}" for what, value in row.items()))
    if chosen.out:
        write_json(chosen.out, {"model": loaded.info_["hash"], "pictures": chosen.count, "rows": rows})


if __name__ == "__main__":
    main()
