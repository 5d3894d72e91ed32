"""benchmarks/encoders.py: paired differences with their intervals, and word vectors of another package."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kakusan.conditions.words import FIRST
from kakusan.part import KakusanError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "icons"))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_differences_are_paired_and_pictures_of_one_concept_count_once():
    from encoders import paired

    draw = np.random.default_rng(0)
    shared = draw.normal(0, 10, 400)  # what both share cancels
    off = draw.normal(0.3, 1, 400)
    mean, low, high = paired(shared + off, shared, np.arange(400))
    assert low < 0.3 < high and mean == pytest.approx(off.mean())
    assert high - low == pytest.approx(2 * 1.96 * off.std(ddof=1) / 20, rel=1e-3)
    one = paired(off + 0.0, np.zeros(400), np.arange(400))
    four = paired(np.repeat(off, 4), np.zeros(1600), np.repeat(np.arange(400), 4))
    assert four == pytest.approx(one)  # the same four times says no more
    assert paired(shared + 2, shared, np.arange(400)) == pytest.approx((2, 2, 2))


def test_every_arm_has_the_same_reader(monkeypatch):
    from encoder_arms import ARMS, READER, WordLlamaTable, overrides, register

    from kakusan.catalog import CATALOG

    monkeypatch.setitem(CATALOG, WordLlamaTable.kind, "")  # taken out again afterwards
    register()
    asked = {arm: dict(o.split("=", 1) for o in overrides(arm)) for arm in ARMS if arm != "minilm"}
    for given in asked.values():
        assert {k: given[f"encoders.prompt.{k}"] for k in READER} == {k: str(v) for k, v in READER.items()}
    assert len({given["encoders.prompt.kind"] for given in asked.values()}) == 3
    assert asked["wordllama"]["encoders.prompt.kind"] == WordLlamaTable.kind
    assert CATALOG[WordLlamaTable.kind] == "encoder_arms:WordLlamaTable"


def test_vectors_of_words_are_means_of_their_tokens(monkeypatch):
    import encoder_arms

    table = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    ids = {"red": [0], "apple": [1, 2], "dog": [3], "ed": [], "cat": [4], "car": [5]}

    def batch(texts, add_special_tokens):
        assert not add_special_tokens
        return [SimpleNamespace(ids=ids[t]) for t in texts]

    monkeypatch.setattr(encoder_arms, "_package", lambda: (SimpleNamespace(encode_batch=batch), table))
    alone = encoder_arms._alone(["_red", "_apple", "ed"])
    assert torch.allclose(alone[1], torch.nn.functional.normalize((table[1] + table[2])[None], dim=1)[0])
    assert alone[0].norm() == pytest.approx(1) and not alone[2].any()
    words = encoder_arms.WordLlamaTable("_ 赤 _red _apple _dog _cat _car", trained=2, width=8)
    words.fill()
    assert words.filled and not words.frozen[: FIRST + 2].any()  # the mark of a word's beginning, and Japanese
    kept = (words.frozen[FIRST + 2 :] * words.scale).float()
    full = encoder_arms.minilm.reduced(encoder_arms._alone(["_red", "_apple", "_dog", "_cat", "_car"]), 8)
    assert (kept - full).abs().max() <= words.scale.max() / 2 + 1e-6


def test_a_missing_package_is_named(monkeypatch):
    import encoder_arms

    monkeypatch.setattr(encoder_arms.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KakusanError, match="pip install --no-deps wordllama"):
        encoder_arms._package()


def test_the_table_pairs_each_arm_with_the_first_of_its_seed(tmp_path):
    from encoders import KINDS, SPLITS, table

    draw, found = np.random.default_rng(1), {}
    shared = draw.normal(1, 1, 50)
    for arm, off in (("table", 0.0), ("learnt", 0.002)):
        run = tmp_path / f"{arm}-seed-0"
        run.mkdir()
        for split in SPLITS:
            np.savez(
                run / f"losses-{split}.npz", words=shared + off, none=shared + 1, concepts=np.arange(50).astype(str)
            )
        row = {split: {"words": 1.0 + off, "none": 2.0} for split in SPLITS}
        row |= {kind: {"top1": 0.5, "top1_interval": [0.4, 0.6]} for kind in KINDS}
        found[arm, 0] = row | {"training": {"pictures_seen": 1000}}
    lines = table(found, tmp_path).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| table | 0 | 1,000 | 1.0000 | - | 2.0000 |")
    assert "| 1.0020 | +2.00 (+2.00 to +2.00) |" in lines[3]
