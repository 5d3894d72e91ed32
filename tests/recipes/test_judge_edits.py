"""recipes/icons/judge_edits.py: what is asked of an edit, and that the measures are exact where the truth is known."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

RECIPE = Path(__file__).parents[2] / "recipes" / "icons"


@pytest.fixture(autouse=True)
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE))


def line(style: str, name: str, category: str = "Objects") -> dict:
    return {"file_name": f"{style}/{name.replace(' ', '-')}.png", "style": style, "concept": name, "category": category,
            "code": name, "split": "train"}  # fmt: skip


def written(folder: Path, file: str, pixels: np.ndarray) -> None:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / file)


@pytest.fixture
def pairs(tmp_path) -> Path:
    """A source whose left half is red, a target whose left half is blue; and its skin tones, and a flag."""
    a = np.full((64, 64, 4), 255, np.uint8)
    for name, colour in (("red-heart", (200, 0, 0)), ("blue-heart", (0, 0, 200))):
        a[:, :32, :3] = colour
        written(tmp_path, f"pictures/flat/{name}.png", a)
    entries = [
        ("flat/red-heart", "flat/blue-heart", "colour"),
        ("flat/artist", "flat/artist-medium-dark", "skin tone"),
        ("flat/police-car-light", "3d/police-car-light", "style"),
        ("flat/flag", "flat/police-car-light", "addition"),
        ("flat/police-car-light", "flat/flag", "removal"),
    ]
    lines = [
        {"source": f"pictures/{a}.png", "target": f"pictures/{b}.png", "kind": kind, "text": ["do it", "make it so"]}
        for a, b, kind in entries
    ]
    (tmp_path / "held.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


LINES = [line("flat", n) for n in ("red heart", "blue heart", "artist", "police car", "police car light")]
LINES += [line("3d", "police car light"), line("flat", "flag", "Flags")]
LINES += [line("flat", f"thing {i}") for i in range(150)]


def test_questions_know_their_target_and_offer_the_source_s_caption(pairs):
    from judging.edits import questions

    asked = {q.kind: q for q in questions(pairs, "held.jsonl", pairs / "icons", LINES, 10)}
    assert set(asked) == {"colour", "skin tone", "style", "addition"}, "flags are not asked for"
    heart = asked["colour"]
    assert heart.choices[:2] == ("a blue heart", "a red heart") and heart.caption == "a blue heart"
    assert all(len(set(q.choices)) == 100 and q.choices[0] == q.caption for q in asked.values())
    assert asked["skin tone"].caption == "an artist", "tones have no name of their own"
    assert (asked["style"].caption, asked["style"].style) == ("a police car light", "3d")
    few = questions(pairs, "held.jsonl", pairs / "icons", LINES, 2)
    assert few == questions(pairs, "held.jsonl", pairs / "icons", LINES, 3)[:2] and len(few) == 2


def test_what_should_stay_is_measured_where_the_pair_agrees(pairs):
    from judging.edits import away, questions, read

    heart = next(q for q in questions(pairs, "held.jsonl", pairs / "icons", LINES, 10) if q.kind == "colour")
    source, target = read(heart.source), read(heart.target)
    assert away(source[None], [heart]) == away(target[None], [heart]) == 0
    other = source.copy()
    other[:, :33] = 90  # within, and the pixel beside it
    assert away(other[None], [heart]) == 0
    other[:, 33:, :3] -= 10
    assert away(other[None], [heart]) == pytest.approx(10 * (3 / 4) ** 0.5, abs=1e-3)
    assert away(np.stack([source, other]), [heart, heart]) == pytest.approx(5 * (3 / 4) ** 0.5, abs=1e-3)


def test_following_is_the_caption_first_and_the_target_nearest_where_captions_do_not_tell(pairs):
    from judging.edits import followed, questions, read

    white, grey = (np.full((64, 64, 4), v, np.uint8) for v in (255, 128))
    for file in ("flat/artist", "3d/police-car-light"):
        written(pairs, f"pictures/{file}.png", white)
    for file in ("flat/artist-medium-dark", "flat/police-car-light"):
        written(pairs, f"pictures/{file}.png", grey)
    written(pairs, "pictures/flat/flag.png", white)
    written(pairs, "icons/train/3d/police-car-light.png", white)
    asked = sorted(questions(pairs, "held.jsonl", pairs / "icons", LINES, 10), key=lambda q: q.kind)

    def scores(shown, texts):
        found = torch.zeros(len(asked), len(texts))
        for row, q in enumerate(asked):
            found[row, texts.index(q.caption)] = 1
            if q.kind == "colour":
                found[row, texts.index(q.choices[1])] = 1  # no better than the source's own
        return found

    judge = SimpleNamespace(scores=scores)
    found = followed(judge, np.stack([read(q.target) for q in asked]), asked)
    assert [found[kind]["top1"] for kind in ("addition", "colour", "skin tone", "style")] == [1, 0, 1, 1]
    assert all(found[kind]["nearest"] == 1 for kind in found) and found["all"]["followed"] == 0.75
    found = followed(judge, np.stack([read(q.source) for q in asked]), asked)
    assert found["all"]["nearest"] == 0, "who changes nothing is nearest to the source"
    assert [found[kind]["followed"] for kind in ("addition", "skin tone", "style")] == [1, 0, 0]


def test_styles_are_told_by_a_classifier_and_of_changes_of_style_alone(pairs):
    from judging.edits import questions, styled

    asked = questions(pairs, "held.jsonl", pairs / "icons", LINES, 10)
    pictures = np.zeros((len(asked), 64, 64, 4), np.uint8)
    seen = []
    known = SimpleNamespace(classes=["3d", "flat"], predict=lambda some: seen.append(len(some)) or np.array([0]))
    assert styled(known, pictures, asked)["style"] == 1.0 and seen == [1]
    known.predict = lambda some: np.array([1])
    assert styled(known, pictures, asked)["style"] == 0.0
    assert styled(known, pictures[:0], [q for q in asked if q.kind == "colour"]) == {}
