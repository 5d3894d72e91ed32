"""Pretrained encoders from a folder: small random CLIP, T5 and BERT, made here; frozen, exact, refused when missing."""

from __future__ import annotations

import sys

import pytest
import torch

from kakusan.checkpoint import load_model, save_model
from kakusan.conditions.pretrained import PretrainedText, folder_hash, folder_width
from kakusan.core.denoiser import Denoiser
from kakusan.core.model import Model
from kakusan.core.param import Karras
from kakusan.core.process import VE
from kakusan.core.space import Flat
from kakusan.nets.unet import UNet
from kakusan.part import KakusanError

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "a", "red", "blue", "small", "circle", "square"]


def made(folder, kind: str) -> str:
    """A folder as the hub has them, of one small random encoder."""
    transformers = pytest.importorskip("transformers", reason="needs the extra [text]")
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    small = {"vocab_size": len(WORDS), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    sizes = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    if kind == "clip":
        model = transformers.CLIPTextModel(transformers.CLIPTextConfig(**small, **sizes, max_position_embeddings=20))
    elif kind == "t5":
        model = transformers.T5EncoderModel(
            transformers.T5Config(**small, d_model=12, d_kv=6, d_ff=16, num_layers=1, num_heads=2)
        )
    else:
        model = transformers.BertModel(transformers.BertConfig(**small, **sizes, max_position_embeddings=20))
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(params=["clip", "t5", "bert"])
def folder(request, tmp_path) -> str:
    torch.set_num_threads(1)
    return made(tmp_path / request.param, request.param)


def text(folder: str, **more) -> PretrainedText:
    spec = PretrainedText.settled({"kind": PretrainedText.kind, "folder": folder})
    return PretrainedText(
        **{k: v for k, v in spec.items() if k != "kind"}, **{"tokens": 8, "heads": 2, "dim": 4} | more
    )


def test_states_are_the_encoders_own_and_alone_as_in_a_batch(folder):
    encoder = text(folder)
    assert encoder.width == folder_width(folder) == 12
    inputs = encoder.prepare(["a red circle", None, "small blue square a"])
    assert inputs["pieces"].tolist() == [[2, 5, 6, 9, 3, 0], [0] * 6, [2, 8, 7, 10, 5, 3]]
    tokenizer, frozen = encoder._loaded()
    with torch.no_grad():
        wanted = frozen(**tokenizer(["a red circle"], return_tensors="pt")).last_hidden_state
    assert torch.allclose(inputs["states"][:1, :5].float(), wanted, atol=2e-3)
    keep = torch.tensor([True, True, False])
    with torch.no_grad():
        whole, alone = encoder(inputs, keep), encoder(encoder.prepare(["a red circle"]), keep[:1])
    assert torch.allclose(whole.vector[:1], alone.vector, atol=1e-5)
    assert torch.allclose(whole.tokens[:1, :6], alone.tokens, atol=1e-5)
    assert torch.equal(whole.vector[1], whole.vector[2]) and torch.equal(whole.tokens[1], whole.tokens[2])


def test_the_frozen_encoder_is_not_trained_saved_or_drawn_from(folder, tmp_path):
    before = torch.get_rng_state()
    encoder = text(folder)
    encoder.prepare(["red"])
    net = UNet(1, width=8, mults=[1], blocks=1, attention=[0], heads=2, vector=4, tokens=8)
    model = Model(Denoiser(net, VE(), Karras(), Flat()), encoders={"prompt": encoder})
    assert all(p.requires_grad for p in model.parameters())
    assert sum(p.numel() for p in encoder.parameters()) < 3000
    save_model(tmp_path / "m.safetensors", model)
    again, _ = load_model(tmp_path / "m.safetensors")
    one, other = (m.encoder("prompt").prepare(["a red circle"])["states"] for m in (model, again))
    assert torch.equal(one, other)
    torch.set_rng_state(before)


def test_weights_captions_and_limits(folder):
    encoder = text(folder, length=5)
    assert encoder.prepare(["a (red circle:1.5)"])["weight"].tolist() == [[1, 1, 1.5, 1.5, 1]]
    assert encoder.caption("a (red:1.5) circle")["weight"].eq(1).all()
    assert encoder.overlong("a red small circle") and encoder.caption("a red small circle")["pieces"].shape == (1, 5)
    with pytest.raises(KakusanError, match="has 6 pieces: this model reads 5"):
        encoder.prepare(["a red small circle"])
    assert encoder.same(encoder.prepare(["a red"]), encoder.prepare(["A RED", "a blue", None])).tolist() == [
        [True, False, False]
    ]
    assert "empty" in encoder.remarks("")[0] and encoder.remarks("red") == []


def test_another_encoder_in_the_folder_is_refused(folder, tmp_path):
    with pytest.raises(KakusanError, match="is not the text encoder that this model was trained with"):
        text(folder).replace(digest="0" * 32).prepare(["red"])
    assert folder_hash(folder) == folder_hash(folder) != "0" * 32


def test_without_the_folder_or_the_extra_it_says_what_is_missing(tmp_path, monkeypatch):
    with pytest.raises(KakusanError, match=r"no folder of a text encoder \(config.json"):
        PretrainedText.settled({"kind": PretrainedText.kind, "folder": str(tmp_path)})
    with pytest.raises(KakusanError, match="needs the folder"):
        PretrainedText.settled({"kind": PretrainedText.kind})
    (tmp_path / "config.json").write_text('{"hidden_size": 4}')
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(KakusanError, match=r"pip install 'kakusan\[text\]'"):
        PretrainedText(str(tmp_path), 4).prepare(["red"])
    assert PretrainedText(str(tmp_path), 4).prepare([None])["states"].shape == (1, 0, 4)
