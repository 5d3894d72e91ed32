"""Features: what turns pictures into the numbers that distances compare; every choice on the way has a name."""

from __future__ import annotations

import difflib
import hashlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from kakusan.domains.resize import deepened
from kakusan.evaluation import efficientnet, inception
from kakusan.files import replacing
from kakusan.part import KakusanError

__all__ = ["NAMES", "Extractor", "extractor", "features_cached", "from_function", "views"]

Progress = Callable[[int, int], None]  # pictures done, of how many
NATIVE = 0  # the size of extractors that take pictures as they are
RULES = "grey repeated, transparency over white and over black (both sets of features), 16 bits to 8"
# Name: input side, how pictures come to it, numbers for each (opaque) picture.
NAMES = {
    "efficientnet-lite0": (96, "bicubic, antialiased", efficientnet.DIMENSIONS),
    "efficientnet-lite0-224": (224, "bicubic, antialiased", efficientnet.DIMENSIONS),
    "inception-v3": (299, "bilinear, not antialiased (as pytorch-fid)", inception.DIMENSIONS),
}


@dataclass(frozen=True)
class Extractor:
    """Pictures (N, H, W, C) uint8 or uint16, C of 1, 3, 4 (straight alpha) -> features (N, D) float32.

    ``dim`` is D for opaque pictures; transparent ones give 2 ``dim`` numbers, over white and over black: over one
    ground alone, wrong transparency would pass wherever the colour under it equals the ground's.
    """

    name: str
    weights: str  # SHA-256 (16 hex digits) of the weights in use
    size: int  # side of the network's input in pixels; 0: pictures are taken as they are
    resize: str  # what is done to a picture before the network sees it
    dim: int
    embed: Callable[[np.ndarray], np.ndarray] = field(repr=False, compare=False)

    def __call__(self, pictures: np.ndarray, batch: int = 32, progress: Progress | None = None) -> np.ndarray:
        """The features, ``batch`` pictures at a time; raises KakusanError for what are no pictures."""
        _checked(pictures)
        found: list[np.ndarray] = []
        for start in range(0, len(pictures), batch):
            piece = self.embed(pictures[start : start + batch])
            if piece.ndim != 2 or len(piece) != len(pictures[start : start + batch]):
                count = len(pictures[start : start + batch])
                raise KakusanError(
                    f"features {self.name!r} gave {piece.shape} for {count} pictures: need ({count}, numbers)"
                )
            if not np.isfinite(piece).all():
                raise KakusanError(f"features {self.name!r} are not finite for pictures from {start} on")
            found.append(np.asarray(piece, np.float32))
            if progress is not None:
                progress(min(start + batch, len(pictures)), len(pictures))
        return np.concatenate(found)


def _checked(pictures: np.ndarray) -> None:
    if pictures.ndim != 4 or not pictures.size:
        raise KakusanError(f"pictures have shape {pictures.shape}: need (pictures, height, width, channels), none 0")
    if pictures.shape[3] not in (1, 3, 4):
        raise KakusanError(f"pictures have {pictures.shape[3]} channels: need 1 (grey), 3 (RGB) or 4 (RGBA)")
    if pictures.dtype not in (np.uint8, np.uint16):
        raise KakusanError(f"pictures are {pictures.dtype}: need uint8 (0 to 255) or uint16 (0 to 65535)")


def views(pictures: np.ndarray) -> list[np.ndarray]:
    """The opaque pictures, 1 or 3 channels of uint8, by which pictures are judged: one view, or two of RGBA."""
    a = deepened(pictures, 8)
    if a.shape[3] != 4:
        return [a]
    colour, alpha = a[..., :3].astype(np.float32), a[..., 3:].astype(np.float32) / 255
    return [(colour * alpha + ground * (1 - alpha)).round().astype(np.uint8) for ground in (255, 0)]


