"""The text encoders that encoders.py compares, as overrides of a recipe; WordLlama's word vectors are for it alone."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from kakusan.catalog import CATALOG
from kakusan.conditions import minilm
from kakusan.conditions.table import TextTable
from kakusan.conditions.words import FIRST, START
from kakusan.part import KakusanError

__all__ = ["ARMS", "READER", "WordLlamaTable", "overrides", "register"]

READER = {"tokens": 128, "depth": 2, "heads": 4, "dim": 64}  # what is trained on top, the same for all
ARMS = {
    "table": "words with MiniLM's vectors, frozen and reduced (condition/text-table)",
    "learnt": "a vocabulary and vectors learnt from nothing (condition/text)",
    "minilm": "all of MiniLM, frozen, its states in their sentence (condition/text-transformers)",
    "wordllama": "the table's words with WordLlama's vectors, frozen and reduced",
}


class WordLlamaTable(TextTable):
    """``TextTable`` whose frozen vectors are WordLlama's: of each piece the mean of its tokens' (Llama-derived: they
    are compared with and never shipped)."""

    kind = "condition/text-wordllama"

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
    ) -> None:
        super().__init__(vocabulary, trained, width, length, tokens, depth, heads, dim)

    def fill(self, tell: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Make the frozen vectors; needs the files of the package ``wordllama`` and ``tokenizers``."""
        pieces = self.vocabulary.listed()
        found = torch.zeros(len(pieces), self.bring.in_features)
        rows = [i for i, piece in enumerate(pieces) if minilm.known(piece)]
        found[rows] = minilm.reduced(_alone([pieces[i] for i in rows]), found.shape[1])
        tell(len(pieces), len(pieces))
        scale = found.abs().amax(0).clamp(min=1e-6) / 127
        self.scale.copy_(scale)
        self.frozen[FIRST:] = (found / scale).round().to(torch.int8)


def _alone(pieces: list[str]) -> Tensor:
    """Mean vectors of pieces (n, 256), of unit length; 0 for those without tokens."""
    tokenizer, table = _package()
    vectors = []
    for encoded in tokenizer.encode_batch([p.removeprefix(START) for p in pieces], add_special_tokens=False):
        vectors.append(table[encoded.ids].mean(0) if encoded.ids else torch.zeros(table.shape[1]))
    return torch.nn.functional.normalize(torch.stack(vectors), dim=1)


def _package():  # (a tokenizer of an optional package and its table)
    found = importlib.util.find_spec("wordllama")
    if found is None or not found.submodule_search_locations:
        raise KakusanError("the arm wordllama needs its vectors: `pip install --no-deps wordllama==0.4.0.post1`")
    from tokenizers import Tokenizer

    folder = Path(next(iter(found.submodule_search_locations)))
    listing = json.loads((folder / "tokenizers" / "l2_supercat_tokenizer_config.json").read_text("utf-8"))
    with safetensors.safe_open(folder / "weights" / "l2_supercat_256.safetensors", framework="pt") as file:
        (name,) = file.keys()
        return Tokenizer.from_str(json.dumps(listing)), file.get_tensor(name).float()


def register() -> None:
    """Let recipes and model files of this process name ``WordLlamaTable``."""
    CATALOG[WordLlamaTable.kind] = f"{__name__}:{WordLlamaTable.__name__}"


def overrides(arm: str) -> list[str]:
    """What a recipe has to say for an arm."""
    kind = {
        "table": TextTable.kind, "learnt": "condition/text", "minilm": "condition/text-transformers",
        "wordllama": WordLlamaTable.kind,
    }[arm]  # fmt: skip
    found = [f"encoders.prompt.kind={kind}", *(f"encoders.prompt.{k}={v}" for k, v in READER.items())]
    return [*found, f"encoders.prompt.folder={minilm.folder()}"] if arm == "minilm" else found
