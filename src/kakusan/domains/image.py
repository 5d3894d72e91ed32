"""Image: pictures of any number of channels and 8, 16 or 32 bits, as what they are."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from kakusan.core.space import Flat
from kakusan.domains import picture
from kakusan.domains.domain import Domain, Record
from kakusan.domains.resize import DTYPES, channelled, deepened, premultiplied, resized
from kakusan.files import write_bytes
from kakusan.part import KakusanError

__all__ = ["Image"]

_CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}
_SIDES = (32, 48, 64)


class Image(Domain):
    """Pictures; the model sees (C, H, W) float32 in [-1, 1].

    ``size`` is [H, W]. ``mode`` is "L", "RGB", "RGBA" or "array" (``channels`` of them, saved as ``.npy``; "I;16"
    and "F" are read as "L" of 16 and 32 bits). ``depth`` 8, 16 or 32 bits (float, where ``low`` and ``high`` go to
    -1 and 1). ``fit``: "crop" covers the size and cuts the centre, "pad" shows everything on the colour of its
    border, "stretch" ignores proportions. RGBA trains as premultiplied colour and alpha (nothing = -1), so a resize
    leaves no fringe and hidden colours do not matter.
    """

    kind = "domain/image"

    def __init__(
        self,
        size: list[int],
        mode: str = "RGB",
        depth: int = 8,
        fit: str = "crop",
        sigma_data: float = 0.5,
        channels: int | None = None,
        low: float | None = None,
        high: float | None = None,
    ) -> None:
        if mode in ("I;16", "F"):
            mode, depth = "L", 16 if mode == "I;16" else 32
        if mode not in (*_CHANNELS, "array"):
            raise KakusanError(f"mode is {mode!r}; it is one of L, RGB, RGBA, array")
        if depth not in DTYPES:
            raise KakusanError(f"depth is {depth!r}; it is 8, 16 or 32 bits")
        if fit not in ("crop", "pad", "stretch"):
            raise KakusanError(f"fit is {fit!r}; it is one of crop, pad, stretch")
        if mode == "array" and not channels:
            raise KakusanError('mode "array" needs channels=COUNT')
        if mode != "array" and channels not in (None, _CHANNELS[mode]):
            raise KakusanError(f"mode {mode!r} has {_CHANNELS[mode]} channels; got channels={channels}")
        if len(size) != 2 or min(size) < 1:
            raise KakusanError(f"size is {size!r}; give [height, width] in pixels")
        self.height, self.width = int(size[0]), int(size[1])
        self.mode, self.depth, self.how = mode, depth, fit
        self.channels = int(channels or _CHANNELS[mode])
        self.sigma_data = float(sigma_data)
        top = {8: 255.0, 16: 65535.0, 32: 1.0}[depth]
        self.low, self.high = float(0.0 if low is None else low), float(top if high is None else high)
        if not self.high > self.low:
            raise KakusanError(f"low={self.low} and high={self.high}: high must be greater")
        self.space = Flat()

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.height, self.width

    @property
    def packed(self) -> tuple[tuple[int, int, int], np.dtype[Any]]:
        """Shape (H, W, C) and dtype of a fitted picture, as the cache holds it."""
        return (self.height, self.width, self.channels), DTYPES[self.depth]

    def cache_spec(self) -> dict[str, Any]:
        """What decides the fitted pixels: the part of the spec a cache is keyed by."""
        names = ("kind", "size", "mode", "depth", "fit", "channels")
        return {name: value for name, value in self.spec().items() if name in names}

    @classmethod
    def fit(cls, records: Iterable[Record], **choices: Any) -> Self:
        """The domain that suits these records (a sample of some hundred is enough; at most 2,048 are read).

        Choices override what is read off the data: size (int or [H, W]), mode, depth, fit, low, high, sigma_data.
        The mode is the widest present, the depth that of the majority; one common size up to 64 is kept, else the
        median short side is rounded down to one of 32, 48 and 64.
        """
        known = {"size", "mode", "depth", "fit", "low", "high", "sigma_data", "channels"}
        if unknown := sorted(set(choices) - known):
            raise KakusanError(f"Image.fit knows no choice {unknown[0]!r}; it knows {', '.join(sorted(known))}")
        chosen = {k: v for k, v in choices.items() if v is not None}
        sample = _Sample(records)
        built: dict[str, Any] = {"mode": sample.mode(), "depth": sample.depth(), "size": sample.size()}
        built |= chosen
        if isinstance(built["size"], int):
            built["size"] = [built["size"], built["size"]]
        built["size"] = [int(n) for n in built["size"]]
        if built["mode"] in ("I;16", "F"):
            built |= {"mode": "L", "depth": 16 if built["mode"] == "I;16" else 32}
        if built["mode"] == "array":
            built.setdefault("channels", sample.channels)
        if built["depth"] == 32:
            low, high = sample.range()
            built |= {"low": built.get("low", low), "high": built.get("high", high)}
        domain = cls(**built)
        if "sigma_data" in chosen:
            return domain
        return domain.replace(sigma_data=_spread(domain, sample.kept))

    def load(self, data: bytes, name: str) -> Record:
        """Decode one file's bytes, at its own size and depth; raises KakusanError (PictureError) with the reason."""
        return picture.decode(data, name)

    def pack(self, data: bytes | np.ndarray, name: str = "array") -> np.ndarray:
        """A file's bytes, or an array (H, W, C), straight to fitted pixels; large JPEGs are decoded at a fraction."""
        if isinstance(data, np.ndarray):
            return self.fitted(Record(data, {"name": name}))
        target = self.size if self.how != "pad" else None
        return self.fitted(picture.decode(data, name, target))

    def fitted(self, record: Record) -> np.ndarray:
        """The record at the domain's size, mode and depth: (H, W, C) uint8, uint16 or float32.

        RGBA is premultiplied here, which loses nothing visible: over any background the result is right to half a
        level.
        """
        name = record.meta.get("name", "record")
        picture.require_finite(record.data, name)
        a = channelled(deepened(record.data, self.depth), self.mode, self.channels, name)
        if self.mode == "RGBA":
            a = premultiplied(a)
        a = resized(a, self.size, self.how, clear=self.mode == "RGBA")
        if self.mode == "RGBA":
            np.minimum(a[..., :3], a[..., 3:], out=a[..., :3])
        return a

    def floats(self, pixels: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
        """Fitted pixels (B, H, W, C) as (B, C, H, W) float32 about [-1, 1], contiguous in channels_last."""
        if pixels.dtype == np.uint16:
            pixels = pixels.astype(np.int32)
        x = torch.from_numpy(np.ascontiguousarray(pixels))
        return self.unpacked(x.to(device, non_blocking=True))

    def unpacked(self, pixels: Tensor) -> Tensor:
        """``floats`` for pixels that are a tensor already, on any device."""
        x = pixels.permute(0, 3, 1, 2).to(torch.float32, copy=True)
        x = x.sub_(self.low).mul_(2.0 / (self.high - self.low)).sub_(1.0)
        return x.contiguous(memory_format=torch.channels_last)

    def tensor(self, record: Record) -> Tensor:
        """The record fitted to size, (C, H, W) float32 in [-1, 1]."""
        return self.floats(self.fitted(record)[None])[0].contiguous()

    def collate(self, xs: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Pictures of one size need no mask."""
        return torch.stack(xs), None

    def records(self, x: Tensor, mask: Tensor | None = None) -> list[Record]:
        """(B, C, H, W) back to pictures of any size: clamped, un-premultiplied, rounded to the domain's depth."""
        unit = x.detach().float().permute(0, 2, 3, 1).cpu().numpy().astype(np.float64)
        unit = np.clip(np.nan_to_num(unit, nan=0.0, posinf=1.0, neginf=-1.0), -1, 1) * 0.5 + 0.5
        if self.mode == "RGBA":
            alpha = unit[..., 3:]
            seen = alpha > 0.5 / self.high
            unit[..., :3] = np.where(seen, np.clip(unit[..., :3] / np.where(seen, alpha, 1), 0, 1), 0)
        values = unit * (self.high - self.low) + self.low
        data = values.astype(np.float32) if self.depth == 32 else np.rint(values).astype(DTYPES[self.depth])
        return [Record(a, {"generated": True}) for a in data]

    def shown(self, record: Record) -> np.ndarray:
        """Floats with ``low`` as black and ``high`` as white, (H, W, C) uint8; everything else as it is."""
        if record.data.dtype.kind != "f":
            return record.data
        unit = (record.data.astype(np.float64) - self.low) / (self.high - self.low)
        return np.rint(255 * np.clip(np.nan_to_num(unit), 0, 1)).astype(np.uint8)

    def save(self, record: Record, path: str | Path, recipe: Mapping[str, Any] | None = None) -> Path:
        """Write a PNG (8 or 16 bits), or a ``.npy`` where a PNG can not hold the data; returns the path written.

        The suffix is put right. The recipe goes into the PNG, or into a ``.json`` beside the array; what a model
        made is marked so.
        """
        path, a = Path(path), record.data
        if a.dtype != np.float32 and a.shape[2] in (1, 3, 4) and self.mode != "array":
            made = recipe is not None or bool(record.meta.get("generated"))
            data = picture.encode_png(a, recipe, made, record.meta.get("icc"))
            return write_bytes(_suffixed(path, ".png"), data)
        path = _suffixed(path, ".npy")
        if recipe is not None:
            text = json.dumps(dict(recipe), sort_keys=True, indent=1)
            write_bytes(path.with_suffix(".json"), text.encode())
        return write_bytes(path, _npy(a))

    def blank(self, count: int, **request: Any) -> list[tuple[int, ...]]:
        """The shapes of ``count`` pictures to make; ``size`` (int or [H, W]) other than the trained one is allowed."""
        size = request.pop("size", None)
        if request:
            raise KakusanError(f"a picture has no {next(iter(request))!r}; it can be asked for a size")
        if size is None:
            size = self.size
        height, width = (size, size) if isinstance(size, int) else size
        if min(height, width) < 1:
            raise KakusanError(f"size is {size!r}; give pixels, or [height, width]")
        return [(self.channels, int(height), int(width))] * count


class _Sample:
    """What ``Image.fit`` needs to know of a sample of records, and a few of them."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.kept: list[Record] = []
        self.sizes: list[tuple[int, int]] = []
        self.depths: list[int] = []
        self.channels, self.clear, self.colour = 0, False, False
        for record in islice(records, 2048):
            a = record.data
            if a.dtype.kind == "f" and not np.isfinite(a).all():
                continue  # left out of the training too
            self.sizes.append(record.meta.get("size") or a.shape[:2])
            self.depths.append({1: 8, 2: 16}.get(a.dtype.itemsize, 32))
            self.channels = max(self.channels, a.shape[2])
            if a.shape[2] == 4:
                self.clear = (
                    self.clear or bool((a[..., 3] < np.iinfo(a.dtype).max).any()) if a.dtype.kind == "u" else True
                )
            if a.shape[2] in (3, 4) and not self.colour:
                self.colour = bool((a[..., 0] != a[..., 1]).any() or (a[..., 1] != a[..., 2]).any())
            if len(self.kept) < 256:
                self.kept.append(record)
        if not self.sizes:
            raise KakusanError("no picture could be read to fit to; run: kakusan data check DATA")

    def mode(self) -> str:
        if self.channels not in (1, 3, 4):
            return "array"
        return "RGBA" if self.clear else "RGB" if self.colour else "L"

    def depth(self) -> int:
        return max(set(self.depths), key=lambda d: (self.depths.count(d), -d))

    def size(self) -> list[int]:
        if len(set(self.sizes)) == 1 and max(self.sizes[0]) <= 64:
            return list(self.sizes[0])
        short = float(np.median([min(s) for s in self.sizes]))
        side = max([s for s in _SIDES if s <= short], default=32)
        return [side, side]

    def range(self) -> tuple[float, float]:
        low = min(float(r.data.min()) for r in self.kept)
        high = max(float(r.data.max()) for r in self.kept)
        if low >= -1 and high <= 1:
            return (0.0, 1.0) if low >= 0 else (-1.0, 1.0)
        return low, high if high > low else low + 1.0


def _spread(domain: Image, records: list[Record]) -> float:
    """Standard deviation of all values about their overall mean, as EDM defines sigma_data."""
    xs = np.stack([domain.fitted(r) for r in records[:: max(1, len(records) // 256)]])
    return round(min(max(float(domain.floats(xs).double().std(correction=0)), 0.05), 2.0), 4)


def _suffixed(path: Path, suffix: str) -> Path:
    return path if path.suffix.lower() == suffix else path.with_name(path.name + suffix)


def _npy(a: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, a, allow_pickle=False)
    return out.getvalue()
