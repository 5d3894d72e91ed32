"""A glossary says Japanese words in the model's own; English is read as without one, to the bit."""

from __future__ import annotations

import pytest
import torch

from kakusan.app.deploy.glossed import put_glossary
from kakusan.app.train.recipe import fit_ports
from kakusan.checkpoint import load_model, model_hash, save_model
from kakusan.conditions.glossary import MOST, Glossary, given
from kakusan.conditions.label import Label
from kakusan.conditions.table import TextTable
from kakusan.conditions.text import Text
from kakusan.core.denoiser import Denoiser
from kakusan.core.model import Model
from kakusan.core.param import Karras
from kakusan.core.process import VE
from kakusan.core.space import Flat
from kakusan.nets.unet import UNet
from kakusan.part import KakusanError

LINES = """りんご, 林檎 = apple
赤い, 赤 = red
女の子 = girl
女 = woman
子 = child
Tシャツ = t-shirt
pomme de terre = potato
ほうき星 = shooting star
カブ = turnip
いか = squid
おモチ = mochi
ラーメン = noodles
の, い, と, は, が ="""
WORDS = "_ _a _red _apple _girl _woman _child _t _shirt _potato _shooting _star _turnip _squid _noodles _on _chat a b c"
ENGLISH = ["a (red:1.5) apple", "RED  apple, on a star!", "a cat – qwzx", "pommel de terre", "", "née a♥b 3", "a1"]


def table(glossary: str = LINES, **changes) -> TextTable:
    return TextTable(
        **{"vocabulary": WORDS, "trained": 5, "width": 8, "tokens": 8, "heads": 2, "dim": 4, "glossary": glossary}
        | changes
    )


def learnt(glossary: str) -> Text:
    return Text("_ a r e d p l _a re _re _red", tokens=8, heads=2, dim=4, glossary=glossary)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("赤いりんご", "red apple"),
        ("赤いリンゴ", "red apple"),  # katakana
        ("赤の林檎", "red apple"),
        ("ﾘﾝｺﾞ", "apple"),  # half width
        ("女の子", "girl"),  # the longest
        ("女と子", "woman child"),
        ("赤いTシャツ", "red t-shirt"),
        ("赤いＴシャツと星", "red t-shirt と星"),  # と stands beside a word that is not known
        ("はし", "はし"),  # and so は
        ("女のはし", "woman はし"),  # of two, only the one that touches
        ("a 赤いapple on 子", "a red apple on child"),
        ("une pomme de terre", "une potato"),
        ("pomme de terres, XTシャツ", "pomme de terres, XTシャツ"),  # whole words only
        ("ホウキ星", "shooting star"),
        ("赤 い", "red"),
        ("の", ""),
        ("スカブ, カブス カブ", "スカブ, カブス turnip"),
        ("赤いカ イカ いか", "red カ squid squid"),  # no entry over a change of kana
        ("らーめん ラーメン", "noodles noodles"),
        ("おモチ", "mochi"),  # unless it is spelled so
        ("かぶと赤いカブ", "turnip red turnip"),
        ("赤い子がかぶったかぶ", "red child かぶった turnip"),
    ],
)
def test_the_longest_entries_from_the_left_are_replaced(text, said):
    assert Glossary(LINES).translated(text).split() == said.split()


def test_text_without_an_entry_comes_back_as_it_is():
    glossary = Glossary(LINES)
    for text in [*ENGLISH, "Ａｐｐｌｅ", "星空", "はし"]:
        assert glossary.translated(text) == text or not glossary.translated(text).strip()
    assert (
        glossary.translated("Ａｐｐｌｅ") == "Ａｐｐｌｅ" and Glossary("").translated("赤い  りんご") == "赤い  りんご"
    )


@pytest.mark.parametrize("make", [table, learnt])
def test_english_is_encoded_the_same_to_the_bit(make):
    torch.manual_seed(0)
    without = make("")
    with_it = make(LINES)
    with_it.load_state_dict(without.state_dict())
    one, other = (encoder.prepare(ENGLISH) for encoder in (without, with_it))
    assert all(torch.equal(one[name], other[name]) for name in one)
    keep = torch.ones(len(ENGLISH), dtype=torch.bool)
    a, b = without(one, keep), with_it(other, keep)
    assert torch.equal(a.tokens, b.tokens) and torch.equal(a.tokens_mask, b.tokens_mask)
    assert torch.equal(a.vector, b.vector)
    for text in ENGLISH:
        assert torch.equal(without.caption(text)["pieces"], with_it.caption(text)["pieces"])
        assert without.remarks(text) == with_it.remarks(text)


