"""Prompts: weights and escapes, and what is refused."""

from __future__ import annotations

import pytest

from kakusan.conditions.prompt import LONGEST, escape, parse, plain
from kakusan.part import KakusanError


@pytest.mark.parametrize(
    "prompt, parts",
    [
        ("a red apple", [("a red apple", 1.0)]),
        ("a (red:1.3) apple", [("a", 1.0), ("red", 1.3), ("apple", 1.0)]),
        ("(a b : 0.5)(c:2)", [("a b", 0.5), ("c", 2.0)]),
        ("(x:0) (y:4) (z:.5) (w:1e0)", [("x", 0.0), ("y", 4.0), ("z", 0.5), ("w", 1.0)]),
        (r"a \(red:1.3\) apple", [("a (red:1.3) apple", 1.0)]),
        (r"(a \(b\):2)", [("a (b)", 2.0)]),
        (r"back\\slash \(", [("back\\slash (", 1.0)]),
        ("a (red) apple: (not: this)", [("a (red) apple: (not: this)", 1.0)]),
        ("at 10:30", [("at 10:30", 1.0)]),
        ("赤い(りんご:1.5)", [("赤い", 1.0), ("りんご", 1.5)]),
        ("赤い（りんご：1.5）", [("赤い", 1.0), ("りんご", 1.5)]),
        ("（りんご:１．５）（皿 ：0）", [("りんご", 1.5), ("皿", 0.0)]),
        (r"赤い\（りんご：1.5\）", [("赤い（りんご：1.5）", 1.0)]),
        (r"\（りんご：1.5）", [("（りんご：1.5）", 1.0)]),
        ("赤い（りんご）10：30", [("赤い（りんご）10：30", 1.0)]),
        ("", []),
        ("  ", []),
        ("(:2)", []),
    ],
)
def test_parts(prompt, parts):
    assert parse(prompt) == parts


@pytest.mark.parametrize("prompt", ["(a", "a)", "((a:1.3)", ")(", "a :("])
def test_parentheses_without_their_other_half(prompt):
    with pytest.raises(KakusanError, match=r"has no other half; write a parenthesis of the text as \\"):
        parse(prompt)


@pytest.mark.parametrize("weight", ["5", "-1", "nan", "inf", "1.2.3", "", "99999999999999999999", "1e9"])
def test_absurd_weights(weight):
    with pytest.raises(KakusanError, match=r"must be a number from 0 to 4"):
        parse(f"a (red:{weight}) apple")


@pytest.mark.parametrize("prompt", ["((a:1.2) b:1.3)", "((a) b:1.3)", "(((a:1):1):1)"])
def test_weights_do_not_nest(prompt):
    with pytest.raises(KakusanError, match="one weight"):
        parse(prompt)


def test_too_long():
    with pytest.raises(KakusanError, match="at most 10,000"):
        parse("a" * (LONGEST + 1))


@pytest.mark.parametrize(
    "words", ["a (red:1.3) apple", "a :(", r"\(", "cat | dog", "{a,b}", r"\\", "plain", "（a：2）"]
)
def test_escaped_words_mean_just_themselves(words):
    assert parse(escape(words)) == [(words, 1.0)] and plain(escape(words)) == words
