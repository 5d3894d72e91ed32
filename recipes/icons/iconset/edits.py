"""Edits: which two icons differ by what an instruction can say: style, colour, gender, hair, direction, skin tone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from iconset.captions import named, phrase
from iconset.colours import COLOURS
from iconset.material import STYLES, TONES, Concept

__all__ = ["Edit", "Key", "between_concepts", "between_styles", "between_tones", "kept"]

Key = tuple[str, str, str]  # style, code, skin tone ("" for none)

STYLE_ORDERS = {
    "noto": ("make it Noto style", "draw it in the Noto style", "Noto style"),
    "3d": ("make it 3D", "turn it into a 3D render", "give it depth, as a 3D render"),
    "flat": ("make it flat", "turn it into flat design", "use flat colours only"),
    "modern": ("make it modern", "give it soft gradients", "draw it in the modern style"),
}
_PEOPLE = ("person", "man", "woman")
_GENDER = re.compile(r"\b(person|man|woman)\b")
_HAIR = {"red hair", "curly hair", "white hair", "blond hair", "bald", "beard"}
_COLOURED = re.compile(rf"\b({'|'.join(COLOURS)})\b")
_DIRECTION = re.compile(r"\b(left|right|up|down|up-left|up-right|down-left|down-right)(?=(-facing| arrow| button|$))")


@dataclass(frozen=True)
class Edit:
    """From one picture to another, what kind of change it is, and how it may be asked for."""

    source: Key
    target: Key
    kind: str
    orders: tuple[str, ...]


def between_styles(pictures: Mapping[str, Sequence[str]]) -> Iterator[Edit]:
    """Every concept from each of its styles (by code) to each other."""
    for code, styles in pictures.items():
        for a in styles:
            for b in styles:
                if a != b:
                    yield Edit((a, code, ""), (b, code, ""), "style", STYLE_ORDERS[b])


def between_tones(toned: Sequence[Key]) -> Iterator[Edit]:
    """From the picture without a skin tone to each with one, and from each of those to another, chosen by hash."""
    words = {tone: word.replace("-", " ") for word, tone in TONES.items()}
    for style, code, tone in toned:
        orders = (f"give {words[tone]} skin", f"make the skin tone {words[tone]}", f"{words[tone]} skin")
        yield Edit((style, code, ""), (style, code, tone), "skin tone", orders)
        others = sorted(
            (k for k in toned if k[:2] == (style, code) and k[2] != tone), key=lambda k: _hash(*k, f"to {tone}")
        )
        if others:
            yield Edit(others[0], (style, code, tone), "skin tone", orders)


def between_concepts(concepts: Sequence[Concept], pictures: Mapping[str, Sequence[str]]) -> Iterator[Edit]:
    """Two concepts in each style that both are drawn in, whose names differ by one thing."""
    by_name = {c.english.name: c for c in concepts if c.code in pictures}
    for kind, a, b, orders in _changes(by_name):
        for style in STYLES:
            if style in pictures[by_name[a].code] and style in pictures[by_name[b].code]:
                yield Edit((style, by_name[a].code, ""), (style, by_name[b].code, ""), kind, orders)


def kept(edit: Edit, share: float) -> bool:
    """Whether an edit is in this share of them, chosen by hash."""
    return int.from_bytes(_hash(*edit.source, *edit.target)[:4], "big") < share * 2**32


def _changes(names: Mapping[str, Concept]) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """(kind, from, to, orders) for pairs of names."""
    for name, concept in names.items():
        yield from _genders(name, names)
        yield from _hairs(name, names)
        yield from _directions(name, names)
        if concept.category not in ("People & Body", "Flags"):
            yield from _colours(name, names)
            yield from _additions(name, concept, names)


def _genders(name: str, names: Mapping[str, Concept]) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    for person in _PEOPLE:
        own = _GENDER.search(name)
        plain = name if own is None else None
        other = _GENDER.sub(person, name, count=1) if own else f"{person} {plain}"
        if other != name and other in names and names[other].category == "People & Body":
            yield "gender", name, other, (f"make it {phrase(person)}", f"turn it into {phrase(person)}")
            if plain:
                yield "gender", other, name, ("leave the gender open", "make it a person of no stated gender")


def _hairs(name: str, names: Mapping[str, Concept]) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    person, _, own = name.partition(": ")
    if person not in _PEOPLE or (own and own not in _HAIR):
        return
    for hair in sorted(_HAIR - {own}):
        if (other := f"{person}: {hair}") in names:
            said = "make the head bald" if hair == "bald" else f"give it {'a beard' if hair == 'beard' else hair}"
            yield "hair", name, other, (said, f"make it {phrase(named(other))}")


def _directions(name: str, names: Mapping[str, Concept]) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    if (turned := f"{name}: facing right") in names:
        yield "direction", name, turned, ("turn it to the right", "make it face right")
        yield "direction", turned, name, ("turn it to the left", "make it face left")
    found = _DIRECTION.search(name)
    if found:
        for way in ("left", "right", "up", "down", "up-left", "up-right", "down-left", "down-right"):
            other = name[: found.start()] + way + name[found.end() :]
            if other != name and other in names:
                yield "direction", name, other, (f"point it {way}", f"turn it to point {way}")


def _colours(name: str, names: Mapping[str, Concept]) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    found = _COLOURED.search(name)
    if found is None:
        return
    for colour in COLOURS:
        other = name[: found.start()] + colour + name[found.end() :]
        if other != name and other in names:
            yield "colour", name, other, (f"make it {colour}", f"change its colour to {colour}", f"paint it {colour}")


def _additions(
    name: str, concept: Concept, names: Mapping[str, Concept]
) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    bare, joined, thing = name.partition(" with ")
    if joined and bare in names and names[bare].category == concept.category:
        yield "addition", bare, name, (f"add {phrase(thing)}", f"make it {phrase(name)}")
        yield "removal", name, bare, (f"remove the {thing}", f"take away the {thing}")


def _hash(*words: str) -> bytes:
    return hashlib.sha256(" ".join(words).encode()).digest()
