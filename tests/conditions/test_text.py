"""Text: an encoding depends on its own words alone, the null on none; models of words go through their file."""

from __future__ import annotations

import pytest
import torch

from kakusan.catalog import build
from kakusan.checkpoint import load_model, model_hash, save_model
from kakusan.conditions.text import Text
from kakusan.conditions.words import learn
from kakusan.core.batch import Batch
from kakusan.core.denoiser import Denoiser
from kakusan.core.model import Model
from kakusan.core.objective import EDM, Denoising, LogNormal
from kakusan.core.param import Karras
from kakusan.core.process import VE
from kakusan.core.rng import Rng, mix
from kakusan.core.sample import run, sample, start
from kakusan.core.solver import DPM2M
from kakusan.core.space import Flat
from kakusan.core.target import matches
from kakusan.nets.dit import DiT
from kakusan.nets.unet import UNet
from kakusan.part import KakusanError
from kakusan.training.optim import AdamW, Muon, hidden_names

CAPTIONS = ["a small red circle", "a blue square", "a large red square", "the small blue circle", "赤い 丸"] * 2


@pytest.fixture(autouse=True)
def steady():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def text(**changes) -> Text:
    given = {"tokens": 16, "heads": 2, "dim": 6} | changes
    made = Text(learn(CAPTIONS), **given)
    with torch.no_grad():  # places and nulls as if trained
        for p in made.reader.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return made


def encoded(encoder: Text, values: list, keep: list[bool] | None = None):
    kept = torch.tensor(keep if keep is not None else [True] * len(values))
    with torch.no_grad():
        return encoder(encoder.prepare(values), kept)


def test_neighbours_and_padding_change_nothing():
    encoder = text()
    alone = encoded(encoder, ["a red circle"])
    long = "a small red circle the large blue square a small red circle"
    for values in (["a red circle", long], ["a red circle", None, "square"], ["a red circle"] * 3):
        beside = encoded(encoder, values)
        count = alone.tokens.shape[1]
        assert torch.allclose(beside.tokens[:1, :count], alone.tokens, atol=1e-5)
        assert torch.allclose(beside.vector[:1], alone.vector, atol=1e-5)
        assert beside.tokens_mask[0].tolist() == [True] * count + [False] * (beside.tokens.shape[1] - count)
        assert not beside.tokens[0, count:].any()


def test_what_is_padded_is_never_looked_at():
    encoder = text()
    inputs = encoder.prepare(["a red circle"])
    wider = {"pieces": torch.nn.functional.pad(inputs["pieces"], (0, 3))}  # also without weights
    with torch.no_grad():
        alone, padded = encoder(inputs, torch.tensor([True])), encoder(wider, torch.tensor([True]))
    assert torch.allclose(padded.vector, alone.vector, atol=1e-6)
    assert torch.allclose(padded.tokens[:, :4], alone.tokens, atol=1e-6)


def test_words_and_their_order_tell():
    encoder = text()
    vectors = encoded(encoder, ["red circle", "blue circle", "circle red", "red red circle"]).vector
    assert torch.cdist(vectors, vectors).fill_diagonal_(1).min() > 1e-3


def test_the_null_does_not_depend_on_what_was_dropped():
    encoder = text()
    values = ["a red circle", "(blue:0.3) square", None, "", "...", "赤い"]
    cond = encoded(encoder, values, [False, False, True, True, True, False])
    assert (cond.vector == encoder.reader.null_vector).all()
    assert (cond.tokens[:, 0] == encoder.reader.null).all() and not cond.tokens[:, 1:].any()
    assert cond.tokens_mask[:, 0].all() and not cond.tokens_mask[:, 1:].any()
    nothing = encoded(encoder, [None, None])
    assert nothing.tokens.shape == (2, 1, 16) and nothing.tokens_mask.all()


