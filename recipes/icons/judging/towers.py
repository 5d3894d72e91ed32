"""Towers: a small network for pictures and one for words, whose vectors agree where a caption is true."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import safetensors
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kakusan.checkpoint import write_tensors
from kakusan.conditions.words import split
from kakusan.part import KakusanError

__all__ = ["GROUNDS", "Judge", "read", "write"]

GROUNDS = ((1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (0.12, 0.13, 0.16))  # what pictures are laid over to be judged


class _Pictures(nn.Module):
    """(B, 3, 64, 64) in [0, 1] to (B, size): convolutions at 16, 8 and 4 pixels, each halving followed by one more."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        self.first = nn.Conv2d(48, width, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(widths))
        self.same = nn.ModuleList(nn.Conv2d(w, w, 3, padding=1) for w in widths)
        self.norms = nn.ModuleList(nn.GroupNorm(8, w) for w in widths)
        self.out = nn.Linear(2 * widths[-1], size)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(F.pixel_unshuffle(2 * x - 1, 4))
        for i, (same, norm) in enumerate(zip(self.same, self.norms)):
            h = F.silu(h) if i == 0 else F.silu(self.down[i - 1](h))
            h = h + F.silu(same(norm(h)))
        return self.out(torch.cat([h.mean((2, 3)), h.amax((2, 3))], 1))


class _Captions(nn.Module):
    """Texts to (n, size): the mean of their words' vectors through one hidden layer."""

    def __init__(self, words: Sequence[str], size: int, width: int) -> None:
        super().__init__()
        self.number = {word: i for i, word in enumerate(words)}
        self.table = nn.EmbeddingBag(len(words) + 1, width, mode="mean")
        self.hidden, self.out = nn.Linear(width, 2 * width), nn.Linear(2 * width, size)

    def forward(self, texts: Sequence[str]) -> Tensor:
        rows = [[self.number.get(w, len(self.number)) for w in split(t)] or [len(self.number)] for t in texts]
        starts = torch.tensor([0, *map(len, rows[:-1])]).cumsum(0)
        h = self.table(torch.tensor([n for row in rows for n in row]), starts)
        return self.out(F.silu(self.hidden(h)))


class Judge(nn.Module):
    """Pictures and captions as unit vectors (n, size), whose product, times ``scale``, is the logit of a match."""

    def __init__(self, words: Sequence[str], size: int = 128, width: int = 64) -> None:
        super().__init__()
        self.sizes = {"size": size, "width": width}
        self.words = list(words)
        self.pictures = _Pictures(size, width)
        self.captions = _Captions(self.words, size, size)
        self.scale = nn.Parameter(torch.tensor(14.0).log())

    def hidden(self) -> set[str]:
        """What Muon moves."""
        names = [n for n, p in self.pictures.named_parameters() if p.ndim == 4 and not n.startswith("first")]
        return {f"pictures.{n}" for n in names} | {"captions.hidden.weight"}

    def seen(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, 64, 64) in [0, 1]."""
        return F.normalize(self.pictures(x), dim=1)

    def said(self, texts: Sequence[str]) -> Tensor:
        """Captions."""
        return F.normalize(self.captions(texts), dim=1)

    @torch.no_grad()
    def scores(self, pictures: Tensor, texts: Sequence[str]) -> Tensor:
        """How well pictures (B, 64, 64, 4) uint8 fit each of the texts, (B, n): the mean over three grounds."""
        rgba = pictures.permute(0, 3, 1, 2).float() / 255
        alpha = rgba[:, 3:]
        said = self.said(texts)
        total = torch.zeros(len(pictures), len(texts))
        for ground in GROUNDS:
            over = rgba[:, :3] * alpha + torch.tensor(ground)[:, None, None] * (1 - alpha)
            total += torch.cat([self.seen(some) for some in over.split(256)]) @ said.T
        return total / len(GROUNDS)


def write(path: Path, judge: Judge, about: dict[str, object]) -> None:
    """The judge as one file, with what is known about it."""
    told = {"words": judge.words, "sizes": judge.sizes, "about": about}
    write_tensors(path, judge.state_dict(), {"judge": json.dumps(told)})


def read(path: Path) -> tuple[Judge, dict[str, object]]:
    """A judge and what is known about it."""
    if not path.is_file():
        raise KakusanError(f"--judge {path}: no such file; train one: python recipes/icons/judge.py train ICONS {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {})["judge"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise KakusanError(f"--judge {path}: no judge that judge.py wrote ({error})") from error
    judge = Judge(told["words"], **told["sizes"])
    judge.load_state_dict(tensors)
    return judge.eval(), told["about"]
