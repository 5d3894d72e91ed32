"""Text: words as tokens for cross-attention and as a vector; Text learns its pieces from nothing."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kakusan.conditions.glossary import given, parsed
from kakusan.conditions.prompt import prompt_parts
from kakusan.conditions.reader import Reader
from kakusan.conditions.words import PADDING, Pieces, Vocabulary, split
from kakusan.core.batch import Cond
from kakusan.core.model import Encoder
from kakusan.part import KakusanError, Spec

__all__ = ["Text", "Words"]

NUMBERS = torch.int16  # of pieces: what captions are kept in


class Words(Encoder, abc.ABC):
    """Pieces of words, embedded in whatever way, read by a ``Reader``, to ``Cond``: tokens (B, 1 + L, tokens) with
    their mask, and a vector (B, dim). A ``glossary`` says words of other languages in those of the vocabulary."""

    def __init__(self, vocabulary: Pieces, reader: Reader, glossary: str) -> None:
        super().__init__()
        self.vocabulary, self.length, self.reader = vocabulary, reader.length, reader
        self.glossary = parsed(glossary)

    @classmethod
    def settled(cls, spec: Spec) -> Spec:
        """A spec with its glossary written out, where it names a file."""
        return spec | {"glossary": given(str(spec["glossary"]))} if "glossary" in spec else spec

    @abc.abstractmethod
    def embed(self, pieces: Tensor) -> Tensor:
        """Numbers of pieces (B, L) int64, 0 = none, to embeddings (B, L, tokens)."""

    def hidden(self) -> set[str]:
        """Names of the hidden matrices: what Muon trains; the rest is AdamW's."""
        return {f"reader.{name}" for name in self.reader.hidden()}

    def prepare(self, values: list[Any]) -> dict[str, Tensor]:
        """Prompts, None or without words = none, to ``{"pieces": (B, L) int16, 0 = no piece; "weight": (B, L)}``.

        Raises KakusanError for prompts longer than ``length`` pieces, and what ``prompt.parse`` refuses.
        """
        rows = []
        for value in values:
            parts = [(self._numbers(words), weight) for words, weight in prompt_parts(value)]
            row = [(number, weight) for numbers, weight in parts for number in numbers]
            if len(row) > self.length:
                raise KakusanError(
                    f"prompt {str(value)[:40]!r}... has {len(row)} pieces: this model reads {self.length}; "
                    "say it in fewer words"
                )
            rows.append(row)
        return _padded(rows)

    def caption(self, text: str | None) -> dict[str, Tensor]:
        """A caption to ``{"pieces": (1, L)}``: without the syntax of weights, cut after ``length`` pieces."""
        return {"pieces": _padded([[(n, 1.0) for n in self._numbers(text or "")[: self.length]]])["pieces"]}

    def overlong(self, text: str) -> bool:
        """Whether a caption is cut."""
        return len(self._numbers(text)) > self.length

    def stack(self, rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Prepared inputs of single texts as those of a batch, as long as the longest."""
        longest = max(row["pieces"].shape[1] for row in rows)
        return {
            name: torch.cat([F.pad(row[name], (0, longest - row[name].shape[1])) for row in rows]) for name in rows[0]
        }

    def widened(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """As long as the longest text: what is added is no piece."""
        return {name: F.pad(v, (0, self.length - v.shape[1])) for name, v in inputs.items()}

    def spelling(self) -> dict[str, Any]:
        """What a host needs to spell prompts itself: the pieces, how words are made of them, how many a text has at
        most, and the glossary where there is one."""
        told = {"vocabulary": self.vocabulary.text, "spelled": self.vocabulary.how, "length": self.length}
        return told | ({"glossary": self.glossary.text} if len(self.glossary) else {})

    def unknown(self, prompt: Any) -> list[str]:
        """The words of a prompt that the vocabulary does not know."""
        said = [self.glossary.translated(words) for words, _ in prompt_parts(prompt)]
        return list(dict.fromkeys(word for words in said for word in self.vocabulary.unknown(words)))

    def remarks(self, value: Any) -> list[str]:
        """What is worth saying about a prompt: that it is empty, which of its words are unknown."""
        if not any(self._numbers(words) for words, _ in prompt_parts(value)):
            return ["the prompt is empty: drawn without one (unconditionally)"]
        unknown = [repr(word) for word in self.unknown(value)]
        verb = "is" if len(unknown) == 1 else "are"
        return [f"{', '.join(unknown)} {verb} unknown to this model's vocabulary"] if unknown else []

    def _numbers(self, text: str) -> list[int]:
        return [number for word in split(self.glossary.translated(text)) for number in self.vocabulary.numbers(word)]

    def same(self, inputs: dict[str, Tensor], others: dict[str, Tensor]) -> Tensor:
        """Texts of the same pieces."""
        longest = max(inputs["pieces"].shape[1], others["pieces"].shape[1])
        a, b = (F.pad(x["pieces"], (0, longest - x["pieces"].shape[1])) for x in (inputs, others))
        return (a[:, None] == b).all(2)

    def forward(self, inputs: dict[str, Tensor], keep: Tensor) -> Cond:
        """``pieces`` (B, L), perhaps ``weight`` (B, L), and keep (B,) bool to a ``Cond``."""
        pieces = inputs["pieces"].long()
        mask = pieces != PADDING
        weight = inputs.get("weight", mask.float())
        return self.reader(self.embed(pieces), mask, weight, keep)


class Text(Words):
    """Words to ``Cond``: tokens (B, 1 + L, tokens) with their mask, and a vector (B, dim).

    Each of up to ``length`` pieces of ``vocabulary`` (as ``words.learn`` gives it) has an embedding of width
    ``tokens``; ``depth`` transformer blocks of ``heads`` heads read them (``Reader``, which also says what prompt
    weights do). ``dim`` = 0 leaves the vector out. ``glossary``: see ``Glossary``.
    """

    kind = "condition/text"

    def __init__(
        self,
        vocabulary: str,
        length: int = 64,
        tokens: int = 128,
        depth: int = 2,
        heads: int = 4,
        dim: int = 64,
        glossary: str = "",
    ) -> None:
        super().__init__(Vocabulary(vocabulary), Reader(tokens, depth, heads, length, dim), glossary)
        self.table = nn.Embedding(len(self.vocabulary), tokens)

    def embed(self, pieces: Tensor) -> Tensor:
        """The pieces' own learnt vectors."""
        return self.table(pieces)


def _padded(rows: list[list[tuple[int, float]]]) -> dict[str, Tensor]:
    """Rows of (number, weight) as tensors of one length."""
    longest = max((len(row) for row in rows), default=0)
    full = [row + [(PADDING, 0.0)] * (longest - len(row)) for row in rows]
    shape = (len(rows), longest)
    return {
        "pieces": torch.tensor([[n for n, _ in row] for row in full], dtype=NUMBERS).reshape(shape),
        "weight": torch.tensor([[w for _, w in row] for row in full], dtype=torch.float32).reshape(shape),
    }
