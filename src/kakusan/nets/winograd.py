"""3x3 convolutions by Winograd's minimal filtering: a quarter of the products, on CPUs.

A tile of 4x4 results comes from 6x6 inputs by 36 products a pair of channels where it took 144 (Lavin & Gray 2016,
arXiv 1509.09308, F(4x4, 3x3)): ``Y = A^T [(G g G^T) * (B^T d B)] A``, the sum over input channels being 36 matrix
products. Both gradients are of the same form. All of it is PyTorch's own products, on as many tiles at a time as a
cache holds. In float32 results differ from the direct ones by 1e-5 of the largest.

Whether it pays depends on the machine: ``training.plan`` and ``kakusan bench`` measure it. Layers and sizes that it can
not pay for stay direct.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

Net = TypeVar("Net", bound=nn.Module)
__all__ = ["conv3x3", "install", "layers"]

SIDE = 4  # of a tile of results; its input has two more
TILES = 128  # at a time: what it takes of a cache against what each product costs beside its work
CHANNELS = 64  # at least, on both sides: with fewer, moving the tiles costs what the products save
WASTE = 1.2  # at most: computed results, those beyond the picture's far sides among them, over wanted ones

_B = torch.tensor(
    [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
     [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]], dtype=torch.float32,
)  # fmt: skip
_G = torch.tensor(
    [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
     [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]], dtype=torch.float64,
)  # fmt: skip
_A = torch.tensor(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], dtype=torch.float32
)
_GG = torch.kron(_G, _G).float()  # (36, 9): both axes of a kernel at once


def layers(net: nn.Module) -> list[nn.Conv2d]:
    """The convolutions of ``net`` that may be computed so: plain 3x3 ones with many channels on both sides."""
    return [m for m in net.modules() if isinstance(m, nn.Conv2d) and type(m) in (nn.Conv2d, _Winograd) and _able(m)]


def install(net: Net) -> Net:
    """Let those convolutions of ``net`` be computed so, in place; weights and their names stay as they are."""
    for module in layers(net):
        module.__class__ = _Winograd
    return net


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.conv2d(x, weight, bias, padding=1)`` for x (B, C, H, W) float32 on the CPU, weight (K, C, 3, 3);
    differentiable once."""
    return _Convolution.apply(x, weight, bias)  # type: ignore[no-any-return,no-untyped-call]


class _Winograd(nn.Conv2d):
    """A convolution that is computed so in float32 on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return conv3x3(x, self.weight, self.bias) if _pays(x) else super().forward(x)


def _able(conv: nn.Conv2d) -> bool:
    plain = conv.kernel_size == (3, 3) and conv.stride == conv.dilation == (1, 1) and conv.padding == (1, 1)
    wide = min(conv.in_channels, conv.out_channels) >= CHANNELS
    return plain and wide and conv.groups == 1 and conv.padding_mode == "zeros"


def _pays(x: Tensor) -> bool:
    """Whether x is of a kind and size for it."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    rows, columns = (-(-n // SIDE) * SIDE for n in x.shape[2:])
    return rows * columns <= WASTE * x.shape[2] * x.shape[3]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _filtered(x, _kernels(weight), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        wanted = ctx.needs_input_grad  # type: ignore[attr-defined]
        turned = weight.flip(2, 3).transpose(0, 1)  # the gradient by the input is the convolution with this
        dx = _filtered(dy, _kernels(turned), None) if wanted[0] else None
        dw = _by_weight(x, dy).to(memory_format=torch.channels_last) if wanted[1] else None
        return dx, dw, dy.sum((0, 2, 3)) if wanted[2] else None


def _kernels(weight: Tensor) -> Tensor:
    """G g G^T: (K, C, 3, 3) to (36, C, K)."""
    k, c = weight.shape[:2]
    return (_GG @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(36, c, k)


def _both(matrix: Tensor, x: Tensor) -> Tensor:
    """M d M^T of every tile: x (n, n, N) to (m, m, N), M (m, n). One axis after the other, each as n small products of
    matrices, which several threads share (one product with the other axis in its columns they would not)."""
    return torch.matmul(matrix, torch.matmul(matrix, x.transpose(0, 1)).transpose(0, 1))


class _Tiles:
    """How pictures (B, C, H, W) are cut into tiles, some pictures at a time."""

    def __init__(self, shape: torch.Size) -> None:
        self.batch, _, self.height, self.width = shape
        self.down, self.across = -(-self.height // SIDE), -(-self.width // SIDE)
        self.beyond = (self.down * SIDE - self.height, self.across * SIDE - self.width)
        self.step = max(1, TILES // (self.down * self.across))  # pictures at a time

    def starts(self) -> range:
        return range(0, self.batch, self.step)

    def padded(self, x: Tensor, before: int) -> Tensor:
        """x as (B, H, W, C), zeros around it: ``before`` it, and as many behind what fills the last tile."""
        below, right = self.beyond
        return F.pad(x.permute(0, 2, 3, 1), (0, 0, before, right + before, before, below + before))

    def cut(self, padded: Tensor, start: int, side: int) -> Tensor:
        """Tiles of ``side``, SIDE apart, of the pictures from ``start``: (side, side, tiles of them all times C)."""
        some = padded[start : start + self.step]
        image, row, column, channel = some.stride()
        return some.as_strided(
            (side, side, len(some), self.down, self.across, some.shape[3]),
            (row, column, image, SIDE * row, SIDE * column, channel),
            some.storage_offset(),
        ).reshape(side, side, -1)


def _filtered(x: Tensor, kernels: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of x (B, C, H, W) with transformed kernels (36, C, K), channels-last."""
    tiles, (c, k) = _Tiles(x.shape), kernels.shape[1:]
    padded = tiles.padded(x, 1)
    out = x.new_empty(tiles.batch, tiles.down, SIDE, tiles.across, SIDE, k)
    for start in tiles.starts():
        spread = _both(_B, tiles.cut(padded, start, SIDE + 2)).view(36, -1, c)
        made = _both(_A, torch.bmm(spread, kernels).view(SIDE + 2, SIDE + 2, -1))
        some = out[start : start + tiles.step]
        some.copy_(made.view(SIDE, SIDE, len(some), tiles.down, tiles.across, k).permute(2, 3, 0, 4, 1, 5))
        if bias is not None:
            some += bias
    whole = out.view(tiles.batch, tiles.down * SIDE, tiles.across * SIDE, k)[:, : tiles.height, : tiles.width]
    return whole.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _by_weight(x: Tensor, dy: Tensor) -> Tensor:
    """The gradient by the weight, (K, C, 3, 3): ``G^T [sum over tiles of (B^T d B) * (A e A^T)] G``, e the results'."""
    tiles, c, k = _Tiles(x.shape), x.shape[1], dy.shape[1]
    inputs, results = tiles.padded(x, 1), tiles.padded(dy, 0)
    total = x.new_zeros(36, c, k)
    for start in tiles.starts():
        spread = _both(_B, tiles.cut(inputs, start, SIDE + 2)).view(36, -1, c)
        back = _both(_A.T, tiles.cut(results, start, SIDE)).view(36, -1, k)
        total.baddbmm_(spread.transpose(1, 2), back)
    return (_GG.T @ total.view(36, -1)).view(3, 3, c, k).permute(3, 2, 0, 1)