def test_dropped_words_have_no_gradient_and_no_padding_is_learnt():
    encoder = text()
    inputs = encoder.prepare(["a red circle", "blue square the the"])
    cond = encoder(inputs, torch.tensor([True, False]))
    (cond.vector.sum() + cond.tokens.square().sum()).backward()
    seen = {int(n) for n in inputs["pieces"][0]} - {0}
    assert {int(n) for n in encoder.table.weight.grad.abs().sum(1).nonzero()} == seen
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_weights_of_one_change_nothing_and_of_nothing_hide_the_word():
    encoder = text()
    plain, one = encoded(encoder, ["a red circle"]), encoded(encoder, ["a (red:1) circle"])
    assert torch.equal(plain.tokens, one.tokens) and torch.equal(plain.vector, one.vector)
    red, blue = encoded(encoder, ["a (red:0) circle"]), encoded(encoder, ["a (blue:0) circle"])
    assert torch.equal(red.tokens, blue.tokens) and torch.equal(red.vector, blue.vector)
    assert torch.equal(red.tokens[0, 2], encoder.reader.null)
    away = [float((encoded(encoder, [f"a (red:{w}) circle"]).vector - red.vector).norm()) for w in (0.0, 0.5, 1, 2)]
    assert away == sorted(away) and away[1] > 0


def test_a_weight_is_as_if_the_word_stood_there_so_many_times():
    """Without places, a word of weight 2 is read by the others, and counted in the mean, as two of it are."""
    encoder = text()
    with torch.no_grad():
        encoder.reader.place.zero_()
    twice, weighed = encoded(encoder, ["red red circle"]), encoded(encoder, ["(red:2) circle"])
    assert torch.allclose(twice.vector, weighed.vector, atol=1e-5)
    assert torch.allclose(twice.tokens[0, [0, 3]], weighed.tokens[0, [0, 2]], atol=1e-5)


def test_captions_know_no_weights_and_are_cut_where_prompts_are_refused():
    encoder = text(length=4)
    assert encoder.caption("a (red:1.3) :( circle")["pieces"].shape == (1, 4)
    long = "the small blue circle square"
    assert encoder.overlong(long) and not encoder.overlong("the small blue circle")
    assert torch.equal(encoder.caption(long)["pieces"], encoder.prepare(["the small blue circle"])["pieces"])
    with pytest.raises(KakusanError, match="has 5 pieces: this model reads 4"):
        encoder.prepare([long])
    for bad in (3, ["a"], b"a"):
        with pytest.raises(KakusanError, match="give words"):
            encoder.prepare([bad])


def test_captions_in_one_batch_are_as_alone():
    encoder = text()
    rows = [encoder.caption(t) for t in ("a red circle", None, "the small blue square", "")]
    whole = encoder.stack(rows)
    assert torch.equal(whole["pieces"], encoder.prepare(["a red circle", None, "the small blue square", ""])["pieces"])


def test_remarks():
    encoder = text()
    assert encoder.remarks("a red circle") == []
    assert encoder.remarks("a red qwzx") == ["'qwzx' is unknown to this model's vocabulary"]
    assert encoder.remarks("(qwzx:1.2) zzz") == ["'qwzx', 'zzz' are unknown to this model's vocabulary"]
    for empty in (None, "", "  ...", "(:2)"):
        assert "unconditionally" in encoder.remarks(empty)[0]


def test_same_texts_are_the_same_whatever_their_padding():
    encoder = text()
    mine = encoder.prepare(["a red circle", None, "blue"])
    theirs = encoder.prepare(["blue", "A  RED circle!", "a red circle square square", None])
    assert encoder.same(mine, theirs).tolist() == [
        [False, True, False, False], [False, False, False, True], [True, False, False, False],
    ]  # fmt: skip


def test_stable_targets_match_equal_captions_and_dropped_rows_all():
    model = Model(Denoiser(UNet(1, width=8, mults=[1], blocks=1, attention=[]), VE(), Karras(), Flat()),
                  encoders={"prompt": text()})  # fmt: skip
    encoder = model.encoder("prompt")

    def batch(captions):
        return Batch(torch.zeros(len(captions), 1, 4, 4), inputs={"prompt": encoder.prepare(captions)})

    found = matches(
        model, batch(["red", "blue"]), batch(["blue", "red", "red"]), {"prompt": torch.tensor([True, False])}
    )
    assert found.tolist() == [[False, True, True], [True, True, True]]


