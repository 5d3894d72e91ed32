"""Material: what the packages hold, by code point: names and words in two languages, and drawings in four styles."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iconset import packages
from kakusan.part import KakusanError

__all__ = ["STYLES", "Concept", "Words", "concepts", "drawings"]

STYLES = ("noto", "3d", "flat", "modern")
TONES = {"light": "1f3fb", "medium-light": "1f3fc", "medium": "1f3fd", "medium-dark": "1f3fe", "dark": "1f3ff"}

# Names of the Fluent drawings that are not the emoji's own name.
RENAMED = {
    "blackbird": "black-bird",
    "hugging-face": "smiling-face-with-open-hands",
    "knocked-out-face": "face-with-crossed-out-eyes",
    "man-blonde-hair": "man-blond-hair",
    "man-deaf": "deaf-man",
    "man-merpeople": "merman",
    "man-with-bunny-ears": "men-with-bunny-ears",
    "man-wrestling": "men-wrestling",
    "person-blonde-hair": "person-blond-hair",
    "person-deaf": "deaf-person",
    "person-elf": "elf",
    "person-fairy": "fairy",
    "person-genie": "genie",
    "person-mage": "mage",
    "person-merpeople": "merperson",
    "person-superhero": "superhero",
    "person-supervillain": "supervillain",
    "person-vampire": "vampire",
    "person-with-bunny-ears": "people-with-bunny-ears",
    "person-wrestling": "people-wrestling",
    "person-zombie": "zombie",
    "phoenix-bird": "phoenix",
    "pouting-face": "enraged-face",
    "red-triangle": "red-triangle-pointed-up",
    "stuffedbread": "stuffed-flatbread",
    "stuffedbread-flat": "stuffed-flatbread",
    "woman-blonde-hair": "woman-blond-hair",
    "woman-deaf": "deaf-woman",
    "woman-merpeople": "mermaid",
    "woman-with-bunny-ears": "women-with-bunny-ears",
    "woman-wrestling": "women-wrestling",
}


@dataclass(frozen=True)
class Words:
    """What a concept is called in one language: CLDR's name and keywords, other names, more keywords, as they are."""

    name: str
    curated: tuple[str, ...]
    others: tuple[str, ...] = ()
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Concept:
    """One emoji: ``code`` is its code points in hex without variation selectors ("1f34e"), ``slug`` its file name.

    ``category`` is Unicode's group, ``since`` the version of Unicode's emoji list that brought it.
    """

    code: str
    slug: str
    category: str
    since: float
    english: Words
    japanese: Words


def concepts(sources: Path) -> list[Concept]:
    """Every emoji without a skin tone, in Unicode's order."""
    listed = packages.document(sources, packages.LIST, "data-by-emoji.json")
    more = packages.document(sources, packages.WORDS, "dist/emoji-en-US.json")
    noto = {plain(e["unified"]): e for e in packages.document(sources, packages.NOTO, "emoji.json")}
    english, japanese = (_annotations(sources, language) for language in ("en", "ja"))
    found = []
    for emoji, entry in listed.items():
        code = coded(emoji)
        en, ja = english.get(code), japanese.get(code)
        if en is None or ja is None:
            raise KakusanError(f"{packages.CLDR.file} has no name for {entry['name']!r} ({code})")
        others = (entry["name"], *more.get(emoji, [])[:1], *noto.get(code, {}).get("short_names", []))
        words = Words(en["tts"][0], tuple(en.get("default", ())), others, tuple(more.get(emoji, [])[1:]))
        japanese_words = Words(ja["tts"][0], tuple(ja.get("default", ())))
        slug, since = slugged(entry["name"]), float(entry["emoji_version"])
        found.append(Concept(code, slug, entry["group"], since, words, japanese_words))
    return found


def _annotations(sources: Path, language: str) -> dict[str, Any]:
    """CLDR's annotations, those of sequences included, by code."""
    found: dict[str, Any] = {}
    for package, folder in ((packages.CLDR, "annotations"), (packages.CLDR_DERIVED, "annotationsDerived")):
        tree = packages.document(sources, package, f"{folder}/{language}/annotations.json")
        found |= {coded(emoji): entry for emoji, entry in tree[folder]["annotations"].items()}
    return found


def coded(emoji: str) -> str:
    """Characters as code points in hex, variation selectors left out."""
    return "-".join(f"{ord(c):x}" for c in emoji if c != "\ufe0f")


