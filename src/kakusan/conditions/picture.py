"""Picture: how another picture looks (its style), as a vector; what it shows is left out as far as statistics go."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kakusan.core.batch import Cond
from kakusan.core.model import Encoder
from kakusan.part import KakusanError

__all__ = ["Picture"]

SIDES = (16, 512)
_WIDER = (1, 2, 2, 2)  # channels of the levels, in widths
RATE = 0.05  # at which mean and deviation of the statistics follow a batch's


class Picture(Encoder):
    """A picture of any size as a vector (B, dim): convolutions read it at ``side`` x ``side`` pixels, each halving it,
    and the vector is a linear map of every channel's mean and standard deviation over the positions of every level,
    less what they are over the pictures of the training, in units of how they vary there.

    Such statistics say how a picture is drawn and little of what stands where (Huang & Belongie 2017, arXiv 1703.06868,
    section 5, take them for the style itself). ``channels``: of the pictures, as their domain has them (premultiplied
    where there is alpha, so that nothing is what lies under a transparent pixel).
    """

    kind = "condition/picture"
    called = "style-image"  # what its user says for it

    def __init__(self, channels: int, dim: int = 64, side: int = 64, width: int = 32) -> None:
        super().__init__()
        if not 1 <= channels <= 256:
            raise KakusanError(f"channels={channels}: a picture has 1 to 256 channels")
        if not SIDES[0] <= side <= SIDES[1]:
            raise KakusanError(f"side={side}: pictures are read at {SIDES[0]} to {SIDES[1]} pixels a side; 64 is usual")
        if not 1 <= width <= 1024 or not 1 <= dim <= 4096:
            raise KakusanError(f"width={width}, dim={dim}: need 1 <= width <= 1024 and 1 <= dim <= 4096")
        self.channels, self.side = channels, side
        widths = [channels, *(width * wider for wider in _WIDER)]
        self.levels = nn.ModuleList(nn.Conv2d(cin, cout, 4, 2, 1) for cin, cout in pairwise(widths))
        for level in self.levels:
            nn.init.kaiming_normal_(level.weight, nonlinearity="relu")  # else the last of four would say nothing
            nn.init.zeros_(level.bias)
        size = 2 * sum(widths[1:])
        self.mean = nn.Parameter(torch.zeros(size), requires_grad=False)  # of the statistics over pictures; followed in
        self.std = nn.Parameter(torch.ones(size), requires_grad=False)  # training, and averaged as weights are
        self.linear = nn.Linear(size, dim)
        self.null_vector = nn.Parameter(torch.randn(dim).mul_(0.02))

    def prepare(self, values: list[Any]) -> dict[str, Tensor]:
        """A picture (C, H, W) a sample, or None, to ``picture`` (B, C, side, side) and ``given`` (B,) bool."""
        rows = [torch.zeros(self.channels, self.side, self.side) if v is None else self._read(v) for v in values]
        given = torch.tensor([v is not None for v in values], dtype=torch.bool)
        empty = torch.zeros(0, self.channels, self.side, self.side)
        return {"picture": torch.stack(rows) if rows else empty, "given": given}

    def _read(self, value: Any) -> Tensor:
        if not isinstance(value, Tensor):
            raise KakusanError(
                f"condition {str(value)[:40]!r}: this one is a picture, which is given by: "
                'kakusan sample MODEL "a red apple" --style-image PICTURE'
            )
        if value.ndim != 3 or value.shape[0] != self.channels or not value.numel():
            raise KakusanError(
                f"the picture is {tuple(value.shape)}: this model takes one of {self.channels} channel(s), (C, H, W)"
            )
        return self._brought(value[None].float())[0]

    def stack(self, rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Those of several batches as one, whatever their sizes."""
        return super().stack([row | {"picture": self._brought(row["picture"])} for row in rows])

    def _brought(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) at the size that is read."""
        if x.shape[2] == x.shape[3] == self.side:
            return x
        return F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True, align_corners=False)

    def forward(self, inputs: dict[str, Tensor], keep: Tensor) -> Cond:
        """``picture`` (B, C, H, W) of any size, ``given`` (B,) and keep (B,) bool to ``Cond(vector=(B, dim))``."""
        x, said = self._brought(inputs["picture"]).to(self.linear.weight.dtype), []
        for level in self.levels:
            x = F.silu(level(x))
            said += [x.mean((2, 3)), x.var((2, 3), correction=0).add(1e-6).sqrt()]
        found = torch.cat(said, 1).float()
        if self.training:
            self._follow(found.detach()[inputs["given"]])
        vector = self.linear((found - self.mean.detach()) / self.std.detach())
        return Cond(vector=torch.where((keep & inputs["given"])[:, None], vector, self.null_vector.to(vector.dtype)))

    def followed(self) -> list[Tensor]:
        return [self.mean, self.std]

    @torch.no_grad()
    def _follow(self, found: Tensor) -> None:
        """Lets mean and deviation follow those of the statistics (B, size), at first at once.

        Pictures differ little in most of what is common to all of them; without this the network has to find the small
        difference of styles beside it, and did not within ten minutes.
        """
        if len(found) < 2:
            return
        rate = torch.where(self.mean.any(), RATE, 1.0).to(found)
        self.mean.lerp_(found.mean(0), rate)
        self.std.lerp_(found.std(0).clamp(min=1e-3), rate)
