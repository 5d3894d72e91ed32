"""Icons: the prepared pictures and captions that the judge learns from, and those that are kept from it."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from iconset.captions import phrase
from iconset.recolour import TARGETS, bare, coloured, dominant, recoloured
from iconset.split import SPLITS
from PIL import Image
from prompts import THINGS

from kakusan.part import KakusanError

__all__ = ["KINDS", "Icons", "Prompt", "opened", "prompts", "taken"]

KINDS = ("seen", "held_concepts", "held_styles", "colour")


@dataclass(frozen=True)
class Prompt:
    """One question: a caption, the concept that it names, the style it is asked in ("" = none) and the colour; ``ja``:
    the caption in Japanese."""

    text: str
    code: str
    style: str = ""
    colour: str = ""
    exists: bool = False
    ja: str = ""

    def asked(self, language: str) -> str:
        """What a model is asked in a language, "en" or "ja"."""
        if language == "ja" and not self.ja:
            raise KakusanError(f"{self.text!r} has no 'ja' among the prompts; make them again by prompts.py")
        return self.ja if language == "ja" else self.text


@dataclass(frozen=True)
class Icons:
    """Pictures (n, 64, 64, 4) uint8 with their metadata; ``kept``: rows that the judge does not learn from."""

    pictures: np.ndarray
    lines: list[dict[str, Any]]
    kept: frozenset[int]

    def row(self, code: str, style: str) -> int | None:
        """The picture of a concept in a style."""
        return self._rows.get((code, style))

    def styles(self, code: str) -> list[str]:
        """The styles that a concept is drawn in."""
        return sorted(style for found, style in self._rows if found == code)

    @cached_property
    def _rows(self) -> dict[tuple[str, str], int]:
        return {(line["code"], line["style"]): i for i, line in enumerate(self.lines)}


def prompts(file: Path) -> dict[str, list[Prompt]]:
    """The questions of prompts.toml by kind."""
    found = tomllib.loads(file.read_text("utf-8"))
    return {
        kind: [
            Prompt(
                x["prompt"], x["code"], x.get("style", ""), x.get("colour", ""), x.get("exists", False), x.get("ja", "")
            )
            for x in found[kind]
        ]
        for kind in KINDS
    }


def opened(folder: Path, asked: dict[str, list[Prompt]]) -> Icons:
    """A folder that prepare.py made; of each concept asked for, one rendering is kept from the judge where there are
    several: the one of the style asked for, otherwise the first by a hash."""
    if not all((folder / split / "metadata.jsonl").is_file() for split in SPLITS):
        raise KakusanError(f"{folder}: no folder that prepare.py made; it lacks {SPLITS[0]}/metadata.jsonl or others")
    lines, pictures = [], []
    for split in SPLITS:
        for text in (folder / split / "metadata.jsonl").read_text("utf-8").splitlines():
            line = json.loads(text)
            with Image.open(folder / split / line["file_name"]) as im:
                pictures.append(np.asarray(im.convert("RGBA")))
            lines.append(line)
    icons = Icons(np.stack(pictures), lines, frozenset())
    kept = {row for kind in asked for p in asked[kind] if (row := taken(icons, p)) is not None}
    return Icons(icons.pictures, lines, frozenset(kept))


def taken(icons: Icons, prompt: Prompt) -> int | None:
    """The row by which the judge itself is judged on a prompt; None where it would be left without the concept."""
    styles = icons.styles(prompt.code)
    if len(styles) < 2:
        return None
    style = prompt.style or min(styles, key=lambda s: hashlib.sha256(f"judge {prompt.code} {s}".encode()).digest())
    return icons.row(prompt.code, style)


NOUNS = {code: noun for noun, code in THINGS}


def example(icons: Icons, row: int, draw: np.random.Generator, shifted: float) -> tuple[np.ndarray, str, str, str]:
    """A picture, a caption that is true of it, its colour ("" where nobody says it) and a caption of another colour.

    With probability ``shifted`` the picture is one in another colour, and the caption says so.
    """
    line, picture = icons.lines[row], icons.pictures[row]
    name = NOUNS.get(line["code"]) if draw.random() < 0.5 else None
    name = name or bare(line["concept"])
    if draw.random() < shifted and line["category"] != "Flags" and name:
        colour = str(draw.choice(sorted(TARGETS)))
        found = recoloured(picture, colour)
        if found is not None:
            other = str(draw.choice([c for c in sorted(TARGETS) if c != colour]))
            return found, coloured(name, colour), colour, coloured(name, other)
    if line["code"] in NOUNS and draw.random() < 0.3:
        return picture, phrase(NOUNS[line["code"]]), "", ""
    return picture, str(draw.choice(line["text"])), "", ""


def asked_picture(icons: Icons, prompt: Prompt) -> np.ndarray | None:
    """The real picture of a prompt that the judge did not learn from, in the colour asked for; None where there is
    none."""
    row = taken(icons, prompt)
    if row is None:
        return None
    picture = icons.pictures[row]
    return recoloured(picture, prompt.colour) if prompt.colour and dominant(picture) != prompt.colour else picture
