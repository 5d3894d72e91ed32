"""Words outside Python: the page spells captions as Python does, and an exported model draws from words."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import kakusan
from kakusan.app.deploy.export import sampling
from kakusan.app.draw.sampler import Request
from kakusan.conditions.text import Text, Words
from kakusan.conditions.words import learn
from kakusan.runtime import engines, export, host
from kakusan.runtime.bundle import read_table
from kakusan.runtime.graph import Graph
from runtime.small import LABEL, model

PAGE = Path(__file__).parents[2] / "examples" / "browser"
THINGS = ["red apple", "Blue Whale", "café au lait", "Straße", "ΟΔΟΣ", "naïve façade", "l'œuvre", "x²", "ﬁne print"]
OTHERS = [
    "赤いりんご",
    "ラーメンを食べる",
    "ﾊﾝｶｸ",
    "时间 clock",
    "人々",
    "がぎぐ",
    "Привет, мир",
    "한국어",
    "e\u0301clair",
    "हिन्दी",
]
STYLES = [
    "flat-design",
    "100% wool",
    "#1 & only",
    "line/art (thin)",
    "a\u200db",
    "☂ ⛄️",
    "…“quoted”",
    "snake_case",
    "",
    "w" * 60,
]
CAPTIONS = [f"{a} {i} {b}" for i, (a, b) in enumerate((a, b) for a in THINGS + OTHERS + [""] for b in STYLES)]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_page_spells_200_captions_as_python_does():
    assert len(CAPTIONS) == 200
    vocabulary = learn(CAPTIONS[::2], limit=300)
    encoder = Text(vocabulary, length=96, tokens=8, heads=2, dim=0)
    expected = spelled(encoder, CAPTIONS)
    assert len({tuple(row) for row in expected}) > 190 and any(1 in row for row in expected), "unknown ones among them"


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_page_reads_what_icons_reads_in_english_and_japanese():
    """Words taken whole from the left, and a glossary of 4,429 entries."""
    encoder = kakusan.load("icons", "cpu").model.encoder("prompt")
    listed = tomllib.loads((PAGE.parents[1] / "recipes" / "icons" / "prompts.toml").read_text("utf-8"))
    asked = [x[language] for some in listed.values() for x in some for language in ("prompt", "ja")]
    odd = ["かぶった猫", "スカート", "アップルパイ", "青いカエル", "the りんごs", "のりんごの", "unaffordable qwzx"]
    expected = spelled(encoder, [*asked, *odd, *OTHERS])
    known = sum(1 not in row for row in expected[1:800:2])
    assert known > 380, "what is said in Japanese is in the vocabulary"


def spelled(encoder: Words, captions: list[str]) -> list[list[int]]:
    """The pieces' numbers of captions, the same from Python and from the page."""
    expected = encoder.widened(encoder.stack([encoder.caption(c) for c in captions]))["pieces"].tolist()
    script = f"""
        import {{ glossary }} from "{(PAGE / "glossary.mjs").as_uri()}";
        import {{ reader }} from "{(PAGE / "words.mjs").as_uri()}";
        import {{ readFileSync }} from "node:fs";
        const {{ about, captions }} = JSON.parse(readFileSync(0, "utf8"));
        const read = reader(about, about.glossary && glossary(about.glossary));
        console.log(JSON.stringify(captions.map(read)));
    """
    asked = json.dumps({"about": encoder.spelling(), "captions": captions})
    words = ["node", "--input-type=module", "-e", script]
    done = subprocess.run(words, input=asked, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for caption, row, mine in zip(captions, json.loads(done.stdout), expected, strict=True):
        assert row["pieces"] == mine, caption
        assert row["weight"] == [float(n != 0) for n in mine]
    return expected


TEXT = {"kind": "condition/text", "vocabulary": learn(["a red apple", "a blue apple"] * 2), "length": 6, "tokens": 8,
        "depth": 1, "heads": 2, "dim": 4}  # fmt: skip


def worded():
    return model(encoders={"label": LABEL, "prompt": TEXT}, tokens=8)


def test_texts_of_any_length_are_the_same_at_the_longest():
    made = worded()
    encoder = made.encoder("prompt")
    x, coefs = torch.randn(2, 1, 9, 11), torch.full((2,), 0.5)
    prepared = encoder.prepare(["a red apple", "(blue:1.5)"])
    given = {"label": torch.tensor([0, 1])} | {f"prompt_{k}": v for k, v in encoder.widened(prepared).items()}
    inputs = {"label": made.encoder("label").prepare([0, 1]), "prompt": prepared}
    with torch.no_grad():
        found = Graph(made)(x, coefs, coefs, coefs, coefs, given)
        out = made.denoiser.net(0.5 * x, coefs, made.cond(inputs, {}, 2))
    assert given["prompt_pieces"].shape == (2, 6)
    torch.testing.assert_close(found, 0.5 * x + 0.5 * out, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(
    any(importlib.util.find_spec(m) is None for m in ("onnx", "onnxscript", "onnxruntime")), reason="needs [export]"
)
def test_a_model_of_words_is_exported_with_its_vocabulary(tmp_path):
    made = worded()
    chosen = sampling(made, Request(seeds=[0], steps=3))
    done = export.export(
        made, chosen, (1, 9, 11), "onnx", tmp_path / "out", tmp_path / "ledger", {"model": "abc"}, threads=1
    )
    assert done.checked.sample < 1e-3
    table = read_table(tmp_path / "out" / "table.json", tmp_path / "ledger")
    about = table["conditions"]["prompt"]
    assert about["vocabulary"] == TEXT["vocabulary"] and about["length"] == 6
    run = engines.onnxruntime(tmp_path / "out" / "model.onnx", 1)
    x = np.random.default_rng(0).standard_normal((1, 1, 9, 11), np.float32)
    drawn = []
    for words in ("a red apple", "a blue apple", None):
        encoder = made.encoder("prompt")
        prepared = encoder.widened(encoder.prepare([words]))
        given = {f"prompt_{k}": v.numpy() for k, v in prepared.items()}
        drawn.append(host.sample(table, {"model": run}, x, given, np.random.default_rng(0)))
    unsaid = host.sample(table, {"model": run}, x, {}, np.random.default_rng(0))
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-3 and np.abs(drawn[0] - drawn[2]).max() > 1e-3
    np.testing.assert_allclose(drawn[2], unsaid, atol=1e-5)
