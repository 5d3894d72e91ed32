"""Spaces: what white noise, projection and squared error mean for the kind of thing that is diffused."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kakusan.core.rng import Rng
from kakusan.part import KakusanError, Part

__all__ = ["Centred", "Flat", "Space", "Sphere"]

Shapes = Sequence[tuple[int, ...]]
_MOST_VALUES = 1 << 28  # of a table of spherical harmonics: 2 GiB


class Space(Part, abc.ABC):
    """The geometry of x; masks are bool, True = a real position, and real positions come first along each axis."""

    def shapes(self, x: Tensor, mask: Tensor | None = None) -> list[tuple[int, ...]]:
        """Each sample's own unpadded shape, without the batch dimension; x (B, C, *S) and mask (B, *S)."""
        if mask is None:
            return [tuple(x.shape[1:])] * len(x)
        extents: list[Tensor] = []
        for axis in range(1, mask.ndim):
            others = tuple(a for a in range(1, mask.ndim) if a != axis)
            extents.append((mask.any(others) if others else mask).sum(1))
        return [(x.shape[1], *sizes) for sizes in torch.stack(extents, 1).tolist()]

    @abc.abstractmethod
    def noise(self, shapes: Shapes, rng: Rng, purpose: str, step: int = 0) -> Tensor:
        """White noise of this space, drawn per sample at its own shape, then zero-padded to a batch."""

    @abc.abstractmethod
    def project(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The nearest point of the space: what is outside it is removed."""

    @abc.abstractmethod
    def mse(self, error: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mean squared error of each sample over its real positions, (B,)."""


def _mean(square: Tensor, weight: Tensor | None) -> Tensor:
    """Mean over all but the batch; ``weight`` (a mask, cell areas) broadcasts against ``square``."""
    if weight is None:
        return square.flatten(1).mean(1)
    weight = weight.to(square.dtype).expand_as(square)
    total = weight.flatten(1).sum(1)
    return (square * weight).flatten(1).sum(1) / torch.where(total > 0, total, 1)


class Flat(Space):
    """Plain Euclidean space; x (B, C, *S), mask (B, *S)."""

    kind = "space/flat"

    def noise(self, shapes: Shapes, rng: Rng, purpose: str, step: int = 0) -> Tensor:
        return rng.normal(shapes, purpose, step)

    def project(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x if mask is None else x * mask.unsqueeze(1)

    def mse(self, error: Tensor, mask: Tensor | None = None) -> Tensor:
        return _mean(error.square(), None if mask is None else mask.unsqueeze(1))


class Centred(Space):
    """Point sets whose centre of mass is the origin (Hoogeboom et al. 2022, section 3.1); x (B, N, D), mask (B, N).

    The first ``dims`` features are coordinates; the others are free.
    """

    kind = "space/centred"

    def __init__(self, dims: int = 3) -> None:
        if dims < 1:
            raise KakusanError(f"dims={dims}: need at least one coordinate")
        self.dims = dims

    def shapes(self, x: Tensor, mask: Tensor | None = None) -> list[tuple[int, ...]]:
        """Each sample's (points, features); x (B, N, D) and mask (B, N)."""
        if mask is None:
            return [tuple(x.shape[1:])] * len(x)
        return [(int(n), x.shape[2]) for n in mask.sum(1).tolist()]

    def noise(self, shapes: Shapes, rng: Rng, purpose: str, step: int = 0) -> Tensor:
        eps = rng.normal(shapes, purpose, step)
        counts = torch.tensor([shape[0] for shape in shapes], device=eps.device)
        return self.project(eps, torch.arange(eps.shape[1], device=eps.device) < counts[:, None])

    def project(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        weight = torch.ones_like(x[..., :1]) if mask is None else mask.unsqueeze(-1).to(x.dtype)
        place = x[..., : self.dims]
        centre = (place * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
        return torch.cat([place - centre, x[..., self.dims :]], -1) * weight

    def mse(self, error: Tensor, mask: Tensor | None = None) -> Tensor:
        return _mean(error.square(), None if mask is None else mask.unsqueeze(-1))


class Sphere(Space):
    """Fields on a sphere; x (B, C, H, W) on an equiangular grid, row h at latitude 90 - 180 (h + 1/2)/H degrees.

    Noise is isotropic: independent coefficients on the real spherical harmonics up to ``degree``, with unit variance
    at every point (GenCast, Price et al. 2025, methods). Errors are weighted by the area of their cell,
    cos(latitude).
    """

    kind = "space/sphere"

    def __init__(self, height: int, width: int, degree: int = 20) -> None:
        if degree < 1 or height < 2 or width < 2:
            raise KakusanError(f"height={height}, width={width}, degree={degree}: need at least 2, 2 and 1")
        if degree > min(height - 1, (width - 1) // 2):
            raise KakusanError(
                f"degree={degree} is finer than a {height}x{width} grid can hold; use at most "
                f"{min(height - 1, (width - 1) // 2)}"
            )
        if height * width * (degree + 1) ** 2 > _MOST_VALUES:
            raise KakusanError(f"height={height}, width={width}, degree={degree}: too large; use a lower degree")
        self.size, self.degree = (height, width), degree
        colatitude = (torch.arange(height, dtype=torch.float64) + 0.5) * math.pi / height
        longitude = torch.arange(width, dtype=torch.float64) * 2 * math.pi / width
        self.basis = _harmonics(colatitude, longitude, degree)
        self.area = torch.sin(colatitude) / torch.sin(colatitude).mean()

    def noise(self, shapes: Shapes, rng: Rng, purpose: str, step: int = 0) -> Tensor:
        if any(tuple(shape[1:]) != self.size for shape in shapes):
            raise KakusanError(f"shape {tuple(shapes[0])} does not fit this sphere's grid {self.size}")
        coefficients = rng.normal([(shape[0], self.basis.shape[1]) for shape in shapes], purpose, step)
        basis = self.basis.to(coefficients)
        return (coefficients @ basis.T).reshape(*coefficients.shape[:2], *self.size)

    def project(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x if mask is None else x * mask.unsqueeze(1)

    def mse(self, error: Tensor, mask: Tensor | None = None) -> Tensor:
        area = self.area.to(error)[:, None]
        return _mean(error.square(), area if mask is None else area * mask.unsqueeze(1))


def _harmonics(colatitude: Tensor, longitude: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics (H*W, (degree+1)^2), scaled so that each row's squares sum to 1."""
    x, y = torch.cos(colatitude), torch.sin(colatitude)
    columns: list[Tensor] = []
    diagonal = torch.full_like(x, (4 * math.pi) ** -0.5)  # normalised associated Legendre P_mm, m = 0
    for m in range(degree + 1):
        if m:
            diagonal = -diagonal * y * math.sqrt((2 * m + 1) / (2 * m))
        before, now = torch.zeros_like(x), diagonal
        for n in range(m, degree + 1):
            if n > m:
                a = math.sqrt((4 * n * n - 1) / (n * n - m * m))
                b = math.sqrt(((n - 1) ** 2 - m * m) / (4 * (n - 1) ** 2 - 1))
                before, now = now, a * (x * now - b * before)
            if m == 0:
                columns.append(now[:, None].expand(-1, len(longitude)))
            else:
                columns += [2**0.5 * now[:, None] * f(m * longitude) for f in (torch.cos, torch.sin)]
    basis = torch.stack([c.flatten() for c in columns], 1)
    return basis * math.sqrt(4 * math.pi) / (degree + 1)
