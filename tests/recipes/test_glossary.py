"""recipes/icons/glossary.py: which English a Japanese name, keyword or loan means, and what its parts say already."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from kakusan.conditions.glossary import Glossary, given
from recipes.iconsources import packed

RECIPE = Path(__file__).parents[2] / "recipes" / "icons"


@pytest.fixture(scope="module", autouse=True)
def recipe():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPE))
        yield patch


def made():
    """Five concepts, as the packages tell of them."""
    material = importlib.import_module("iconset.material")
    told = [
        ("red apple", ("fruit", "ripe"), "赤いりんご", ("果物", "りんご")),
        ("green apple", ("fruit", "tart"), "青いりんご", ("果物", "りんご")),
        ("bottle", ("cork", "drink"), "びん", ("コルク", "飲む", "蛾", "赤いびん", "赤い実")),
        ("flag: Japan", ("flag",), "旗: 日本", ("旗",)),
        ("flag: Peru", ("flag",), "旗: ペルー", ("旗",)),
    ]
    return [
        material.Concept(f"{i:x}", en, "x", 1.0, material.Words(en, words), material.Words(ja, words_ja))
        for i, (en, words, ja, words_ja) in enumerate(told)
    ]


def test_names_keywords_and_loans():
    glossary = importlib.import_module("glossary")
    table = glossary.Table(made())
    meanings = {
        "りんご": "apple",  # as many concepts as "fruit", but in their names
        "果物": "apple",
        "こるく": "cork",  # by its consonants
        "飲む": "bottle",  # one concept's
        "日本": "Japan",
        "びん": "bottle",
    }
    assert {word: table.meaning(word) for word in meanings} == meanings
    assert "旗" not in table.keywords and table.meaning("蛾") == "bottle"


@pytest.mark.parametrize(
    ("english", "japanese"),
    [
        ("cork", "コルク"),
        ("strawberry", "ストロベリー"),
        ("scarf", "スカーフ"),
        ("salad", "サラダ"),
        ("smile", "スマイル"),
    ],
)
def test_loans_sound_alike(english, japanese):
    sounds = importlib.import_module("iconset.sounds")
    assert sounds.alike(english, japanese)
    assert not any(sounds.alike(word, japanese) for word in ("cat", "bottle", "")) and not sounds.alike(
        english, "りんご"
    )


def test_what_the_parts_say_is_left_out_and_hands_go_first():
    glossary = importlib.import_module("glossary")
    hand = glossary.Hand({"赤い": "red", "果物": "fruit", "の": "", "いか": "squid"}, frozenset({"飲む"}), ("赤い",))
    found = glossary.entries(glossary.Table(made()), hand)
    assert "赤いりんご" not in found and found["青いりんご"] == "green apple"  # 青い is not known
    assert found["果物"] == "fruit" and "飲む" not in found and found["日本"] == "japan"
    assert "赤いびん" not in found and found["赤い実"] == "bottle"  # keywords of the bottle: of the one, all is known
    reads = Glossary(glossary.written(found))
    assert reads.translated("赤いリンゴの果物").split() == ["red", "apple", "fruit"]


def test_the_script_writes_a_glossary_with_the_words_by_hand(tmp_path, capsys, recipe):
    glossary = importlib.import_module("glossary")
    sources = packed(tmp_path / "sources", importlib.import_module("iconset.packages"), recipe)
    glossary.main([str(sources), str(tmp_path / "out.txt"), "--show", "3"])
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 4 and all(" = " in line for line in told[:3]) and "20 of 20 read" in told[3]
    reads = Glossary(given(str(tmp_path / "out.txt")))
    for japanese, english in (("赤いりんご", "red apple"), ("猫と犬の絵", "cat dog picture"), ("3の品物", "red gate")):
        assert reads.translated(japanese).split() == english.split()
    with pytest.raises(SystemExit, match="fetch it there"):
        glossary.main([str(tmp_path / "none"), str(tmp_path / "x")])
