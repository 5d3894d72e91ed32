"""Reader: a small transformer from the embeddings of a text's pieces to the tokens and the vector of a condition."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kakusan.core.batch import Cond
from kakusan.part import KakusanError

__all__ = ["Reader"]

NEVER = -1e9  # a key's bias that leaves it out; finite


class _Block(nn.Module):
    """h + attention(norm h), then h + feed-forward(norm h)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm0, self.norm1 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h: Tensor, bias: Tensor) -> Tensor:
        """h (B, L, width); bias (B, L), added to what every position finds in a key."""
        q, k, v = self.mix(self.norm0(h)).reshape(*h.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[:, None, None].to(q.dtype))
        h = h + self.out(found.transpose(1, 2).reshape(h.shape))
        return h + self.narrow(F.gelu(self.wide(self.norm1(h)), approximate="tanh"))


class Reader(nn.Module):
    """Embeddings (B, L, width) of up to ``length`` pieces, read by ``depth`` blocks, to ``Cond``: a token for the whole
    text and one for each piece (B, 1 + L, width), and their mean as a vector (B, dim), none where dim is 0.

    A text without pieces, or not kept, is the learned null: one token and a vector of its own, whatever it held.

    A piece of weight w counts in attention and in the mean as if it stood there w times (log w is added to its key;
    0 hides it), and its own token y becomes ``n + w (y - n)``, n the null's token: nothing is said at w = 0, and above
    1 more than was.
    """

    def __init__(self, width: int, depth: int, heads: int, length: int, dim: int) -> None:
        super().__init__()
        if min(width, depth, length) < 1 or dim < 0:
            raise KakusanError(f"tokens={width}, depth={depth}, length={length}, dim={dim}: at least 1, 1, 1 and 0")
        if heads < 1 or width % heads:
            raise KakusanError(f"heads={heads} does not divide tokens={width}: choose a divisor")
        self.length = length
        self.start = nn.Parameter(torch.randn(width))
        self.place = nn.Parameter(torch.zeros(length + 1, width))  # places never met in training stay neutral
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.null = nn.Parameter(torch.randn(width))
        self.pool = nn.Linear(width, dim) if dim else None
        self.null_vector = nn.Parameter(torch.randn(dim).mul_(0.02)) if dim else None

    def hidden(self) -> set[str]:
        """Names of the hidden matrices: what Muon trains; the rest is AdamW's."""
        return {name for name, p in self.named_parameters() if name.startswith("blocks.") and p.ndim == 2}

    def forward(self, x: Tensor, mask: Tensor, weight: Tensor, keep: Tensor) -> Cond:
        """x (B, L, width), mask (B, L) bool (real pieces), weight (B, L), keep (B,) bool."""
        first = torch.ones_like(keep)[:, None]
        keep = keep & mask.any(1)
        said = torch.cat([first, mask & keep[:, None]], 1)
        share = F.pad(weight.to(x.dtype), (1, 0), value=1.0) * said
        bias = torch.where(share > 0, share.clamp(min=1e-6).log(), NEVER)
        h = torch.cat([self.start.to(x.dtype).expand(x.shape[0], 1, -1), x], 1) + self.place[: x.shape[1] + 1]
        for block in self.blocks:
            h = block(h, bias)
        y = self.norm(h)
        tokens = self.null + share[..., None] * (y - self.null)
        nothing = F.pad(self.null[None], (0, 0, 0, x.shape[1]))
        tokens = torch.where(keep[:, None, None], tokens, nothing) * said[..., None]
        if self.pool is None:
            return Cond(tokens=tokens, tokens_mask=said)
        mean = (share[..., None] * y).sum(1) / share.sum(1, keepdim=True)
        return Cond(torch.where(keep[:, None], self.pool(mean), self.null_vector), tokens, said)
