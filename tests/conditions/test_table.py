"""TextTable: frozen vectors from a small random sentence encoder, learned ones beside them, all in the model's file."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch

from kakusan.checkpoint import load_model, model_hash, save_model
from kakusan.conditions import minilm
from kakusan.conditions.table import TextTable
from kakusan.conditions.words import FIRST, Lexicon, counted, learn
from kakusan.core.denoiser import Denoiser
from kakusan.core.model import Model
from kakusan.core.param import Karras
from kakusan.core.process import VE
from kakusan.core.space import Flat
from kakusan.nets.unet import UNet
from kakusan.part import KakusanError

CAPTIONS = ["a red jellyfish", "a blue jelly fish", "a red fish", "赤いりんご", "赤いりんご", "青い魚"]
FOLDER = minilm.folder
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "blue", "jelly", "zebra", "fish", "##fish", "##s", "##e",
          "s", "魚", "##魚"]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def encoder(tmp_path_factory):
    """A folder with a random BERT of 24 numbers and a WordPiece tokenizer, in the place of MiniLM's."""
    transformers = pytest.importorskip("transformers", reason="needs the extra [text]")
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("bert")
    ids = {t: i for i, t in enumerate(TOKENS)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
    sizes = {"hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(vocab_size=len(ids), **sizes)).save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minilm, "folder", lambda: str(folder))
        patch.setattr(minilm, "LEAST", 4)
        yield


def table(**changes) -> TextTable:
    spec = TextTable.listed({"width": 8, "tokens": 12, "heads": 2, "dim": 4} | changes, counted(CAPTIONS), LEARNT)
    made = TextTable(**spec)
    made.fill()
    return made


LEARNT = learn(CAPTIONS)


def embedding(encoder: TextTable, text: str) -> torch.Tensor:
    with torch.no_grad():
        return encoder.embed(encoder.prepare([text])["pieces"].long())[0]


def test_words_are_spelled_by_the_longest_piece_that_fits():
    words = Lexicon("_jelly _jellyfish fish _ s e り")
    assert words.pieces("_jellyfish") == ["_jellyfish"] and words.pieces("_jellyfishes") == ["_jellyfish", "e", "s"]
    assert words.pieces("_fish") == ["_", "fish"] and words.pieces("りんり") == ["り", "ん", "り"]
    assert words.numbers("_fishq") == [FIRST + 3, FIRST + 2, 1]
    assert words.unknown("jellyfishes qwzx りん") == ["qwzx", "ん"]


def test_the_vocabulary_has_what_is_unknown_to_the_encoder_then_the_captions_words_then_its_own(tmp_path):
    (tmp_path / "more.txt").write_text("Teapot\nwrench\n")
    text, trained = minilm.listing(Counter(counted(CAPTIONS)), LEARNT, more=str(tmp_path / "more.txt"))
    pieces = text.split()
    said = ["_a", "_red", "_blue", "_fish", "_jelly", "_jellyfish"]
    assert set(pieces[trained - 6 : trained]) == set(said)
    assert pieces[0] == "_" and set("赤いりんご青魚") <= set(pieces)
    assert all(not p.isascii() for p in pieces[1 : trained - 6])
    assert pieces[trained:] == ["s", "e", "fish", "_teapot", "_wrench", "_zebra", "_s"]
    assert minilm.listing(counted(CAPTIONS), LEARNT, own="unknown")[1] == trained - 6
    for bad, message in (
        ({"limit": 3}, "limit=3: a table has"),
        ({"own": "all"}, "own=all: captions"),
        ({"more": str(tmp_path / "none")}, "no such file"),
    ):
        with pytest.raises(KakusanError, match=message):
            minilm.listing(counted(CAPTIONS), LEARNT, **bad)


def test_the_frozen_vectors_are_the_encoders_centred_and_turned():
    """At full width their distances are the encoder's own, up to one factor and the rounding to bytes."""
    encoder = table(width=24)
    pieces = encoder.vocabulary.listed()
    rows = [i for i, p in enumerate(pieces) if p.isascii() and p != "_"]
    tokenizer, bert = minilm.read_folder(minilm.folder())
    wanted = []
    for piece in (pieces[i] for i in rows):
        ids = [2, TOKENS.index("##" + piece), 3] if piece[0] != "_" else tokenizer(piece[1:])["input_ids"]
        with torch.no_grad():
            wanted.append(torch.nn.functional.normalize(bert(torch.tensor([ids])).last_hidden_state.mean(1)[0], dim=0))
    mine = torch.cdist(*[(encoder.frozen[FIRST:][rows].float() * encoder.scale)] * 2)
    theirs = torch.cdist(*[torch.stack(wanted)] * 2)
    factor = float((mine * theirs).sum() / theirs.square().sum())
    assert torch.allclose(mine, factor * theirs, atol=0.03 * float(mine.max()))
    f = encoder.frozen[FIRST:][rows].float() * encoder.scale
    assert f.square().mean() == pytest.approx(1, abs=0.02)
    assert not encoder.frozen[: FIRST + 1].any()  # no piece, unknown, and the bare beginning of a word
    strange = [i for i, p in enumerate(pieces) if not p.isascii()]
    assert strange and not encoder.frozen[FIRST:][strange].any()


def test_known_words_have_a_meaning_at_once_and_others_learn_one():
    encoder = table()
    assert not embedding(encoder, "赤い").any() and embedding(encoder, "zebra").any()
    cond = encoder(encoder.prepare(["a red zebra 赤い"]), torch.tensor([True]))
    (cond.vector.sum() + cond.tokens.square().sum()).backward()
    grads = encoder.own.weight.grad.abs().sum(1)
    pieces = encoder.prepare(["a red 赤い"])["pieces"][0].long()
    assert {int(i) for i in grads.nonzero()} == set(pieces.tolist())  # the zebra has no vector of its own
    assert encoder.bring.weight.grad.any()
    assert {n for n, _ in encoder.named_parameters() if "frozen" in n or "scale" in n} == set()
    with torch.no_grad():
        encoder.own.weight.add_(1)
        encoder.own.weight[0] = 0
    assert embedding(encoder, "赤い").any()


def test_without_captions_of_its_own_it_still_reads_and_says_what_it_does_not_know():
    encoder = table()
    assert encoder.remarks("a red zebra jellyfishes") == []
    assert encoder.remarks("a red qwzx") == ["'qwzx' is unknown to this model's vocabulary"]
    assert "unconditionally" in encoder.remarks("")[0]
    weighed = encoder.prepare(["a (red:1.5) fish"])
    assert weighed["weight"].tolist() == [[1, 1.5, 1]] and weighed["pieces"].dtype == torch.int16
    assert encoder.same(encoder.prepare(["A RED fish"]), encoder.prepare(["a red fish", "red"])).tolist() == [
        [True, False]
    ]
    rows = [encoder.caption(t) for t in ("a red fish", None)]
    assert torch.equal(encoder.stack(rows)["pieces"], encoder.prepare(["a red fish", None])["pieces"])
    assert table(length=2).overlong("a red fish") and not table(length=3).overlong("a red fish")


def test_the_model_file_carries_the_table_in_either_precision(tmp_path, monkeypatch):
    encoder = table()
    net = UNet(1, width=8, mults=[1], blocks=1, attention=[0], heads=2, vector=4, tokens=12)
    model = Model(Denoiser(net, VE(), Karras(), Flat()), encoders={"prompt": encoder})
    monkeypatch.setattr(minilm, "folder", lambda: pytest.fail("a trained model asks for no encoder"))
    for dtype in (torch.float32, torch.float16):
        path = tmp_path / f"{dtype}.safetensors"
        save_model(path, model, dtype=dtype)
        again = load_model(path)[0].encoder("prompt")
        assert isinstance(again, TextTable) and again.filled
        assert torch.equal(again.frozen, encoder.frozen) and again.frozen.dtype == torch.int8
        assert torch.allclose(embedding(again, "a zebra fish"), embedding(encoder, "a zebra fish"), atol=2e-2)
    assert model_hash(load_model(tmp_path / "torch.float32.safetensors")[0]) == model_hash(model)


def test_bad_arguments_and_a_missing_package(monkeypatch):
    for bad, message in (
        ({"width": 4}, "width=4: a frozen vector has 8 to 384"),
        ({"trained": 3}, "trained=3: the vocabulary has 2 pieces"),
        ({"vocabulary": ""}, "1 to 32000"),
    ):
        with pytest.raises(KakusanError, match=message):
            TextTable(**{"vocabulary": "_a b", "trained": 1} | bad)
    assert TextTable.listed({"vocabulary": "_a b", "trained": 1}, {}, "") == {"vocabulary": "_a b", "trained": 1}
    monkeypatch.setattr(minilm, "folder", FOLDER)
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package")
    with pytest.raises(KakusanError, match=r"pip install 'kakusan\[words\]'"):
        table()


def test_training_lists_the_words_fills_the_table_and_draws_without_the_encoder(tmp_path, monkeypatch):
    import numpy as np
    from PIL import Image

    from kakusan.app import facade
    from kakusan.app.command.show import Progress
    from kakusan.app.draw.loaded import load
    from kakusan.app.train import recipe

    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path / "cache"))
    lines, draw = [], np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for i in range(24):
        Image.fromarray(draw.integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / "data" / f"{i:02d}.png")
        lines.append(json.dumps({"file_name": f"{i:02d}.png", "text": CAPTIONS[i % len(CAPTIONS)]}))
    (tmp_path / "data" / "metadata.jsonl").write_text("\n".join(lines))
    words = [
        "encoders.prompt.kind=condition/text-table", "encoders.prompt.width=8", "encoders.prompt.own=unknown",
        "encoders.prompt.depth=1", "denoiser.net.width=8", "denoiser.net.blocks=1", "training.batch=4",
        "training.previews=1", "training.precision=fp32", "data.augment=false",
        f"encoders.prompt.glossary={tmp_path / 'words.txt'}",
    ]  # fmt: skip
    (tmp_path / "words.txt").write_text("シマウマ = zebra\n", "utf-8")
    done = facade.train(
        tmp_path / "data", steps=2, out=tmp_path / "run", overrides=words, progress=Progress(quiet=True), device="cpu"
    )
    spec = recipe.read(done.run / "recipe.toml")["model"]["encoders"]["prompt"]
    assert "own" not in spec and "_zebra" in spec["vocabulary"].split() and spec["trained"] > 1
    monkeypatch.setattr(minilm, "folder", lambda: pytest.fail("a trained model asks for no encoder"))
    model = load(done.run, "cpu")
    encoder = model.model.encoder("prompt")
    assert isinstance(encoder, TextTable) and encoder.filled
    assert model.remarks(model.request(1, "a zebra", None, 0, None)) == []
    assert torch.equal(encoder.prepare(["しまうま"])["pieces"], encoder.prepare(["zebra"])["pieces"])
    one, other = (model.sample(1, prompt=p, steps=2, guidance=3)[0].raw for p in ("a zebra", "a fish"))
    assert not torch.equal(one, other)
