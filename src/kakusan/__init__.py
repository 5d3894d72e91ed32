"""kakusan (拡散, "diffusion"): train, sample and understand diffusion models on your own data.

>>> import kakusan
>>> done = kakusan.train("photos/", minutes=30, out="runs/photos")
>>> model = kakusan.load("runs/photos")
>>> pictures = model.sample(4, seed=0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kakusan.app.deploy.distil import Distilled, distill
    from kakusan.app.deploy.export import export
    from kakusan.app.facade import Loaded, Sample, Trained, load, reproduce, resume, save_samples, train
    from kakusan.app.judge.compare import Compared, compare
    from kakusan.app.judge.evaluate import Evaluated, evaluate
    from kakusan.catalog import build
    from kakusan.part import KakusanError
    from kakusan.runtime.export import Exported

__all__ = [
    "Compared",
    "Distilled",
    "Evaluated",
    "Exported",
    "KakusanError",
    "Loaded",
    "Sample",
    "Trained",
    "build",
    "compare",
    "distill",
    "evaluate",
    "export",
    "load",
    "reproduce",
    "resume",
    "save_samples",
    "train",
]

_HOMES = {
    "Compared": "kakusan.app.judge.compare",
    "Distilled": "kakusan.app.deploy.distil",
    "Evaluated": "kakusan.app.judge.evaluate",
    "Exported": "kakusan.runtime.export",
    "KakusanError": "kakusan.part",
    "build": "kakusan.catalog",
    "compare": "kakusan.app.judge.compare",
    "distill": "kakusan.app.deploy.distil",
    "evaluate": "kakusan.app.judge.evaluate",
    "export": "kakusan.app.deploy.export",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that ``import kakusan`` costs nothing."""
    if name in __all__:
        import importlib

        return getattr(importlib.import_module(_HOMES.get(name, "kakusan.app.facade")), name)
    raise AttributeError(f"module 'kakusan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
