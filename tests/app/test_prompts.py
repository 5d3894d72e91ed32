"""Prompt syntax: what is written, what it means, how a recipe keeps it."""

from __future__ import annotations

import json
import math

import pytest

from kakusan.app.command.options import conditions, numbers, weights
from kakusan.app.draw.prompts import Mix, Term, choices, literal, parse, read_prompts, recalled, recorded
from kakusan.part import KakusanError


@pytest.mark.parametrize("text", ["a cat", "", "12:30", "a (cat:1.3)", "a > b", ":)", 3, None, 2.5, ["a"]])
def test_what_has_no_marks_means_itself(text):
    assert parse(text) == text


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("cat | dog", [("cat", 1, 0, None), ("dog", 1, 0, None)]),
        ("cat:0.7 | a dog: .3", [("cat", 0.7, 0, None), ("a dog", 0.3, 0, None)]),
        ("cat >> dog", [("cat", 1, 1, None), ("dog", 1, 0, 1)]),
        ("a >>5 b | c:2 >>0.5 d", [("a", 1, 5, None), ("b", 1, 0.5, 5), ("c", 2, 0.5, 5), ("d", 1, 0, 0.5)]),
        ("(a|b:1.2) | c", [("(a|b:1.2)", 1, 0, None), ("c", 1, 0, None)]),
        (r"a\|b | 12\:30", [("a|b", 1, 0, None), ("12:30", 1, 0, None)]),
        (":( | cat", [(":(", 1, 0, None), ("cat", 1, 0, None)]),
        ("a >> 5 apples", [("a", 1, 1, None), ("5 apples", 1, 0, 1)]),
    ],
)
def test_blends_and_switches(text, terms):
    found = parse(text)
    assert found == Mix(tuple(Term(v, w, low, math.inf if high is None else high) for v, w, low, high in terms))
    assert recalled(json.loads(json.dumps(recorded(found)))) == found


def test_escapes_and_names_mean_themselves():
    assert parse(r"a\|b") == "a|b" and parse(r"C:\\x") == "C:\\x" and parse(r"\(a\)") == r"\(a\)"
    assert parse("a|b", names=["a|b"]) == "a|b" and choices("{a}", names=["{a}"]) == ["{a}"]
    assert recalled("a | b") == "a | b" and recorded("a | b") == "a | b"  # a recipe's strings are no syntax
    assert str(parse("cat:0.7 | dog >>2 bird")) == "cat:0.7 | dog:1 >>2 bird"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cat |", "nothing stands on one side"),
        (">> dog", "nothing stands on one side"),
        ("cat:0 | dog", "weight 0 must be above 0"),
        ("cat:5000 | dog", "at most 1000"),
        ("a >>1 b >>2 c", "must fall"),
        ("a >>0 b", "above 0"),
        (" | ".join("abcdefghi"), "9 parts; at most 8"),
    ],
)
def test_bad_mixes_are_one_line(text, said):
    with pytest.raises(KakusanError, match=said):
        parse(text)


def test_wildcards():
    assert choices("{red,green} apple") == ["red apple", "green apple"]
    assert choices("{a,b}{c,d}") == ["ac", "ad", "bc", "bd"]
    assert choices("a {,big }cat") == ["a cat", "a big cat"]
    assert choices(r"\{a,b\}") == [r"\{a,b\}"] and parse(r"\{a,b\}") == "{a,b}"
    assert choices(r"{a\,b,c}") == [r"a\,b", "c"] and parse(r"a\,b") == "a,b"
    assert choices(7) == [7] and choices("plain") == ["plain"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{a,b", "a brace is left over"),
        ("a}", "a brace is left over"),
        ("{0,1,2,3,4,5,6,7,8,9}" * 5, "100,000 prompts"),
    ],
)
def test_bad_wildcards(text, said):
    with pytest.raises(KakusanError, match=said):
        choices(text)


def test_a_file_of_prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffa cat\n\n  a dog \n赤いりんご\n", "utf-8")
    assert [(line.number, line.text) for line in read_prompts(file)] == [(1, "a cat"), (3, "a dog"), (4, "赤いりんご")]
    assert [line.number for line in read_prompts(file, 3)] == [3, 4]
    with pytest.raises(KakusanError, match="no prompt from line 5 on"):
        read_prompts(file, 5)
    with pytest.raises(KakusanError, match="no such file"):
        read_prompts(tmp_path / "none.txt")
    for content, said in (
        (b"\n \n", "has no prompt"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"a\n" * 10_001, "10,001 prompts"),
    ):
        file.write_bytes(content)
        with pytest.raises(KakusanError, match=said):
            read_prompts(file)


def test_words_of_the_command_line():
    assert weights(None) is None and weights(["3"]) == 3.0 and weights(["a=2", "b=-.5"]) == {"a": 2.0, "b": -0.5}
    assert (
        conditions("--cond", ["a=b=c"], "dog") == {"prompt": "dog", "a": "b=c"} and conditions("--cond", None) is None
    )
    assert numbers(None) is None and numbers("0.2,3") == ["0.2", "3"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: weights(["3", "a=2"]), "one number for all, or NAME=WEIGHT"),
        (lambda: weights(["a=2", "a=3"]), "has one weight"),
        (lambda: weights(["a=x"]), "need a number"),
        (lambda: weights(["much"]), "need a number"),
        (lambda: conditions("--negative", ["label"]), "--negative 'label': write NAME=VALUE"),
        (lambda: conditions("--cond", ["a=1", "a=2"]), "a is given twice"),
    ],
)
def test_bad_words(call, said):
    with pytest.raises(KakusanError, match=said):
        call()


@pytest.mark.parametrize("words", ["cat", "a | b", "3:4", "{x,y}", "a >>2 b", "back\\slash", "(red:1.2)", "\\|", ""])
def test_literal_words_mean_just_themselves(words):
    assert choices(literal(words)) == [literal(words)] and parse(literal(words)) == words
