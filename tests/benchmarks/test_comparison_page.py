"""The sections of docs/explanation/diffusion-or-gan.md are what benchmarks/comparison_page.py makes of the figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "diffusion-or-gan.md"
COMPARED = ROOT / "benchmarks" / "compared"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.mark.parametrize(("name", "folder"), [("fashion", "fashion-20min"), ("cifar", "cifar-20min")])
def test_the_page_says_what_was_measured(name, folder):
    from comparison_page import section, sheet
    from quality.table import inserted

    result = json.loads((COMPARED / folder / "result.json").read_text("utf-8"))
    page = PAGE.read_text("utf-8")
    shown = page.partition(f"<!-- {name}: begin -->")[2].partition(f"<!-- {name}: end -->")[0]
    for line in section(result).splitlines():
        assert line in shown
    assert inserted(page, "new", name).count("new\n\n<!-- ") == 1
    picture = sheet(COMPARED / folder, result)
    assert picture.width > 400 and picture.height > 3 * 28


def test_a_page_without_marks_is_refused():
    from quality.table import inserted

    with pytest.raises(SystemExit, match="no <!-- x: begin --> and"):
        inserted("a page", "words", "x")