@pytest.mark.parametrize("net", [
    {"kind": "net/unet", "channels": 1, "width": 8, "mults": [1, 1], "blocks": 1, "attention": [1], "heads": 2},
    {"kind": "net/dit", "channels": 1, "width": 16, "depth": 1, "heads": 2},
])  # fmt: skip
def test_the_model_file_carries_the_words(tmp_path, net):
    encoder = text()
    model = Model(
        Denoiser(build(net | {"vector": 6, "tokens": 16}), VE(), Karras(), Flat()), encoders={"prompt": encoder}
    )
    assert isinstance(model.denoiser.net, (UNet, DiT))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    save_model(tmp_path / "model.safetensors", model)
    again, _ = load_model(tmp_path / "model.safetensors")
    assert model_hash(again) == model_hash(model)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor(0.5, dtype=torch.float64)
    values = ["a small red circle", "赤い (丸:1.4) qwzx"]
    outs = []
    for each in (model.eval(), again):
        given = {"prompt": each.encoder("prompt").prepare(values)}
        with torch.no_grad():
            outs.append(each.denoiser(x, t, each.cond(given, {}, 2)))
    assert torch.equal(*outs) and not torch.equal(outs[0][0], outs[0][1])


def test_bad_arguments():
    words = learn(CAPTIONS)
    for bad, message in (
        ({"heads": 3}, "heads=3 does not divide tokens=128"),
        ({"length": 0}, "length=0"),
        ({"dim": -1}, "dim=-1"),
        ({"vocabulary": ""}, "1 to 32000"),
    ):
        with pytest.raises(KakusanError, match=message):
            Text(**{"vocabulary": words} | bad)
    assert text(dim=0)(text().prepare(["red"]), torch.tensor([True])).vector is None


def test_muon_moves_the_hidden_matrices_of_the_reader():
    model = Model(Denoiser(UNet(1, width=8, mults=[1], blocks=1, attention=[]), VE(), Karras(), Flat()),
                  encoders={"prompt": text(depth=1)})  # fmt: skip
    mine = {n for n in hidden_names(model) if n.startswith("encoders")}
    assert mine == {f"encoders.prompt.reader.blocks.0.{n}.weight" for n in ("mix", "out", "wide", "narrow")}
    assert Muon().build(model) is not None


def test_a_small_model_learns_to_follow_its_prompt():
    """Pictures of one colour, said by the caption: after a few seconds of training, prompts give the colour."""
    colours = {"red": (0.8, -0.8, -0.8), "blue": (-0.8, -0.8, 0.8)}
    words = [f"a {size} {name} picture" for name in colours for size in ("small", "large")]
    encoder = Text(learn(words * 2), tokens=16, depth=1, heads=2, dim=8)
    net = UNet(3, width=16, mults=[1, 1], blocks=1, attention=[1], heads=2, vector=8, tokens=16, unshuffle=2)
    model = Model(Denoiser(net, VE(), Karras(0.5), Flat()), encoders={"prompt": encoder})
    objective = Denoising(LogNormal(0.0, 1.4), EDM(0.5), dropout=0.1)
    optimiser = AdamW(lr=0.005).build(model)
    for step in range(150):
        picked = [mix("caption", step, i) % 4 for i in range(16)]
        x0 = torch.tensor([list(colours.values())[p // 2] for p in picked])[:, :, None, None].expand(-1, -1, 8, 8)
        x0 = x0 + 0.1 * Rng(picked).normal([(3, 1, 1)] * 16, "shade", step)
        inputs = {"prompt": encoder.stack([encoder.caption(words[p]) for p in picked])}
        rng = Rng([mix("train", step, i) for i in range(16)])
        objective.loss(model, Batch(x0.contiguous(), inputs=inputs), rng, step).mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    model.eval()
    prompts = ["a red picture"] * 4 + ["small blue"] * 4
    times, rng, shapes = torch.linspace(1, 0, 9, dtype=torch.float64), Rng(range(8)), [(3, 8, 8)] * 8
    cond = model.cond({"prompt": encoder.prepare(prompts)}, {}, 8)
    with torch.no_grad():
        x = start(times, VE(), Flat(), shapes, rng)
        x = run(sample(lambda x, t, s: model.denoiser(x, t, cond), x, times, DPM2M(), VE(), Flat(), rng, shapes))
    means = x.mean((2, 3))
    for i, row in enumerate(means):
        target = torch.tensor(colours["red" if i < 4 else "blue"])
        assert (row - target).abs().max() < 0.4, (i, row)
