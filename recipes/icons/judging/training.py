"""Training: both towers together, each picture against all captions of its batch, each caption against all pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from judging.icons import Icons, Prompt, example
from judging.towers import Judge
from kakusan.conditions.words import counted
from kakusan.training.optim import Muon

__all__ = ["agreement", "trained", "words_of"]

SHIFTED = 0.35  # of the pictures, in another colour
SHIFT = 3  # pixels that a picture is moved by, at most
NEVER = -1e9


def words_of(icons: Icons, asked: dict[str, list[Prompt]]) -> list[str]:
    """The words that the judge reads: of all captions and of the prompts, the most frequent first."""
    captions = [text for line in icons.lines for text in line["text"]]
    found = counted([*captions, *(p.text for some in asked.values() for p in some)])
    return [word for word, _ in sorted(found.items(), key=lambda item: (-item[1], item[0]))]


def trained(
    icons: Icons,
    judge: Judge,
    seconds: float,
    batch: int = 192,
    seed: int = 0,
    clock: Callable[[], float] = time.process_time,
    tell: Callable[[str], None] = print,
) -> int:
    """Train for so many seconds of ``clock``; returns the number of pictures seen."""
    rows = np.array([i for i in range(len(icons.lines)) if i not in icons.kept])
    optimiser = Muon(lr=0.02, lr_rest=0.004).build(judge.train())
    draw = np.random.default_rng(seed)
    began, steps, losses, said = clock(), 0, [], 0.0
    while (done := (clock() - began) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = group["initial_lr"] * min(1, (steps + 1) / 50) * (1 - done) ** 0.5
        some = draw.choice(rows, min(batch, len(rows)), replace=False)
        loss = _loss(icons, judge, some, draw)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        with torch.no_grad():
            judge.scale.clamp_(max=math.log(100))
        steps, losses = steps + 1, [*losses[-49:], float(loss.detach())]
        if done >= said:
            tell(f"{100 * done:3.0f}%, step {steps:,}, loss {np.mean(losses):.3f}")
            said += 0.05
    judge.eval()
    return steps * min(batch, len(rows))


def _loss(icons: Icons, judge: Judge, rows: np.ndarray, draw: np.random.Generator) -> Tensor:
    """Of one batch."""
    made = [example(icons, int(row), draw, SHIFTED) for row in rows]
    pictures = judge.seen(_varied(np.stack([picture for picture, *_ in made]), draw))
    keys = [(icons.lines[int(row)]["code"], colour) for row, (_, _, colour, _) in zip(rows, made)]
    wrong = [(code, text) for (code, _), (*_, text) in zip(keys, made) if text]
    texts = [text for _, text, _, _ in made]
    said = judge.said([*texts, *(text for _, text in wrong)])
    logits = judge.scale.exp() * pictures @ said.T
    return agreement(logits, keys, texts, [code for code, _ in wrong])


def agreement(
    logits: Tensor, keys: Sequence[tuple[str, str]], texts: Sequence[str], wrong: Sequence[str] = ()
) -> Tensor:
    """``-(log p(text i | picture i) + log p(picture i | text i)) / 2`` (Radford et al. 2021, CLIP, figure 3).

    logits (B, B + W): W more captions, untrue of a picture of concept ``wrong[j]`` (another colour of it), stand
    against that concept's pictures in a colour, and against none else. Captions of the same concept and colour, or of
    the same words, are no counter-examples.
    """
    count = len(keys)
    mask = torch.zeros(logits.shape, dtype=torch.bool)
    for i, (key, text) in enumerate(zip(keys, texts)):
        for j in range(count):
            mask[i, j] = i != j and (key == keys[j] or text == texts[j])
        for j, code in enumerate(wrong):
            mask[i, count + j] = code != key[0] or not key[1]
    logits = logits.masked_fill(mask, NEVER)
    right = torch.arange(count)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits[:, :count].T, right)) / 2


def _varied(pictures: np.ndarray, draw: np.random.Generator) -> Tensor:
    """(B, 64, 64, 4) uint8 over grounds of one colour each, moved, dimmed and with a little noise or blur."""
    wide, side = np.pad(pictures, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0))), pictures.shape[1]
    at = draw.integers(0, 2 * SHIFT + 1, (len(wide), 2))
    moved = np.stack([p[y : y + side, x : x + side] for p, (y, x) in zip(wide, at)])
    rgba = torch.from_numpy(moved).permute(0, 3, 1, 2).float() / 255
    count = len(rgba)
    ground = torch.from_numpy(draw.random((count, 3, 1, 1), np.float32))
    plain = torch.from_numpy(draw.random((count, 1, 1, 1)) < 0.5)
    ground = torch.where(plain, ground[:, :1], ground)
    x = rgba[:, :3] * rgba[:, 3:] + ground * (1 - rgba[:, 3:])
    x = x * torch.from_numpy(draw.uniform(0.85, 1.1, (count, 1, 1, 1)).astype(np.float32))
    blurred = torch.from_numpy(draw.random((count, 1, 1, 1)) < 0.15)
    x = torch.where(blurred, F.avg_pool2d(x, 3, 1, 1), x)
    noise = torch.from_numpy(draw.standard_normal(x.shape, np.float32))
    return (x + noise * torch.from_numpy(draw.uniform(0, 0.06, (count, 1, 1, 1)).astype(np.float32))).clamp(0, 1)
