"""Statistics of samples and data that tell pictures from noise: correlation, grain, contrast, spectrum, spread."""

from __future__ import annotations

import torch
from torch import Tensor

from kakusan.part import KakusanError

__all__ = ["QUANTILES", "checked", "flat_below", "measure", "quantiles", "spectral_slope", "spread"]

QUANTILES = (0.01, 0.05, 0.5, 0.95, 0.99)
EDGE = 0.95  # |x| beyond this is at the end of the range
PAIRS = 64  # samples whose mutual distances stand for all


def checked(x: Tensor) -> Tensor:
    if x.ndim < 3 or not x.numel():
        raise KakusanError(f"samples have shape {tuple(x.shape)}: pass (batch, channels, *sizes), none of them 0")
    return x.detach().float()


def measure(x: Tensor) -> dict[str, Tensor]:
    """Statistics of each sample, (B,) each; ``mean`` is (B, C)."""
    sizes = tuple(range(2, x.ndim))
    centred = x - x.mean(sizes, keepdim=True)
    variance = centred.square().flatten(1).mean(1)
    high = _highest(x).flatten(1)
    return {
        "corr": _neighbours(centred) / variance.clamp_min(1e-8),
        "std": variance.sqrt(),
        "grain": high.abs().median(1).values / 0.6745,
        "edges": high.square().mean(1).sqrt(),
        "saturation": (x.abs() > EDGE).flatten(1).float().mean(1),
        "mean": x.mean(sizes),
    }


def _neighbours(centred: Tensor) -> Tensor:
    """Mean product of neighbouring values, over all directions."""
    products = []
    for d in range(2, centred.ndim):
        n = centred.shape[d]
        if n > 1:
            near = centred.narrow(d, 0, n - 1) * centred.narrow(d, 1, n - 1)
            products.append(near.flatten(1).mean(1))
    return torch.stack(products).mean(0) if products else centred.new_ones(len(centred))


def _highest(x: Tensor) -> Tensor:
    """The highest frequency alone, scaled so that white noise keeps its deviation; edges along an axis vanish."""
    if x.ndim > 3 and min(x.shape[-2:]) > 1:
        a = x[..., 1:, :] - x[..., :-1, :]
        return (a[..., 1:] - a[..., :-1]) / 2
    if x.shape[-1] > 2:
        return (x[..., 2:] - 2 * x[..., 1:-1] + x[..., :-2]) / 6**0.5
    return x.new_zeros(len(x), 1)


def spectral_slope(x: Tensor) -> float:
    """Slope of log power against log frequency: about -2 to -3 for photographs, 0 for white noise."""
    sizes = tuple(range(2, x.ndim))
    centred = x.float() - x.float().mean(sizes, keepdim=True)
    power = torch.fft.fftn(centred, dim=sizes).abs().square().mean((0, 1))
    grids = torch.meshgrid(*[torch.fft.fftfreq(n, device=x.device) for n in power.shape], indexing="ij")
    radius = torch.stack(grids).square().sum(0).sqrt()
    keep = (radius > 0) & (radius <= 0.5) & (power > 1e-12)
    if int(keep.sum()) < 3:
        return 0.0
    a, b = radius[keep].log().double(), power[keep].log().double()
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / a.square().sum().clamp_min(1e-12))


def quantiles(values: Tensor) -> list[float]:
    levels = torch.tensor(QUANTILES, dtype=values.dtype, device=values.device)
    return [round(float(v), 6) for v in torch.quantile(values.flatten()[: 1 << 20], levels)]


def spread(x: Tensor) -> float:
    """Mean RMS distance between two different samples."""
    flat = x[:PAIRS].flatten(1)
    if len(flat) < 2:
        return 0.0
    distances = torch.pdist(flat) / flat.shape[1] ** 0.5
    return float(distances.mean())


def flat_below(typical: float) -> float:
    """Contrast below which a picture is one colour, for data of this typical contrast."""
    return min(0.05, 0.25 * typical)
