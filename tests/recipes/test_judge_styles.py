"""recipes/icons/judge_styles.py: what is asked, and that the shares are exact where the truth is known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "icons"


@pytest.fixture(autouse=True)
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE))


def icons(concepts: int = 6) -> SimpleNamespace:
    """Concepts in two styles, a third of them held out; one flag."""
    lines = [
        {"file_name": f"{style}/thing-{i}.png", "style": style, "concept": f"thing {i}", "category": "Objects",
         "split": "test-concepts" if i % 3 == 0 else "train"}
        for style in ("flat", "noto") for i in range(concepts)
    ]  # fmt: skip
    lines.append({**lines[0], "concept": "flag", "category": "Flags"})
    pictures = np.stack([np.full((64, 64, 4), 40 if line["style"] == "flat" else 200, np.uint8) for line in lines])
    return SimpleNamespace(lines=lines, pictures=pictures)


def test_each_held_out_concept_is_asked_for_in_every_style_after_another_one():
    from judging.styles import questions

    found = icons(9)
    asked = questions(found, 10)
    assert sorted((q.style, q.caption) for q in asked) == [
        (style, f"a thing {i}") for style in ("flat", "noto") for i in (0, 3, 6)
    ]
    for q in asked:
        reference = found.lines[q.reference]
        assert reference["style"] == q.style and reference["split"] == "test-concepts"
        assert not q.caption.endswith(reference["concept"])
    assert len(questions(found, 2)) == 4


def test_a_style_with_one_held_out_concept_is_refused():
    from judging.styles import questions

    from kakusan.part import KakusanError

    with pytest.raises(KakusanError, match="no picture of another concept than 'thing 0' in style 'flat'"):
        questions(icons(3), 10)


def test_shares_are_those_of_what_a_classifier_that_knows_the_styles_says():
    from judging.styles import agreed, knower, questions

    found = icons(60)
    known = knower(found, seconds=1)
    assert known.accuracy.value == 1.0
    asked = questions(found, 10)
    right = np.stack([found.pictures[q.reference] for q in asked])
    shares = agreed(known, right, asked)
    assert {s: r["share"] for s, r in shares.items()} == {"all": 1.0, "flat": 1.0, "noto": 1.0}
    wrong = agreed(known, right[::-1].copy(), asked)
    assert wrong["all"]["share"] == 0.0 and wrong["all"]["interval"][1] > 0
