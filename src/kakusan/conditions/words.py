"""Words: captions and prompts spelled alike, and a vocabulary of words and parts of words learnt from captions."""

from __future__ import annotations

import abc
import heapq
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from typing import ClassVar

from kakusan.part import KakusanError

__all__ = [
    "FIRST",
    "PADDING",
    "START",
    "UNKNOWN",
    "Lexicon",
    "Pieces",
    "Vocabulary",
    "counted",
    "learn",
    "normalise",
    "sort_of",
    "split",
]

START = "_"  # begins a word of a script that has spaces; no word contains it, since it separates words
LONGEST = 48  # characters that are spelled as one; a longer word is taken in parts
PIECE = 24  # characters of a piece
JOINED = 3  # the same without spaces, where whole phrases would grow together (katakana: as with spaces)
MOST = 32_000  # pieces of a vocabulary
PADDING, UNKNOWN, FIRST = 0, 1, 2  # numbers: no piece; a character never seen; the vocabulary's first piece
SIGNS = frozenset("%&#@")  # punctuation that says something


def normalise(text: str) -> str:
    """NFKC, case folded, accents of Latin and Greek letters taken off, white space single.

    Marks of other scripts stay: they tell words apart (が is not か). Format characters (joiners, variation selectors)
    go. ``normalise`` of what it gave changes nothing.
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if not text.isascii():
        text = _without_accents(text)
    return " ".join(text.split())


def _without_accents(text: str) -> str:
    kept, base = [], " "
    for c in unicodedata.normalize("NFD", text):
        category = unicodedata.category(c)
        if category in ("Cf", "Cs", "Cn", "Co") or "\ufe00" <= c <= "\ufe0f" or "\U000e0100" <= c <= "\U000e01ef":
            continue
        if category[0] != "M":
            base = c
        elif unicodedata.name(base, "").startswith(("LATIN", "GREEK")):
            continue
        kept.append(c)
    return unicodedata.normalize("NFKC", "".join(kept))


@cache
def sort_of(c: str) -> str:
    """What a character is: of a "word", of a script without "spaces", a "sign" that stands alone, or a "gap"."""
    name = unicodedata.name(c, "")
    category = unicodedata.category(c)
    if category[0] in "LMN":
        unspaced = name.startswith(("CJK ", "HIRAGANA ", "KATAKANA", "IDEOGRAPHIC ", "BOPOMOFO "))
        return "spaceless" if unspaced else "word"
    return "sign" if category[0] == "S" or c in SIGNS else "gap"


def split(text: str) -> list[str]:
    """The words of a text, normalised: ``_red`` in scripts with spaces, unmarked runs in Japanese and Chinese, signs.

    Punctuation and hyphens separate words; a word of more than 48 characters goes on as another.
    """
    words: list[str] = []
    before = "gap"
    for c in normalise(text):
        sort = sort_of(c)
        if sort != "gap":
            if sort != before or sort == "sign" or len(words[-1]) >= LONGEST:
                words.append(START if sort == "word" else "")
            words[-1] += c
        before = sort
    return words


def counted(captions: Iterable[str]) -> Counter[str]:
    """How often captions have each word."""
    return Counter(word for caption in captions for word in split(caption))


def learn(captions: Iterable[str], limit: int = 4096, least: int = 2) -> str:
    """The vocabulary of captions: their characters, then pairs of pieces joined, the most frequent first, as one text
    of pieces with blanks between (byte-pair encoding; Sennrich et al. 2016, arXiv 1508.07909, algorithm 1).

    A word seen ``least`` times becomes one piece where ``limit`` pieces have room for it, a rarer one is spelled with
    parts of others; so every new word of known characters has pieces too. The same captions give the same text.
    """
    if not 1 <= limit <= MOST:
        raise KakusanError(f"limit={limit}: a vocabulary has 1 to {MOST} pieces")
    words = counted(captions)
    letters: Counter[str] = Counter()
    for word, count in words.items():
        for c in word:
            letters[c] += count
    alphabet = sorted(letters, key=lambda c: (-letters[c], c))[: max(limit // 2, 1)]
    return " ".join([*alphabet, *_joined(words, set(alphabet), limit - len(alphabet), least)])


def _joined(words: Counter[str], alphabet: set[str], room: int, least: int) -> list[str]:
    """Up to ``room`` pieces made by joining the most frequent pair of neighbours, again and again."""
    spelled = [(list(word), count) for word, count in sorted(words.items())]
    counts: Counter[tuple[str, str]] = Counter()
    places: dict[tuple[str, str], set[int]] = defaultdict(set)
    for i, (parts, count) in enumerate(spelled):
        for pair in pairwise(parts):
            counts[pair] += count
            places[pair].add(i)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    found: dict[str, None] = {}
    while heap and len(found) < room:
        count, pair = heapq.heappop(heap)
        if -count != counts[pair]:
            continue  # it stands in the heap again with its new count
        if -count < least:
            break
        if not _may(pair, alphabet):
            continue
        found[pair[0] + pair[1]] = None
        changed = set()
        for i in places.pop(pair):
            parts, weight = spelled[i]
            for each in pairwise(parts):
                counts[each] -= weight
                changed.add(each)
            parts[:] = _merged(parts, pair)
            for each in pairwise(parts):
                counts[each] += weight
                places[each].add(i)
                changed.add(each)
        for each in changed:
            heapq.heappush(heap, (-counts[each], each))
    return list(found)


def _may(pair: tuple[str, str], alphabet: set[str]) -> bool:
    """Whether a pair may become a piece: short enough for its script, of known characters."""
    piece = pair[0] + pair[1]
    spaced = piece[0] == START or sort_of(piece[0]) == "word" or all("ァ" <= c <= "ヿ" for c in piece)
    return len(piece) <= (PIECE if spaced else JOINED) and all(p in alphabet or len(p) > 1 for p in pair)


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return out


class Pieces(abc.ABC):
    """Pieces by number, and how words are spelled with them (``how``, for hosts that do it themselves); ``text``: the
    pieces with blanks between."""

    how: ClassVar[str]

    def __init__(self, text: str) -> None:
        pieces = text.split()
        self.text = " ".join(pieces)
        if not 1 <= len(pieces) <= MOST:
            raise KakusanError(f"vocabulary has {len(pieces)} pieces: 1 to {MOST} are possible, with blanks between")
        self._rank = {piece: i for i, piece in enumerate(pieces)}
        if len(self._rank) < len(pieces):
            twice = Counter(pieces).most_common(1)[0][0]
            raise KakusanError(f"vocabulary: {twice[:40]!r} appears twice; pieces must differ")
        self._spelled: dict[str, list[str]] = {}

    def __len__(self) -> int:
        """How many numbers there are, those of no piece and of an unknown character among them."""
        return FIRST + len(self._rank)

    def listed(self) -> list[str]:
        """The pieces in the order of their numbers, from ``FIRST`` on."""
        return list(self._rank)

    def pieces(self, word: str) -> list[str]:
        """A word of ``split`` in pieces."""
        found = self._spelled.get(word)
        if found is None:
            found = self._spell(word)
            if len(self._spelled) >= 1 << 16:
                self._spelled.clear()
            self._spelled[word] = found
        return found

    @abc.abstractmethod
    def _spell(self, word: str) -> list[str]: ...

    def numbers(self, word: str) -> list[int]:
        """The numbers of a word's pieces."""
        return [FIRST + self._rank[p] if p in self._rank else UNKNOWN for p in self.pieces(word)]

    def unknown(self, text: str) -> list[str]:
        """The words of which nothing was learnt: no known piece makes up half of them. Where there are no spaces, the
        characters never seen."""
        found: dict[str, None] = {}
        for word in split(text):
            pieces, bare = self.pieces(word), word.removeprefix(START)
            if not word.startswith(START):
                found |= dict.fromkeys(p for p in pieces if p not in self._rank)
                continue
            largest = max((len(p.removeprefix(START)) for p in pieces if p in self._rank), default=0)
            if 2 * largest < len(bare) or (largest < 2 and len(bare) > 1):
                found[bare] = None
        return list(found)


class Vocabulary(Pieces):
    """Pieces in the order of joining, as ``learn`` gives them: neighbours are joined in the order learnt."""

    how = "joined"

    def _spell(self, word: str) -> list[str]:
        found = list(word)
        while len(found) > 1:
            ranked = [(self._rank.get(a + b, MOST), (a, b)) for a, b in pairwise(found)]
            best, pair = min(ranked)
            if best == MOST:
                break
            found = _merged(found, pair)
        return found


class Lexicon(Pieces):
    """Words (``_red``) and parts of words (``ed``) in any order: from the left, the longest that fits (WordPiece; Wu et
    al. 2016, arXiv 1609.08144, section 4.1)."""

    how = "longest"

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._longest = max(map(len, self._rank))

    def _spell(self, word: str) -> list[str]:
        found, at = [], 0
        while at < len(word):
            ends = range(min(len(word), at + self._longest), at, -1)
            end = next((end for end in ends if word[at:end] in self._rank), at + 1)
            found.append(word[at:end])
            at = end
        return found
