"""How well models fill: each route beside RePaint at equal evaluations, the nearest pixel and OpenCV's Telea.

    pip install "kakusan[eval]" opencv-python-headless
    python benchmarks/edit.py runs/mine HELD_OUT_PICTURES [-n 200] [--seeds 2] [--out fill.json]

For each mask (centre, half, strokes; outpainting as the border of the picture masked) and each way that the model can
(trained with masks, by its posterior, by replacement with resampling, which is RePaint): the Fréchet distance of
completed pictures to the untouched ones in features, beside its floor (two halves of the untouched ones); the root mean
square to the true pixels inside the mask, and that of the best of the seeds; the diversity, root mean square between
two seeds inside the mask, which for exact samples about equals the first; evaluations of the network and seconds a
picture, as ``kakusan inpaint`` takes. Colours are multiplied by alpha where there is one. A gradient counts as one
evaluation. Distances need hundreds of pictures: of a trial with a few only the others say something.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kakusan.app.draw.loaded import Loaded, load
from kakusan.app.edit.editing import Wanted, model_domain
from kakusan.app.edit.fill import ROUNDS, ROUTES, inpaint
from kakusan.app.train.spatial import MASK
from kakusan.core.rng import Rng
from kakusan.domains.latent import Latent
from kakusan.domains.resize import premultiplied
from kakusan.evaluation.features import extractor
from kakusan.evaluation.frechet import frechet
from kakusan.files import write_json
from kakusan.training.source import open_source

Fill = Callable[[np.ndarray, np.ndarray, int, int], np.ndarray]  # (picture, mask (H, W) bool, first seed, how many)


def masks(height: int, width: int, strokes: int = 4) -> dict[str, np.ndarray]:
    """True where pictures are to be painted anew."""
    y, x = np.mgrid[:height, :width]
    inside = (abs(y - height / 2 + 0.5) < height / 4) & (abs(x - width / 2 + 0.5) < width / 4)
    border = (np.minimum(y, height - 1 - y) < height / 6) | (np.minimum(x, width - 1 - x) < width / 6)
    drawn = np.zeros((height, width), bool)
    for points in Rng([0]).uniform("strokes", count=4 * strokes).reshape(strokes, 4).numpy():
        a, b = points[:2] * (height, width), points[2:] * (height, width)
        for share in np.linspace(0, 1, 4 * max(height, width)):
            at = a + share * (b - a)
            drawn |= (y - at[0]) ** 2 + (x - at[1]) ** 2 < (min(height, width) / 16) ** 2
    return {"centre": inside, "half": x >= width // 2, "strokes": drawn, "outpaint": border}


def by_model(loaded: Loaded, route: str, resample: int, steps: int | None) -> tuple[Fill, int]:
    """A way to fill by the model, and how many evaluations one picture takes."""

    def fill(pixels: np.ndarray, mask: np.ndarray, seed: int, count: int) -> np.ndarray:
        wanted = Wanted(n=count, seed=seed, steps=steps)
        made = inpaint(loaded, pixels, 255 * mask.astype(np.uint8), wanted, route=route, resample=resample)
        return np.stack([each.data.reshape(pixels.shape) for each in made])

    count = steps or int(loaded.info()["defaults"]["steps"])
    falls = (count - 1) * resample + 1
    return fill, falls * (1 + ROUNDS + 1) if route == "posterior" else falls


def nearest(pixels: np.ndarray, mask: np.ndarray, seed: int, count: int) -> np.ndarray:
    """Each masked pixel as the nearest known one."""
    known, missing = np.argwhere(~mask), np.argwhere(mask)
    out = pixels.copy()
    for start in range(0, len(missing), 256):
        some = missing[start : start + 256]
        at = known[((some[:, None] - known) ** 2).sum(2).argmin(1)]
        out[some[:, 0], some[:, 1]] = pixels[at[:, 0], at[:, 1]]
    return np.stack([out] * count)


def telea(pixels: np.ndarray, mask: np.ndarray, seed: int, count: int) -> np.ndarray:
    """OpenCV's fast marching method, each channel by itself (it takes 8 bits, one or three)."""
    import cv2

    white = mask.astype(np.uint8)
    planes = [
        cv2.inpaint(np.ascontiguousarray(pixels[..., c]), white, 3, cv2.INPAINT_TELEA) for c in range(pixels.shape[2])
    ]
    return np.stack([np.stack(planes, 2)] * count)


