"""Pictures as conditions: small, with a hole, a map, one to change; each becomes channels beside x (``Cond.field``)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kakusan.conditions.strokes import edges, holes
from kakusan.core.batch import Cond
from kakusan.core.model import Encoder
from kakusan.core.rng import Rng
from kakusan.part import KakusanError, Spec

__all__ = ["MODES", "LowResolution", "Map", "Mask", "Source"]

MODES = {"L": 1, "RGB": 3, "RGBA": 4}
MOST = 256  # channels of a picture
_OCTAVES = 4  # of the noise level's features


class LowResolution(Encoder):
    """The picture at 1/``factor`` of its size under noise, as channels beside x, and how much noise as a vector.

    In training the means of factor x factor pixels of x0 (premultiplied where it has alpha), with Gaussian noise of a
    standard deviation ``most u^2``, u uniform. To sample, ``level`` of it is added to the picture that is enlarged,
    which covers what it has that means of real pictures have not (noise conditioning augmentation: Ho et al. 2022,
    arXiv 2106.15282, section 4.2).
    """

    kind = "condition/low-resolution"
    drawn, guided, needed = True, False, True

    def __init__(self, channels: int, factor: int = 4, dim: int = 32, most: float = 0.5, level: float = 0.05) -> None:
        super().__init__()
        _counted("channels", channels)
        if not 2 <= factor <= 16:
            raise KakusanError(f"factor={factor}: pictures are enlarged 2 to 16 times (2 and 4 are usual)")
        if not 0 <= level <= most:
            raise KakusanError(f"level={level}, most={most}: need 0 <= level <= most")
        self.channels, self.factor, self.most, self.level = channels, factor, float(most), float(level)
        self.linear = nn.Linear(1 + 2 * _OCTAVES, dim)
        self.null_vector = nn.Parameter(torch.randn(dim).mul_(0.02))
        self.null_picture = nn.Parameter(torch.zeros(channels))

    @staticmethod
    def field(spec: Spec) -> int:
        """How many channels of the field are this condition's."""
        return int(spec["channels"])

    def small(self, x0: Tensor) -> Tensor:
        """Means of factor x factor pixels, (B, C, H, W) to (B, C, H/factor, W/factor)."""
        if any(n % self.factor for n in x0.shape[2:]):
            raise KakusanError(
                f"pictures of {x0.shape[3]} x {x0.shape[2]} pixels: their sides must be multiples of {self.factor}, "
                "by which they are enlarged; choose such a --size (and data.crop)"
            )
        return F.avg_pool2d(x0, self.factor)

    def noised(self, low: Tensor, level: Tensor, rng: Rng) -> Tensor:
        """Small pictures (B, C, h, w) under noise of ``level`` (B,)."""
        eps = rng.normal([tuple(low.shape[1:])] * len(low), "low-resolution").to(low)
        return low + level.to(low).reshape(-1, 1, 1, 1) * eps

    def draw(self, x0: Tensor, inputs: dict[str, Tensor], rng: Rng) -> dict[str, Tensor]:
        level = self.most * rng.uniform("low-resolution/level")[:, 0] ** 2
        low = self.noised(self.small(x0), level, rng)
        given = torch.ones(len(x0), dtype=torch.bool, device=x0.device)
        return {"low": low, "level": level.to(x0.device, torch.float32, non_blocking=True), "given": given}

    def prepare(self, values: list[Any]) -> dict[str, Tensor]:
        """(small picture (C, h, w), its noise) a sample, or None, to ``low`` (B, C, h, w), ``level``, ``given`` (B)."""
        _paired(values, "kakusan upscale MODEL IMAGE")
        pictures = [None if v is None else v[0] for v in values]
        level = torch.tensor([0.0 if v is None else float(v[1]) for v in values])
        low, given = _stacked(pictures, self.channels, "the small picture")
        return {"low": low, "level": level, "given": given}

    def forward(self, inputs: dict[str, Tensor], keep: Tensor) -> Cond:
        """``Cond(vector=(B, dim), field=(B, C, H, W))``: the small picture enlarged by cubic interpolation."""
        keep, low = keep & inputs["given"], inputs["low"]
        z = inputs["level"][:, None] / max(self.most, 1e-6)
        angle = z * (math.pi / 2 * 2.0 ** torch.arange(_OCTAVES, device=z.device))
        vector = self.linear(torch.cat([z, angle.cos(), angle.sin()], 1).to(self.linear.weight.dtype))
        vector = torch.where(keep[:, None], vector, self.null_vector)
        null = self.null_picture[:, None, None].expand(len(keep), -1, 1, 1)
        if not low.shape[-1]:
            return Cond(vector=vector, field=null)
        wide = F.interpolate(low, scale_factor=float(self.factor), mode="bicubic", align_corners=False)
        return Cond(vector=vector, field=torch.where(keep[:, None, None, None], wide, null))