def extractor(name: str = "efficientnet-lite0", weights: str | Path | None = None, device: str = "cpu") -> Extractor:
    """One of the feature networks by name; the path of a weights file alone means ``inception-v3`` with these weights.

    ``efficientnet-lite0`` needs ``kakusan[eval]`` and nothing else (``-224`` for details of large pictures, 5 times as
    slow); ``inception-v3`` needs ``weights``.
    """
    if name not in NAMES and Path(name).suffix in (".pth", ".pt", ".safetensors"):
        name, weights = "inception-v3", Path(name)
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(NAMES)}"
        raise KakusanError(f"no features are named {name!r}; {hint}")
    size, resize, dim = NAMES[name]
    network: nn.Module
    if name == "inception-v3":
        if weights is None:
            raise KakusanError(
                "inception-v3 needs its weights: fetch pt_inception-2015-12-05-6726825d.pth and give its path"
            )
        network, sha = inception.load_inception(weights)
        antialias = False
    else:
        network, sha = efficientnet.load_efficientnet(weights)
        antialias = True
    embed = _Embed(network, size, antialias, device)
    return Extractor(name, sha, size, f"{resize}, to {size} x {size}; {RULES}", dim, embed)


def from_function(
    function: Callable[[np.ndarray], np.ndarray], dim: int, name: str = "function", weights: str | None = None
) -> Extractor:
    """An extractor of the user's own: ``function`` takes pictures (N, H, W, C) as they are, gives (N, dim) numbers.

    ``weights`` says which version it is; without it, the function's own text does. A trained classifier's features
    come this way too (name "classifier", weights its hash).
    """
    return Extractor(name, weights or _fingerprint(function), NATIVE, "none: pictures as they are", dim, function)


def _fingerprint(function: Callable[[np.ndarray], np.ndarray]) -> str:
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):
        text = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Embed:
    """Resize, network, views joined. Channels-last is the fastest layout that was measured (benchmarks/features.py)."""

    def __init__(self, network: nn.Module, size: int, antialias: bool, device: str) -> None:
        self.network = network.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
        self.size, self.antialias, self.device = size, antialias, device

    def prepared(self, pictures: np.ndarray) -> Tensor:
        """Opaque pictures (N, H, W, 1 or 3) uint8 as the network's input (N, 3, S, S), values 0 to 255."""
        x = torch.from_numpy(np.ascontiguousarray(pictures)).to(self.device).permute(0, 3, 1, 2).float()
        how = "bicubic" if self.antialias else "bilinear"
        x = interpolate(x, size=(self.size, self.size), mode=how, antialias=self.antialias, align_corners=False)
        return x.clamp(0, 255).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        return np.concatenate([self.network(self.prepared(v)).cpu().numpy() for v in views(pictures)], 1)


def features_cached(
    extract: Extractor, pictures: np.ndarray, folder: str | Path, batch: int = 32, progress: Progress | None = None
) -> np.ndarray:
    """Features of real pictures, computed once: kept under ``folder`` by what the pictures and the extractor are.

    A damaged file in the cache is computed again. A folder that can not be written costs the cache, not the figure.
    """
    _checked(pictures)
    file = Path(folder) / f"features-{_key(extract, pictures)}.npy"
    wanted = extract.dim * (2 if pictures.shape[3] == 4 and extract.size != NATIVE else 1)
    kept = _kept(file, (len(pictures), wanted))
    if kept is not None:
        if progress is not None:
            progress(len(pictures), len(pictures))
        return kept
    found = extract(pictures, batch, progress)
    try:
        with replacing(file) as temporary, temporary.open("wb") as stream:
            np.save(stream, found, allow_pickle=False)
    except OSError:
        pass
    return found


def _key(extract: Extractor, pictures: np.ndarray) -> str:
    total = hashlib.sha256(f"{extract!r} {pictures.dtype} {pictures.shape}".encode())
    for piece in _pieces(pictures):
        total.update(piece)
    return total.hexdigest()[:32]


def _pieces(pictures: np.ndarray) -> Iterator[bytes]:
    for start in range(0, len(pictures), 256):
        yield np.ascontiguousarray(pictures[start : start + 256]).tobytes()


def _kept(file: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Features from the cache, or None where there are none that can be used."""
    try:
        with file.open("rb") as stream:
            found = np.load(stream, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    usable = isinstance(found, np.ndarray) and found.shape == shape and found.dtype == np.float32
    return found if usable and bool(np.isfinite(found).all()) else None
