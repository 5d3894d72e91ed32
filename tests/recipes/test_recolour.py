"""recipes/icons/recolour.py: pictures in other colours are added, none of what colours are judged by."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

RECIPE = Path(__file__).parents[2] / "recipes" / "icons"


@pytest.fixture(autouse=True)
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE))


def prepared(folder: Path) -> Path:
    """A red drum, a red apple, a red man, a black anvil and a heart suit, each a red disc but the anvil."""
    listed = [
        ("drum", "1f941", "Objects"), ("red apple", "1f34e", "Food & Drink"), ("man", "1f468", "People & Body"),
        ("anvil", "a", "Objects"), ("heart suit", "2665", "Activities"),
    ]  # fmt: skip
    for split in ("train", "test-concepts", "test-styles"):
        (folder / split / "flat").mkdir(parents=True)
        lines = []
        for name, code, category in listed if split == "train" else []:
            picture = np.zeros((64, 64, 4), np.uint8)
            picture[10:50, 10:50] = (5, 5, 5, 255) if name == "anvil" else (220, 40, 40, 255)
            file = f"flat/{code}.png"
            Image.fromarray(picture).save(folder / split / file)
            lines.append({
                "file_name": file, "style": "flat", "concept": name, "code": code, "group": code, "category": category,
                "text": [name], "text_ja": ["x"],
            })  # fmt: skip
        (folder / split / "metadata.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines), "utf-8")
    return folder


def test_one_more_of_each_thing_in_one_colour_and_none_of_what_is_judged(tmp_path, capsys):
    from iconset.recolour import dominant

    icons, out = prepared(tmp_path / "icons"), tmp_path / "coloured"
    importlib.import_module("recolour").main([str(icons), str(out)])
    lines = [json.loads(x) for x in (out / "train" / "metadata.jsonl").read_text("utf-8").splitlines()]
    assert [x["concept"] for x in lines[:5]] == ["drum", "red apple", "man", "anvil", "heart suit"]
    (more,) = lines[5:]
    colour = more["colour"]
    assert more["concept"] == f"{colour} drum" and colour != "red" and "text_ja" not in more
    assert all(f"{colour} drum" in text for text in more["text"]) and len(more["text"]) == 5
    assert dominant(np.asarray(Image.open(out / "train" / more["file_name"]))) == colour
    assert "5 training pictures and 1 in other colours" in capsys.readouterr().out


def test_a_folder_of_something_else_and_one_that_is_there_are_refused_in_a_line(tmp_path):
    main = importlib.import_module("recolour").main
    for icons, out, said in ((tmp_path / "none", tmp_path / "out", "lacks train/"), (tmp_path, tmp_path, "exists")):
        with pytest.raises(SystemExit, match=said):
            main([str(icons), str(out)])