class Mask(Encoder):
    """A picture with a hole that is to be painted: where it is (1 inside) and what is around it (0 inside), C + 1
    channels (Rombach et al. 2022, section 4.5; Saharia et al. 2022, arXiv 2111.05826).

    Holes are drawn in training: boxes, strokes, halves, everything, nothing. No condition is a hole that is everything.
    """

    kind = "condition/mask"
    drawn, guided = True, False

    def __init__(self, channels: int) -> None:
        super().__init__()
        _counted("channels", channels)
        self.channels = channels

    @staticmethod
    def field(spec: Spec) -> int:
        """How many channels of the field are this condition's."""
        return int(spec["channels"]) + 1

    def draw(self, x0: Tensor, inputs: dict[str, Tensor], rng: Rng) -> dict[str, Tensor]:
        hole = holes(rng, int(x0.shape[2]), int(x0.shape[3])).to(x0)
        return {"hole": hole, "around": x0 * (1 - hole)}

    def prepare(self, values: list[Any]) -> dict[str, Tensor]:
        """(picture (C, H, W), hole (1, H, W) with 1 inside) a sample, or None, to ``hole`` (B, 1, H, W), ``around``."""
        _paired(values, "kakusan inpaint MODEL IMAGE MASK")
        holed = [None if v is None else (v[1] > 0).float() for v in values]
        hole, given = _stacked(holed, 1, "the hole")
        around, _ = _stacked([None if v is None else v[0] for v in values], self.channels, "the picture")
        hole = torch.where(given[:, None, None, None], hole, 1)
        return {"hole": hole, "around": around * (1 - hole)}

    def forward(self, inputs: dict[str, Tensor], keep: Tensor) -> Cond:
        """``Cond(field=(B, 1 + C, H, W))``."""
        hole, around = inputs["hole"], inputs["around"]
        if not hole.shape[-1]:
            blank = torch.zeros(len(keep), 1 + self.channels, 1, 1, device=hole.device)
            blank[:, 0] = 1
            return Cond(field=blank)
        kept = keep[:, None, None, None]
        return Cond(field=torch.cat([torch.where(kept, hole, 1), torch.where(kept, around, 0)], 1))


class Map(Encoder):
    """A picture that says where what is: edges, depth, segments; channels beside x, and one that says that there is
    one. ``mode`` is "L", "RGB" or "RGBA". With ``edges`` training finds the
    edges of the pictures themselves: -1 is none, 1 as sharp as black on white.
    """

    kind = "condition/map"
    guided = False

    def __init__(self, mode: str = "L", edges: bool = False) -> None:
        super().__init__()
        if mode not in MODES:
            raise KakusanError(f"mode={mode!r}: a map is one of {', '.join(MODES)}")
        if edges and mode != "L":
            raise KakusanError(f"mode={mode!r}: maps of edges are grey, mode 'L'")
        self.mode, self.channels, self.drawn = mode, MODES[mode], edges
        self.null_picture = nn.Parameter(torch.zeros(self.channels))

    @staticmethod
    def field(spec: Spec) -> int:
        """How many channels of the field are this condition's."""
        return MODES.get(str(spec.get("mode", "L")), 0) + 1

    def draw(self, x0: Tensor, inputs: dict[str, Tensor], rng: Rng) -> dict[str, Tensor]:
        if not self.drawn:
            return inputs
        return {"map": edges(x0), "given": torch.ones(len(x0), dtype=torch.bool, device=x0.device)}

    def prepare(self, values: list[Any]) -> dict[str, Tensor]:
        """A picture (C, H, W) a sample, or None, to ``map`` (B, C, H, W) and ``given`` (B,) bool."""
        pictures, given = _stacked(values, self.channels, "the map")
        return {"map": pictures, "given": given}

    def forward(self, inputs: dict[str, Tensor], keep: Tensor) -> Cond:
        """``Cond(field=(B, C + 1, H, W))``."""
        return _shown(inputs["map"], keep & inputs["given"], self.null_picture)


