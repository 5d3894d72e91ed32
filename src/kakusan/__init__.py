"""kakusan (拡散, "diffusion"): train, sample and understand diffusion models on your own data.

>>> import kakusan
>>> done = kakusan.train("photos/", minutes=30, out="runs/photos")
>>> model = kakusan.load("runs/photos")
>>> pictures = model.sample(4, seed=0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kakusan.app.compare import Compared, compare
    from kakusan.app.distil import Distilled, distill
    from kakusan.app.evaluate import Evaluated, evaluate
    from kakusan.app.facade import Loaded, Sample, Trained, load, reproduce, resume, save_samples, train
    from kakusan.catalog import build
    from kakusan.part import KakusanError

__all__ = [
    "Compared",
    "Distilled",
    "Evaluated",
    "KakusanError",
    "Loaded",
    "Sample",
    "Trained",
    "build",
    "compare",
    "distill",
    "evaluate",
    "load",
    "reproduce",
    "resume",
    "save_samples",
    "train",
]

_HOMES = {
    "Compared": "kakusan.app.compare",
    "Distilled": "kakusan.app.distil",
    "Evaluated": "kakusan.app.evaluate",
    "KakusanError": "kakusan.part",
    "build": "kakusan.catalog",
    "compare": "kakusan.app.compare",
    "distill": "kakusan.app.distil",
    "evaluate": "kakusan.app.evaluate",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that ``import kakusan`` costs nothing."""
    if name in __all__:
        import importlib

        return getattr(importlib.import_module(_HOMES.get(name, "kakusan.app.facade")), name)
    raise AttributeError(f"module 'kakusan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
