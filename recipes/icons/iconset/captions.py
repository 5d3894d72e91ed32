"""Captions: what may be said of a picture, in English and Japanese: names, templates, keywords and its colours."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

import numpy as np

from iconset.colours import COLOURS, mentioned, shares, shown
from iconset.material import Concept

__all__ = ["COLOURS_JA", "TEMPLATES", "english", "japanese", "named", "named_ja", "phrase"]

TEMPLATES = (
    "an icon of {a}",
    "{n} icon",
    "a picture of {a}",
    "{n} emoji",
    "an emoji of {a}",
    "a drawing of {a}",
    "{n} symbol",
    "an illustration of {a}",
    "{n} clip art",
    "a small icon of {a}",
    "{n} on a transparent background",
    "a sticker of {a}",
)
TEMPLATES_JA = ("{n}のアイコン", "{n}の絵", "{n}のイラスト", "{n}の絵文字", "{n}のマーク")
STYLE_WORDS = {"noto": "Noto style", "3d": "3D render", "flat": "flat design", "modern": "soft gradients"}
COLOURS_JA = {
    "red": "赤い",
    "orange": "オレンジ色の",
    "yellow": "黄色い",
    "green": "緑色の",
    "blue": "青い",
    "purple": "紫色の",
    "pink": "ピンク色の",
    "brown": "茶色い",
    "black": "黒い",
    "white": "白い",
    "grey": "灰色の",
}

_UNFIT = re.compile(
    r"\b(skin|tone|sex\w*|boobs?|butt|ass|shit\w*|fuck\w*|bitch|wtf|damn|hell|crap|porn|nude|naked|suicid\w*|kill\w*"
    r"|murder|nazi|rape|drugs?|weed|420|69|retard\w*|idiot|stupid|dumb|fat|ugly|slut|whore|dick|penis|horny|thicc"
    r"|emoji|emojis|mac|ios|iphone|android|bts|ily|bff|lol|lmao|rofl|omg|smh|tbh|brb|bae|idk|xoxo|af)\b"
)
_MASS = re.compile(  # what is not counted
    r"^(t|rice|bread|bacon|butter|ice|milk|water|garlic|ginger|cheese|honey|salt|broccoli|hair|clothing"
    r"|money|soap|wood|luggage|wine|sake|curry|spaghetti|popcorn|fire|sand|blood|music|art|weather|snow"
    r"|rain|lightning|fog|lotion|thread|yarn|makeup|jewelry|teeth|feet|mate|tea|rugby|tennis|golf"
    r"|ping-pong|judo|bowling|softball|baseball|basketball|volleyball|badminton|hockey|lacrosse|cricket"
    r"|football|soccer|medicine|dna|milk|sushi|mahjong|radioactive|biohazard)$"
)
_BARE = re.compile(
    r"^(no|men|women|people|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|one o'clock|hundred points"
    r"|Mrs\.|Mx|Santa|thumbs|children|mount|input) "
    r"|^(see|hear|speak)-no-evil|(o'clock|-thirty)$|^currency|^Statue",
)
_PLURAL = re.compile(r"(?<![su])s$|eeth$|eople$|^men$|^women$")  # plurals, mostly
_SINGULAR = re.compile(
    r"(bus|cactus|lotus|hibiscus|abacus|octopus|rhinoceros|hippopotamus|tennis|lis|plus|minus|glass|fortress|canvas"
    r"|compass|address|princess|actress|swiss|news|hot springs|chess|cross|moss|dress|grass|walrus|citrus|virus|iris"
    r"|minibus|trolleybus|Claus|Aries|Aquarius|Pisces|Sagittarius|Taurus|Ophiuchus|circus)$",
    re.I,
)


def english(concept: Concept, style: str, picture: np.ndarray, style_words: bool = False) -> list[str]:
    """About a dozen captions of a picture, the plain name first; colour words only where the picture shows them."""
    share = shares(picture)
    seen, draw = shown(share), _Draw(f"{concept.code} {style}")
    name = _coloured_right(named(concept.english.name), seen)
    a = phrase(name)
    captions = [name, a, *(t.format(a=a, n=name) for t in draw.some(TEMPLATES, 3))]
    captions += [f"{name}, {STYLE_WORDS[style]}"] if style_words else []
    if name.startswith("flag of "):
        captions.append(f"{name.removeprefix('flag of ')} flag")
    else:
        captions += _more(concept, name, seen, draw) + _in_colours(concept, name, share)
    return list({c.lower(): c for c in reversed(captions)}.values())[::-1]


def japanese(concept: Concept, style: str, picture: np.ndarray) -> list[str]:
    """The same in Japanese: name, templates, keywords, one colour."""
    draw, name = _Draw(f"{concept.code} {style} ja"), named_ja(concept.japanese.name)
    words = [k for k in concept.japanese.curated if k != name and re.search(r"[\u3040-\u30ff\u4e00-\u9fff]", k)]
    words = [k for k in map(named_ja, words) if "肌" not in k]
    captions = [name, *(t.format(n=name) for t in draw.some(TEMPLATES_JA, 2)), *draw.some(words, 3)]
    colour = _one_colour(concept, shares(picture))
    captions += [COLOURS_JA[colour] + name] if colour else []
    return list(dict.fromkeys(captions))


def _more(concept: Concept, name: str, seen: set[str], draw: _Draw) -> list[str]:
    """Other names, the name with a keyword, keywords of CLDR on their own."""
    others = [o for o in map(_tidy, concept.english.others) if _speaks(o) and mentioned(o) <= seen]
    different = {_letters(o): o for o in others if _letters(o) != _letters(name)}
    words = [k for k in _keywords(concept, name) if mentioned(k) <= seen]
    curated = [k for k in words if k in concept.english.curated and len(k) > 3 and not mentioned(k)]
    captions = list(different.values())[:2]
    captions += [f"{name}, {word}" for word in draw.some(words, 2)]
    pair = draw.some(curated, 2, "pair")
    captions += [" ".join(pair)] if len(pair) == 2 else []
    return captions + draw.some(curated, 1, "alone")


class _Draw:
    """Choices that depend on a key and on nothing else."""

    def __init__(self, key: str) -> None:
        self.key = key

    def some(self, items: Iterable[str], count: int, purpose: str = "") -> list[str]:
        return sorted(items, key=lambda i: hashlib.sha256(f"{self.key} {purpose} {i}".encode()).digest())[:count]


def named(name: str) -> str:
    """CLDR's short name as one says it: "flag: Japan" -> "flag of Japan", "man: red hair" -> "man with red hair"."""
    name = re.sub(r"[“”]", "", name.replace("’", "'"))
    name = re.sub(r" \(([^)]*)\)", r" \1", name)
    head, colon, tail = name.partition(": ")
    if not colon:
        return name
    if head in ("flag", "family"):
        return f"{head} of {_listed(tail)}"
    if head in ("kiss", "couple with heart"):
        return f"{head}, {_listed(tail)}"
    if head in ("man", "woman", "person"):
        return f"bald {head}" if tail == "bald" else f"{head} with {'a ' if tail == 'beard' else ''}{tail}"
    return f"{head} {tail}"