def test_japanese_is_read_as_the_english_it_stands_for_with_its_weights():
    encoder = table()
    for japanese, english in (
        ("赤いりんご", "red apple"),
        ("赤い(りんご:1.3)", "red (apple:1.3)"),
        ("(赤いリンゴ:0.5)と女の子", "(red apple:0.5) girl"),
    ):
        one, other = encoder.prepare([japanese]), encoder.prepare([english])
        assert torch.equal(one["pieces"], other["pieces"]) and torch.equal(one["weight"], other["weight"])
    assert encoder.remarks("赤いりんご") == []
    assert encoder.remarks("赤い犬") == ["'犬' is unknown to this model's vocabulary"]
    assert encoder.remarks("の") == ["the prompt is empty: drawn without one (unconditionally)"]
    assert table(length=2).overlong("赤い女の子と子") and not table(length=3).overlong("赤い女の子と子")


def test_bad_glossaries_and_the_file_of_one(tmp_path):
    for bad, message in (
        ("りんご apple", "'りんご apple' is not like"),
        ("りんご,=apple", "is not like"),
        ("りんご=apple\nリンゴ=pear", "'りんご' is 'apple' and 'pear'; give it one meaning"),
        ("赤=" + "x" * MOST, "at most 300,000 go into a model"),
    ):
        with pytest.raises(KakusanError, match=message):
            table(bad)
    assert len(Glossary("りんご,リンゴ=apple")) == 1  # the same twice is no mistake
    (tmp_path / "words.txt").write_text(f"# of fruit\n\n{LINES}\n", "utf-8")
    assert given(str(tmp_path / "words.txt")) == LINES and given(LINES) == LINES and given("") == ""
    with pytest.raises(KakusanError, match="no such file"):
        given(str(tmp_path / "none.txt"))


def test_a_recipe_that_names_a_file_gets_its_text(tmp_path):
    (tmp_path / "words.txt").write_text(LINES, "utf-8")
    for spec in (table().spec(), {"kind": "condition/text", "vocabulary": "_ a"}):
        encoders = {"prompt": spec | {"glossary": str(tmp_path / "words.txt")}}
        net = {"kind": "net/unet", "vector": 0, "tokens": 0}
        tree = {"model": {"encoders": encoders, "denoiser": {"net": net}}}
        assert fit_ports(tree)["model"]["encoders"]["prompt"]["glossary"] == LINES


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_glossary_is_put_into_a_model_file_and_taken_out_again(tmp_path, dtype):
    def model(encoder):
        net = UNet(1, width=8, mults=[1], blocks=1, attention=[0], heads=2, vector=4, tokens=8)
        return Model(Denoiser(net, VE(), Karras(), Flat()), encoders={"prompt": encoder})

    made = model(table("")).beside(model(table("")))
    before = save_model(tmp_path / "a", made, {"licence": "free"}, dtype)
    digest = put_glossary(tmp_path / "a", LINES, tmp_path / "b")
    after, info = load_model(tmp_path / "b")
    assert info["licence"] == "free" and info["hash"] == digest and digest != before
    assert load_model(tmp_path / "a")[1]["hash"] == before
    for part in (after, after.weak):
        assert torch.equal(
            part.encoder("prompt").prepare(["赤いりんご"])["pieces"],
            part.encoder("prompt").prepare(["red apple"])["pieces"],
        )
    kept = load_model(tmp_path / "a")[0].state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in after.state_dict().items())
    assert put_glossary(tmp_path / "b", "") == before  # over itself
    assert model_hash(load_model(tmp_path / "b")[0]) == before


def test_a_model_without_words_takes_no_glossary(tmp_path):
    net = UNet(1, width=8, mults=[1], blocks=1, attention=[0], heads=2, vector=4)
    save_model(
        tmp_path / "a", Model(Denoiser(net, VE(), Karras(), Flat()), encoders={"label": Label(["x", "y"], dim=4)})
    )
    with pytest.raises(KakusanError, match="reads no words"):
        put_glossary(tmp_path / "a", LINES)
