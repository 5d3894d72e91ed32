"""Pretrained text encoders from a folder on this machine, through ``transformers``: frozen, read once per caption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kakusan.conditions.prompt import prompt_parts
from kakusan.conditions.reader import Reader
from kakusan.core.batch import Cond
from kakusan.core.model import Encoder
from kakusan.part import KakusanError, Spec

__all__ = ["PretrainedText", "folder_hash", "folder_width", "read_folder"]


class PretrainedText(Encoder):
    """The last hidden states (``width`` numbers a piece) of a text encoder in ``folder``: CLIP, T5, BERT and their kin.

    They are brought to width ``tokens`` by a trained matrix and read by ``depth`` trained blocks (``Reader``, which
    also says what prompt weights do), to tokens (B, 1 + L, tokens) and a vector (B, dim). The frozen encoder is no part
    of the model's file: it is needed in the same folder to draw, and ``digest`` (``folder_hash``) says which it was.
    Weights are read as safetensors only, and no code of the folder runs.
    """

    kind = "condition/text-transformers"

    def __init__(
        self,
        folder: str,
        width: int,
        digest: str = "",
        length: int = 77,
        tokens: int = 128,
        depth: int = 1,
        heads: int = 4,
        dim: int = 64,
    ) -> None:
        super().__init__()
        if width < 1:
            raise KakusanError(f"width={width}: how many numbers the encoder gives for a piece; at least 1")
        self.folder, self.width, self.digest, self.length = folder, width, digest, length
        self.bring = nn.Linear(width, tokens)
        self.reader = Reader(tokens, depth, heads, length, dim)

    def hidden(self) -> set[str]:
        """Names of the hidden matrices: what Muon trains; the rest is AdamW's."""
        return {f"reader.{name}" for name in self.reader.hidden()}

    @classmethod
    def settled(cls, spec: Spec) -> Spec:
        """A spec with what its folder decides: ``width`` and ``digest``, where they are not given."""
        if not isinstance(spec.get("folder"), str):
            raise KakusanError(f"{cls.kind}: needs the folder of a text encoder, as encoders.prompt.folder=models/clip")
        found = dict(spec)
        found.setdefault("width", folder_width(found["folder"]))
        found.setdefault("digest", folder_hash(found["folder"]))
        return found

    def prepare(self, values: list[Any]) -> dict[str, Tensor]:
        """Prompts, None or blank = none, to ``{"pieces": (B, L) int32, 0 = no piece; "states": (B, L, width) float16;
        "weight": (B, L)}``.

        Raises KakusanError for prompts longer than ``length`` pieces, and a folder that is missing or another one.
        """
        return self.stack([self._row(prompt_parts(value), exact=True) for value in values])

    def caption(self, text: str | None) -> dict[str, Tensor]:
        """A caption as ``prepare`` does prompts: without the syntax of weights, cut after ``length`` pieces."""
        return self._row([(text, 1.0)] if text else [], exact=False)

    def overlong(self, text: str) -> bool:
        """Whether a caption is cut."""
        return len(self._read(text)["input_ids"]) > self.length

    def stack(self, rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Prepared inputs of single texts as those of a batch, as long as the longest."""
        longest = max(row["pieces"].shape[1] for row in rows)

        def wide(value: Tensor) -> Tensor:
            return F.pad(value, (0, 0) * (value.ndim - 2) + (0, longest - value.shape[1]))

        return {name: torch.cat([wide(row[name]) for row in rows]) for name in rows[0]}

    def remarks(self, value: Any) -> list[str]:
        """That a prompt is empty; nothing else: every word has pieces here."""
        empty = not any(text for text, _ in prompt_parts(value))
        return ["the prompt is empty: drawn without one (unconditionally)"] if empty else []

    def same(self, inputs: dict[str, Tensor], others: dict[str, Tensor]) -> Tensor:
        """Texts of the same pieces."""
        longest = max(inputs["pieces"].shape[1], others["pieces"].shape[1])
        a, b = (F.pad(x["pieces"], (0, longest - x["pieces"].shape[1])) for x in (inputs, others))
        return (a[:, None] == b).all(2)

    def forward(self, inputs: dict[str, Tensor], keep: Tensor) -> Cond:
        """``pieces`` (B, L), ``states`` (B, L, width), ``weight`` (B, L), and keep (B,) bool to a ``Cond``."""
        states = inputs["states"].to(self.bring.weight.dtype)
        return self.reader(self.bring(states), inputs["pieces"] > 0, inputs["weight"], keep)

    def _row(self, parts: list[tuple[str, float]], exact: bool) -> dict[str, Tensor]:
        """One text, in stretches with a weight each, as prepared inputs."""
        text, ends = "", []
        for words, weight in parts:
            text = f"{text} {words}".strip()
            ends.append((len(text), weight))
        if not text.strip():
            return _inputs([], torch.zeros(0, self.width), [])
        read = self._read(text)
        ids = read["input_ids"]
        if len(ids) > self.length and exact:
            raise KakusanError(
                f"prompt {text[:40]!r}... has {len(ids)} pieces: this model reads {self.length}; say it in fewer words"
            )
        ids = ids[: self.length]
        with torch.no_grad():
            states = self._loaded()[1](input_ids=torch.tensor([ids])).last_hidden_state[0].float()
        if states.shape[1] != self.width:
            raise KakusanError(f"{self.folder}: gives {states.shape[1]} numbers a piece, this model takes {self.width}")
        weights = [next((w for to, w in ends if end <= to), 1.0) if end else 1.0 for _, end in read["offset_mapping"]]
        return _inputs(ids, states, weights[: self.length])

    def _read(self, text: str) -> Any:
        """A text in the encoder's own pieces, with its marks of beginning and end."""
        return self._loaded()[0](text, return_offsets_mapping=True, verbose=False)

    def _loaded(self) -> tuple[Any, Any]:
        """Tokenizer and frozen encoder: not this part's own, so that copies of a model share them."""
        if self.digest and folder_hash(self.folder) != self.digest:
            raise KakusanError(f"{self.folder}: is not the text encoder that this model was trained with")
        return read_folder(self.folder)


def _inputs(ids: list[int], states: Tensor, weights: list[float]) -> dict[str, Tensor]:
    return {
        "pieces": torch.tensor([ids], dtype=torch.int32).reshape(1, -1) + 1,
        "states": states.clamp(-6e4, 6e4).half()[None],
        "weight": torch.tensor([weights], dtype=torch.float32).reshape(1, -1),
    }


@cache
def read_folder(folder: str) -> tuple[Any, Any]:
    """Tokenizer and frozen encoder in a folder; nothing outside it is asked."""
    try:
        from transformers import AutoModelForTextEncoding, AutoTokenizer
    except ImportError:
        raise KakusanError("pretrained text encoders need transformers: `pip install 'kakusan[text]'`") from None
    given = {"local_files_only": True, "trust_remote_code": False}
    try:
        with torch.random.fork_rng(devices=[]):
            tokenizer = AutoTokenizer.from_pretrained(_folder(folder), **given)
            encoder = AutoModelForTextEncoding.from_pretrained(_folder(folder), use_safetensors=True, **given)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).partition("\n")[0][:160]
        raise KakusanError(f"{folder}: no text encoder can be read from it ({reason})") from error
    if not tokenizer.is_fast:
        raise KakusanError(f"{folder}: needs a tokenizer.json (a fast tokenizer)")
    return tokenizer, encoder.float().eval().requires_grad_(False)


def _folder(folder: str) -> Path:
    path = Path(folder).expanduser()
    if not (path / "config.json").is_file():
        raise KakusanError(f"{folder}: no folder of a text encoder (config.json, tokenizer.json, model.safetensors)")
    return path


def folder_width(folder: str) -> int:
    """How many numbers the text encoder in a folder gives for each piece."""
    config = json.loads((_folder(folder) / "config.json").read_text("utf-8"))
    config = config.get("text_config") or config
    found = next((config[name] for name in ("hidden_size", "d_model", "dim") if name in config), None)
    if not isinstance(found, int):
        raise KakusanError(f"{folder}: its config.json does not say hidden_size; give encoders.prompt.width")
    return found


@cache
def folder_hash(folder: str) -> str:
    """SHA-256 over the encoder's weights, configuration and tokenizer: the first 32 hex digits."""
    digest = hashlib.sha256()
    for path in sorted(_folder(folder).iterdir()):
        if path.suffix == ".safetensors" or path.name in ("config.json", "tokenizer.json"):
            digest.update(path.name.encode() + b"\0")
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:32]