def ways(loaded: Loaded, steps: int | None) -> dict[str, tuple[Fill, int]]:
    """Everything that is compared, with its evaluations a picture."""
    found: dict[str, tuple[Fill, int]] = {}
    equal = ROUTES["replace"]
    if MASK in loaded.model.encoders:
        found["trained with masks"] = by_model(loaded, "trained", ROUTES["trained"], steps)
    if not isinstance(loaded.domain, Latent):
        found["posterior"] = by_model(loaded, "posterior", ROUTES["posterior"], steps)
        equal = max(1, round(found["posterior"][1] / by_model(loaded, "replace", 1, steps)[1]))
    found["replace (RePaint)"] = by_model(loaded, "replace", ROUTES["replace"], steps)
    if equal != ROUTES["replace"]:
        found["RePaint, equal evaluations"] = by_model(loaded, "replace", equal, steps)
    found["nearest pixel"] = (nearest, 0)
    try:
        import cv2  # noqa: F401
    except ImportError:
        print("opencv-python-headless is not installed: without Telea")
        return found
    return found | {"Telea": (telea, 0)}


def judged(
    truth: np.ndarray, filled: np.ndarray, mask: np.ndarray, features: Callable[[np.ndarray], np.ndarray]
) -> dict[str, Any]:
    """truth (N, H, W, C), filled (S, N, H, W, C): the figures of one way with one mask."""
    plain, painted = shown(truth).astype(float), shown(filled).astype(float)
    off = (painted - plain)[:, :, mask]
    rms = np.sqrt((off**2).mean((2, 3)))  # (S, N)
    apart = np.sqrt(((painted[0] - painted[-1])[:, mask] ** 2).mean((1, 2)))
    half = len(truth) // 2
    real, fake = features(truth), features(filled[0])
    return {
        "frechet": frechet(real, fake),
        "floor": frechet(real[:half], real[half:]),
        "inside": float(rms.mean()),
        "best": float(rms.min(0).mean()),
        "diversity": float(apart.mean()) if len(filled) > 1 else None,
    }


def shown(a: np.ndarray) -> np.ndarray:
    """Pictures (..., C) with their colours multiplied by alpha, where there is one."""
    return premultiplied(a) if a.shape[-1] == 4 else a


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", help="pictures that the model was not trained on")
    parser.add_argument("-n", "--count", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=None)
    chosen = parser.parse_args()
    loaded = load(chosen.model, chosen.device)
    domain = model_domain(loaded)
    truth = np.stack([domain.fitted(r) for r in open_source(chosen.data).sample(chosen.count)])
    embed = extractor(device=str(loaded.device))
    rows, compared = [], ways(loaded, chosen.steps)
    for shape, mask in masks(*domain.size).items():
        for name, (fill, evaluations) in compared.items():
            begun = time.perf_counter()
            each = [fill(p, mask, chosen.seeds * i, chosen.seeds) for i, p in enumerate(truth)]
            filled = np.stack(each, 1)
            seconds = (time.perf_counter() - begun) / (len(truth) * chosen.seeds)
            found = judged(truth, filled, mask, embed)
            rows.append({"mask": shape, "way": name, "evaluations": evaluations, "seconds": seconds, **found})
            said = "  ".join(f"{k} {v:.3g}" for k, v in rows[-1].items() if isinstance(v, (int, float)))
            print(f"{shape:9} {name:27} {said}", flush=True)
    if chosen.out:
        write_json(chosen.out, {"model": loaded.info_["hash"], "pictures": len(truth), "rows": rows})


if __name__ == "__main__":
    main()