def _listed(text: str) -> str:
    """ "man, woman, boy" -> "man, woman and boy" """
    head, comma, tail = text.rpartition(", ")
    return f"{head} and {tail}" if comma else text


def named_ja(name: str) -> str:
    """ "旗: 日本" -> 「日本の旗」"""
    name = unicodedata.normalize("NFKC", name)
    head, colon, tail = name.partition(": ")
    return f"{tail.replace(' ', 'と')}の{head}" if colon else name


def phrase(name: str) -> str:
    """A name with the article it takes: "a red apple", "an eye", "scissors", "the flag of Japan"."""
    if name.startswith("flag of "):
        return f"the {name}"
    head = re.split(r" (?:with|of|in|on|over|without|behind|holding|showing|and|for) |,", name)[0]
    last = head.rsplit(" ", 1)[-1]
    plural = _PLURAL.search(last) and not _SINGULAR.search(head) and " lifting " not in head
    proper = head[0].isupper() and len(head.split()) == 1 and not head.isupper() and "-" not in head
    if plural or proper or _MASS.search(last.lower()) or _BARE.search(head):
        return name
    return f"{'an' if _vowel(name.split()[0]) else 'a'} {name}"


def _vowel(word: str) -> bool:
    """Whether a word begins with a vowel as it is said: "OK" and "SOS" do by their letters, "unicorn" does not."""
    letters = word.strip("!")
    if letters.isupper() and letters not in ("NEW", "COOL", "FREE", "BACK", "END", "SOON", "TOP", "UP", "ON"):
        return letters[0] in "AEFHILMNORSX"
    if re.match(r"(?i)uni|us[ei]|ukul|one\b", word):
        return False
    return word[0].lower() in "aeiou" or word.lower().startswith(("hour", "x-"))


def _coloured_right(name: str, seen: set[str]) -> str:
    """The name without the colour words that the picture does not bear out ("white flower" of a pink one)."""
    wrong = mentioned(name) - seen
    if not wrong:
        return name
    kept = [w for w in name.split() if not mentioned(w) & wrong]
    return " ".join(kept) if kept else name


def _tidy(word: str) -> str:
    return re.sub(r"\s+", " ", word.replace("_", " ").replace("’", "'")).strip()


def _speaks(word: str) -> bool:
    """Whether it is a word or phrase in letters that is fit to be a caption."""
    return re.fullmatch(r"[A-Za-z][A-Za-z' -]{2,30}", word) is not None and not _UNFIT.search(word.lower())


def _letters(word: str) -> str:
    return re.sub(r"[^a-z]", "", word.lower())


def _keywords(concept: Concept, name: str) -> list[str]:
    own = set(re.findall(r"[a-z]+", name.lower()))
    words = dict.fromkeys(w for w in map(_tidy, concept.english.curated + concept.english.more) if _speaks(w))
    return [w for w in words if not set(re.findall(r"[a-z]+", w.lower())) <= own]


def _one_colour(concept: Concept, share: dict[str, float]) -> str | None:
    """The colour that a thing is in, where it is plainly one and its name does not say a colour.

    Not of people and flags, and of faces only where they are not the usual yellow.
    """
    if concept.category in ("People & Body", "Flags") or mentioned(concept.english.name):
        return None
    colour = max(COLOURS, key=lambda c: share[c])
    usual = concept.category == "Smileys & Emotion" and colour in ("orange", "yellow", "brown")
    return colour if share[colour] >= 0.6 and not usual else None


def _in_colours(concept: Concept, name: str, share: dict[str, float]) -> list[str]:
    """ "a blue whale", or "rocket in white and red" of a thing in two colours."""
    if one := _one_colour(concept, share):
        simple = not re.search(r"^two |^three | (with|behind|of|in|on|over|and|showing|between|without) ", name)
        return [f"{one} {name}", phrase(f"{one} {name}")] if simple else []
    most = sorted(COLOURS, key=lambda c: -share[c])[:2]
    if concept.category in ("People & Body", "Smileys & Emotion", "Flags") or mentioned(name):
        return []
    return [f"{name} in {most[0]} and {most[1]}"] if share[most[1]] >= 0.25 else []