def plain(name: str) -> str:
    """The code of a file name or of ``unified``: "0023-FE0F-20E3" -> "23-20e3"."""
    points = name.lower().replace("_", "-").split("-")
    return "-".join(p.lstrip("0") or "0" for p in points if p != "fe0f")


def slugged(name: str) -> str:
    """A name as a file name: ASCII, in lower case, its words joined by hyphens."""
    bare = unicodedata.normalize("NFKD", name.lower().replace("’", "").replace("*", "asterisk").replace("#", "hashtag"))
    return re.sub(r"[^a-z0-9]+", "-", "".join(c for c in bare if not unicodedata.combining(c))).strip("-")


def drawings(sources: Path, listed: list[Concept], large: bool = False) -> Iterator[tuple[str, str, str, bytes]]:
    """(style, code, skin tone or "", file) of every drawing of a concept, style by style.

    Fluent 3D is taken only where the flat and modern drawings, which follow Microsoft's own release, have the emoji
    too: its package adds country flags and families whose origin is not stated. ``large``: Noto as SVG, by another
    package, since its pictures have 64 pixels.
    """
    known = {c.code for c in listed}
    noto = _by_point(sources, known) if large else _by_code(sources, packages.NOTO, "img/google/64/", known)
    for code, tone, data in noto:
        yield "noto", code, tone, data
    fluent = {style: list(_by_name(sources, style, listed)) for style in ("flat", "modern")}
    released = {code for code, _, _ in fluent["flat"]}
    for code, tone, data in _by_code(sources, packages.FLUENT_3D, "assets/", released):
        yield "3d", code, tone, data
    for style, found in fluent.items():
        for code, tone, data in found:
            yield style, code, tone, data


def _by_code(
    sources: Path, package: packages.Package, folder: str, known: set[str]
) -> Iterator[tuple[str, str, bytes]]:
    """Pictures whose file names are code points; those with two skin tones are passed over."""
    for name, data in packages.files(sources, package, lambda n: n.startswith(folder)).items():
        code, tones = _parted(plain(name.removeprefix(folder).partition(".")[0]))
        if len(tones) < 2 and code in known:
            yield code, "".join(tones), data


def _by_point(sources: Path, known: set[str]) -> Iterator[tuple[str, str, bytes]]:
    """Noto's drawings as SVG, whose package lists its names by code points."""
    held = packages.document(sources, packages.NOTO_SVG, "icons.json")
    box = f"0 0 {held['width']} {held['height']}"
    for points, name in packages.document(sources, packages.NOTO_SVG, "chars.json").items():
        code, tones = _parted(plain(points))
        if len(tones) < 2 and code in known and name in held["icons"]:
            body = held["icons"][name]["body"]
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{body}</svg>'
            yield code, "".join(tones), svg.encode()


def _parted(points: str) -> tuple[str, list[str]]:
    """The code without its skin tones, and those."""
    tones = [p for p in points.split("-") if p in TONES.values()]
    return "-".join(p for p in points.split("-") if p not in tones), tones


def _by_name(sources: Path, style: str, listed: list[Concept]) -> Iterator[tuple[str, str, bytes]]:
    """Fluent drawings, whose file names are the emoji's names: "artist-medium-dark", "police-car-light"."""
    folder = f"icons/{style}/"
    found = packages.files(sources, packages.FLUENT, lambda n: n.startswith(folder))
    drawn = {name.removeprefix(folder).removesuffix(".svg"): data for name, data in found.items()}
    codes = {slugged(c.english.name): c.code for c in listed} | {c.slug: c.code for c in listed}
    for name, data in drawn.items():
        base, tone = _toned(name, drawn)
        code = codes.get(RENAMED.get(base, base))
        if code is None:
            raise KakusanError(f"{packages.FLUENT.file}: {folder}{name}.svg is the drawing of no known emoji")
        yield code, tone, data


def _toned(name: str, drawn: dict[str, bytes]) -> tuple[str, str]:
    """A Fluent name without its skin tone, and the tone; a tone stands only where there is a default beside it."""
    for word in sorted(TONES, key=len, reverse=True):
        base = name.removesuffix(f"-{word}")
        if base != name and f"{base}-default" in drawn:
            return base, TONES[word]
    return name.removesuffix("-default"), ""
