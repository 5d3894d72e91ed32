"""TextTable: words whose vectors come from a pretrained sentence encoder, made once and carried by the model's file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kakusan.conditions import minilm
from kakusan.conditions.reader import Reader
from kakusan.conditions.text import Words
from kakusan.conditions.words import FIRST, PADDING, Lexicon
from kakusan.part import KakusanError, Spec

__all__ = ["TextTable"]

WIDTHS = (8, 384)
CHOICES = ("limit", "own", "more")  # what is given in an override, decides the vocabulary and is no argument


class TextTable(Words):
    """Words to ``Cond``: tokens (B, 1 + L, tokens) with their mask, and a vector (B, dim); each word's embedding is

    ``W f + o``: f its frozen vector of ``width`` numbers, W learned, o a vector of its own, learned from 0.

    The pieces of ``vocabulary`` are words (``_red``) and parts of words (``ed``); the longest that fits is taken, from
    the left. The first ``trained`` of them have an o: those of the training captions. A word that no caption had has
    its f, which lies near those of words of like meaning; a piece that the sentence encoder does not know (Japanese)
    has f = 0, and all it means is learnt. ``fill`` makes the vectors f (``minilm.vectors``), once, before training;
    they are kept as bytes, ``f = scale * frozen``, in the model's file. Prompt weights: see ``Reader``; words of other
    languages: ``Glossary``.
    """

    kind = "condition/text-table"

    def __init__(
        self,
        vocabulary: str,
        trained: int,
        width: int = 96,
        length: int = 64,
        tokens: int = 128,
        depth: int = 2,
        heads: int = 4,
        dim: int = 64,
        glossary: str = "",
    ) -> None:
        super().__init__(Lexicon(vocabulary), Reader(tokens, depth, heads, length, dim), glossary)
        count = len(self.vocabulary) - FIRST
        if not WIDTHS[0] <= width <= WIDTHS[1]:
            raise KakusanError(f"width={width}: a frozen vector has {WIDTHS[0]} to {WIDTHS[1]} numbers")
        if not 0 <= trained <= count:
            raise KakusanError(f"trained={trained}: the vocabulary has {count} pieces; give a number from 0 to that")
        self.bring = nn.Linear(width, tokens, bias=False)
        nn.init.normal_(self.bring.weight, std=width**-0.5)  # f has unit variance on average, and so has W f
        self.own = nn.Embedding(FIRST + trained, tokens, padding_idx=PADDING)
        nn.init.zeros_(self.own.weight)
        self.register_buffer("frozen", torch.zeros(FIRST + count, width, dtype=torch.int8))
        self.register_buffer("scale", torch.zeros(width))

    @classmethod
    def listed(cls, spec: Spec, words: Mapping[str, int], learnt: str) -> Spec:
        """A spec with the vocabulary that suits captions of ``words`` (counted, as ``words.split`` gives them), of
        which ``words.learn`` gives the pieces ``learnt``; a spec that says ``trained`` has its own.

        Read and taken out of the spec: ``limit``, how many pieces there are; ``own``, which get a vector of their own,
        those of the "captions" or only what the sentence encoder does not know ("unknown"); ``more``, a file of
        further words, one a line, the more important first.
        """
        if "trained" in spec:
            return spec
        given = {name: spec[name] for name in CHOICES if name in spec}
        vocabulary, trained = minilm.listing(Counter(words), learnt, **given)
        return {k: v for k, v in spec.items() if k not in CHOICES} | {"vocabulary": vocabulary, "trained": trained}

    @property
    def filled(self) -> bool:
        """Whether the frozen vectors are there."""
        return bool(self.scale.any())

    def fill(self, tell: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Make the frozen vectors; needs the extra [text]."""
        pieces = self.vocabulary.listed()
        vectors = minilm.vectors(pieces, self.bring.in_features, tell)
        scale = vectors.abs().amax(0).clamp(min=1e-6) / 127
        self.scale.copy_(scale)
        self.frozen[FIRST:] = (vectors / scale).round().to(torch.int8)

    def embed(self, pieces: Tensor) -> Tensor:
        """``W f + o`` (B, L, tokens)."""
        known = F.embedding(pieces, self.frozen).to(self.scale.dtype) * self.scale
        own = torch.where(pieces < self.own.num_embeddings, pieces, PADDING)
        return self.bring(known) + self.own(own)