class Source(Encoder):
    """The picture that an instruction changes, as the model diffuses pictures (in its latent, where it has one), and
    one channel that says that there is one (Brooks et al. 2023, arXiv 2211.09800, section 3.2).

    Guidance goes from nothing by this picture to the instruction (``guide/chain``): it is ``leading``.
    """

    kind = "condition/source"
    guided, leading = False, True

    def __init__(self, channels: int) -> None:
        super().__init__()
        _counted("channels", channels)
        self.channels = channels
        self.null_picture = nn.Parameter(torch.zeros(channels))

    @staticmethod
    def field(spec: Spec) -> int:
        """How many channels of the field are this condition's."""
        return int(spec["channels"]) + 1

    def prepare(self, values: list[Any]) -> dict[str, Tensor]:
        """A picture (C, H, W) a sample, or None, to ``picture`` (B, C, H, W) and ``given`` (B,) bool."""
        for v in values:
            if v is not None and not isinstance(v, Tensor):
                raise KakusanError(
                    f"condition {str(v)[:40]!r}: this one is a picture, which is given by: "
                    'kakusan edit MODEL IMAGE --instruct "make it 3d"'
                )
        picture, given = _stacked(values, self.channels, "the picture to change")
        return {"picture": picture, "given": given}

    def forward(self, inputs: dict[str, Tensor], keep: Tensor) -> Cond:
        """``Cond(field=(B, C + 1, H, W))``."""
        return _shown(inputs["picture"], keep & inputs["given"], self.null_picture)


def _shown(pictures: Tensor, kept: Tensor, null: Tensor) -> Cond:
    """Pictures (B, C, H, W) where ``kept`` (B,), else their null (C,), and a channel that says which it is."""
    here, absent = kept[:, None, None, None], null[:, None, None].expand(len(kept), -1, 1, 1)
    if not pictures.shape[-1]:
        return Cond(field=torch.cat([absent, torch.zeros_like(absent[:, :1])], 1))
    shown = torch.where(here, pictures, absent)
    return Cond(field=torch.cat([shown, here.to(shown).expand_as(shown[:, :1])], 1))


def _counted(name: str, value: int) -> None:
    if not 1 <= value <= MOST:
        raise KakusanError(f"{name}={value}: a picture has 1 to {MOST} channels")


def _paired(values: list[Any], verb: str) -> None:
    for v in values:
        if v is not None and not (isinstance(v, tuple) and len(v) == 2):
            raise KakusanError(f"condition {str(v)[:40]!r}: this one is a picture, which is given by: {verb}")


def _stacked(pictures: list[Any], channels: int, what: str) -> tuple[Tensor, Tensor]:
    """Pictures (C, H, W) of one size as (B, C, H, W), zeros for None, and which were given (B,) bool; (B, C, 0, 0) for
    none at all."""
    for p in pictures:
        if p is not None and not (isinstance(p, Tensor) and p.ndim == 3 and p.shape[0] == channels):
            shape = tuple(p.shape) if isinstance(p, Tensor) else repr(p)[:40]
            raise KakusanError(f"{what} is {shape}: this model takes a picture of {channels} channel(s), (C, H, W)")
    sizes = {tuple(p.shape[1:]) for p in pictures if p is not None}
    if len(sizes) > 1:
        raise KakusanError(f"{what} has several sizes in one batch ({sizes}): give one at a time")
    size = next(iter(sizes), (0, 0))
    rows = [torch.zeros(channels, *size) if p is None else p.float() for p in pictures]
    given = torch.tensor([p is not None for p in pictures], dtype=torch.bool)
    return torch.stack(rows) if rows else torch.zeros(0, channels, *size), given
