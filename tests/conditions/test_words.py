"""Words: spellings made alike, and a vocabulary that has pieces for every word."""

from __future__ import annotations

import unicodedata

import pytest

from kakusan.conditions.words import FIRST, UNKNOWN, Vocabulary, learn, normalise, split
from kakusan.part import KakusanError

CAPTIONS = ["a small red circle", "a blue square", "a large red square", "the red circle"] * 2


@pytest.mark.parametrize(
    "written, same",
    [
        ("  A  Red\tApple\n", "a red apple"),
        ("Crème BRÛLÉE", "creme brulee"),
        ("STRASSE", "straße"),
        ("ＡＢＣ　１２", "abc 12"),
        ("ﬁne", "fine"),
        ("e\u0301", "é"),
        ("ﾘﾝｺﾞ", "リンゴ"),
        ("か\u3099", "が"),
        ("❤\ufe0f", "❤"),
        ("ΆΝΘΟΣ", "ανθοσ"),
        ("İstanbul", "istanbul"),
    ],
)
def test_spellings_of_one_thing_are_one(written, same):
    assert normalise(written) == normalise(same)


def test_marks_that_tell_words_apart_stay():
    for one, other in [("が", "か"), ("й", "и"), ("ぱ", "ば"), ("कि", "क")]:
        assert normalise(one) != normalise(other)


def test_normalising_twice_changes_nothing():
    """All of the first two planes, each character alone and after a letter."""
    for c in map(chr, range(0x20000)):
        if unicodedata.category(c) not in ("Cs", "Cn", "Co"):
            for text in (c, "e" + c):
                assert normalise(normalise(text)) == normalise(text), hex(ord(c))


def test_words_of_every_script():
    assert split("A t-shirt, 50% off (new)!") == ["_a", "_t", "_shirt", "_50", "%", "_off", "_new"]
    assert split("赤いりんご、2つ♥") == ["赤いりんご", "_2", "つ", "♥"]
    assert split("_under__score_") == ["_under", "_score"]
    assert split(" .,-()_ ") == [] == split("")
    assert [len(w) for w in split("x" * 100)] == [48, 48, 7]  # in parts, each with its mark


def test_frequent_words_are_one_piece_and_new_ones_are_spelled():
    vocabulary = Vocabulary(learn(CAPTIONS))
    for word in ("_red", "_circle", "_square", "_blue", "_a"):
        assert vocabulary.pieces(word) == [word] and len(vocabulary.numbers(word)) == 1
    for text in ("reds", "blurred", "squarish 赤", "qwzx"):
        for word in split(text):
            assert "".join(vocabulary.pieces(word)) == word
    assert UNKNOWN not in vocabulary.numbers("_reads")  # all its letters are known
    assert vocabulary.numbers("赤") == [UNKNOWN]
    rare = Vocabulary(learn([*CAPTIONS, "zebra"]))
    assert len(rare.pieces("_zebra")) > 1 and UNKNOWN not in rare.numbers("_zebra")


def test_the_same_captions_give_the_same_vocabulary_in_any_order():
    assert learn(CAPTIONS) == learn(CAPTIONS[::-1]) == learn(iter(CAPTIONS))
    assert learn([]) == "" == learn(["...", ""])


@pytest.mark.parametrize("limit", [1, 5, 20, 30])
def test_the_vocabulary_is_bounded(limit):
    pieces = learn(CAPTIONS, limit).split()
    assert len(pieces) <= limit and len(set(pieces)) == len(pieces)
    numbers = [n for caption in CAPTIONS for w in split(caption) for n in Vocabulary(" ".join(pieces)).numbers(w)]
    assert max(numbers) < FIRST + limit


def test_whole_phrases_without_spaces_do_not_become_pieces():
    """Or nothing would be learnt of りんご from 赤いりんご."""
    vocabulary = Vocabulary(learn(["赤いりんご", "青いりんご", "りんごの木"] * 3))
    assert "りんご" in vocabulary.pieces("赤いりんご") and "りんご" in vocabulary.pieces("緑のりんご")
    assert Vocabulary(learn(["ヘリコプター"] * 3)).pieces("ヘリコプター") == ["ヘリコプター"]


def test_unknown_words():
    vocabulary = Vocabulary(learn(CAPTIONS))
    assert vocabulary.unknown("a red qwzx, QWZX and a blue zq") == ["qwzx", "and", "zq"]
    assert vocabulary.unknown("circles, redder") == []  # made of words that are known
    assert vocabulary.unknown("赤い circle ♥") == ["赤", "い", "♥"]
    assert vocabulary.unknown("") == []


def test_bad_vocabularies():
    for bad in ("", "   ", " ".join(map(str, range(32_001)))):
        with pytest.raises(KakusanError, match="1 to 32000 are possible"):
            Vocabulary(bad)
    with pytest.raises(KakusanError, match="'a' appears twice"):
        Vocabulary("a b a")
    with pytest.raises(KakusanError, match="limit=0"):
        learn(CAPTIONS, 0)
