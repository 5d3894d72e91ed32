"""Sampling options on a small random model: what each does, that files make their samples again, and bad input."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pil
from torch import nn

from kakusan.app import cli
from kakusan.app.draw import branches, sampler, varying
from kakusan.app.draw.loaded import Loaded, load
from kakusan.app.draw.samples import reproduce, save_samples
from kakusan.app.draw.tiling import tiled
from kakusan.checkpoint import save_model
from kakusan.conditions.label import Label
from kakusan.conditions.scalar import Scalar
from kakusan.conditions.tags import Tags
from kakusan.core.denoiser import Denoiser
from kakusan.core.model import Model
from kakusan.core.param import Karras
from kakusan.core.process import VE
from kakusan.core.space import Flat
from kakusan.domains.image import Image
from kakusan.nets.dit import DiT
from kakusan.nets.unet import UNet
from kakusan.part import KakusanError
from kakusan.training.stop import Stop

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = ["red", "green", "apple", "pear"]


def small(net: nn.Module | None = None, weak: bool = True) -> Model:
    """A model whose weights are random, and nowhere zero; the "prompt" is a set of words."""
    torch.manual_seed(0)
    net = net or UNet(1, width=8, mults=[1, 1], blocks=1, attention=[1], heads=2, unshuffle=2, vector=24)
    encoders = {"label": Label(["cat", "dog", "a|b"], 8), "prompt": Tags(WORDS, 8), "size": Scalar("size", "mm", dim=8)}

    def built() -> Model:
        model = Model(Denoiser(net.replace(), VE(), Karras(), Flat()), Image([16, 16], "L"),
                      {n: e.replace() for n, e in encoders.items()},
                      {"steps": 4, "guidance": 2.0})  # fmt: skip
        for p in model.parameters():
            nn.init.normal_(p, std=0.2)
        return model.eval()

    return built().beside(built()).eval() if weak else built()


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, small(), {})
    return path


@pytest.fixture
def loaded(file) -> Loaded:
    return load(file, "cpu")


OPTIONS = {
    "weights apart": {"label": "cat", "prompt": "red, apple", "guidance": {"label": 2.0, "prompt": 4.0}},
    "one of them": {"label": "cat", "cond": {"size": "1.5 mm"}, "guidance": {"size": 3.0}},
    "negative": {"prompt": "red", "negative": {"prompt": "green"}, "guidance": 3.0},
    "negative apart": {"prompt": "red", "label": 1, "negative": {"label": "cat"},
                       "guidance": {"label": 2.0, "prompt": 1.0}},
    "interval": {"label": "cat", "guidance": 5.0, "guidance_interval": (0.2, 5.0)},
    "apg": {"label": "cat", "guidance": 8.0, "apg": 0.2},
    "apg apart": {"label": "cat", "prompt": "", "guidance": {"label": 8.0, "prompt": 3.0}, "apg": 0.0},
    "rescale": {"label": "cat", "guidance": 8.0, "guidance_rescale": 0.7},
    "threshold": {"label": "cat", "threshold": 0.9},
    "blend": {"label": "cat:0.7 | dog:0.3", "prompt": "red | green, apple"},
    "switch": {"prompt": "red >>3 green | apple", "label": "a|b"},
    "wildcards": {"prompt": "{red,green}, {apple,pear}", "label": "cat"},
    "chaos": {"label": "cat", "guidance": 4.0, "chaos": 70.0},
    "tile": {"label": "cat", "tile": True, "size": 24},
    "all": {"label": "cat | dog", "negative": {"prompt": "pear"}, "guidance": 4.0, "guidance_interval": (0, 9.0),
            "apg": 0.3, "guidance_rescale": 0.5, "threshold": 0.95, "chaos": 50.0, "tile": True, "solver": "heun",
            "autoguidance": 1.5, "eta": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_a_file_makes_its_sample_again_bit_by_bit(loaded, tmp_path, name):
    """And with the option off it is another sample; in a batch it is the same but for rounding."""
    alone = loaded.sample(1, seed=3, **OPTIONS[name])
    assert reproduce(save_samples(alone, tmp_path)[0])[1]
    samples = loaded.sample(3, seed=2, **OPTIONS[name])
    words = {k: v for k, v in OPTIONS[name].items() if k in ("label", "prompt", "cond", "size")}
    if "{" in str(words) or "|" in str(words):
        words = {"label": "dog", "prompt": "pear"}
    plain = loaded.sample(3, seed=2, **words)
    assert all(not torch.equal(a.raw, b.raw) for a, b in zip(samples, plain, strict=True))
    torch.testing.assert_close(samples[1].raw, alone[0].raw, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("solver", sampler.SOLVERS)
def test_every_option_works_with_every_solver(loaded, solver):
    asked = {k: v for k, v in OPTIONS["all"].items() if k not in ("solver", "eta")}
    made = loaded.sample(2, solver=solver, steps=3, **asked)
    assert all(torch.isfinite(s.raw).all() for s in made)


def test_more_steps_than_a_student_was_made_for_are_remarked_on(loaded):
    def told(steps: int | None, distilled: dict | None) -> list[str]:
        model = Loaded(loaded.model, {"distilled": distilled})
        return model.remarks(model.request(1, None, None, 0, None, steps=steps))

    two, eight = {"method": "consistency", "steps": 2}, {"method": "mean-flow", "steps": 8}
    assert told(5, two) == ["--steps 5: this student was made for 1 to 4; more help little"]
    assert told(9, eight) == ["--steps 9: this student was made for 1 to 8; more help little"]
    assert not told(4, two) and not told(None, two) and not told(8, eight)
    assert not told(50, {"method": "shrink"}) and not told(50, {"method": "guidance"}) and not told(50, None)


def test_weights_of_one_and_zero_mean_what_they_say(loaded):
    both = {"label": "cat", "prompt": "red", "autoguidance": 1.0, "steps": 3}
    full = loaded.sample(1, guidance=1.0, **both)[0].raw
    ones = loaded.sample(1, guidance={"label": 1.0, "prompt": 1.0}, **both)[0]
    assert torch.equal(full, ones.raw) and sampler.evaluations(ones.recipe) == 3
    without = loaded.sample(1, guidance={"label": 0.0, "prompt": 1.0}, **both)[0]
    assert sampler.evaluations(without.recipe) == 6
    alone = loaded.sample(1, guidance=1.0, **(both | {"label": None, "cond": {"label": [None]}}))[0].raw
    torch.testing.assert_close(without.raw, alone, atol=1e-3, rtol=1e-3)


def test_a_negative_condition_stands_where_none_stood(loaded):
    model, count = loaded.model, 2
    settled = {"guidance": 3.0, "autoguidance": 1.0}
    x, t = torch.randn(count, 1, 16, 16), torch.tensor(0.4, dtype=torch.float64)
    cond, negative = {"prompt": ["red"] * 2, "label": ["cat"] * 2}, {"prompt": ["green", "pear"]}
    with torch.inference_mode():
        found = branches.denoiser(model, settled, cond, negative, [0, 1])(x, t, t)
        full, off = (model.cond(branches.prepare(model, v, count), {}, count) for v in (cond, negative))
        u, c = model.denoiser(x, t, off), model.denoiser(x, t, full)
    torch.testing.assert_close(found, u + 3 * (c - u), atol=1e-4, rtol=1e-4)


def test_blends_are_means_of_denoisers_row_by_row(loaded):
    model = loaded.model
    mix = loaded.request(2, None, ["cat:3 | dog", "dog"], 0, None).cond
    x, t = torch.randn(2, 1, 16, 16), torch.tensor(0.4, dtype=torch.float64)
    with torch.inference_mode():
        found = branches.denoiser(model, {"guidance": 1.0, "autoguidance": 1.0}, mix, {}, [0, 1])(x, t, t)
        cat, dog = (
            model.denoiser(x, t, model.cond(branches.prepare(model, {"label": [v] * 2}, 2), {}, 2)) for v in (0, 1)
        )
    torch.testing.assert_close(found[0], (0.75 * cat + 0.25 * dog)[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[1], dog[1], atol=1e-5, rtol=1e-4)


def test_chaos_lies_between_the_weight_and_none(loaded):
    """0 is the weight itself; at 100 each sample has its own, by its seed."""
    asked = {"label": "cat", "guidance": 6.0, "autoguidance": 1.0, "steps": 1}
    strict, loose = (loaded.sample(4, chaos=c, **asked) for c in (0.0, 100.0))
    free = loaded.sample(4, label="cat", guidance=1.0, autoguidance=1.0, steps=1)
    assert torch.equal(strict[0].raw, loaded.sample(4, **asked)[0].raw)
    shares = []
    for a, b, c in zip(free, loose, strict, strict=True):
        along = c.raw - a.raw
        share = float(((b.raw - a.raw) * along).sum() / along.square().sum())
        torch.testing.assert_close(b.raw, a.raw + share * along, atol=1e-2, rtol=1e-2)  # one step is linear
        shares.append(share)
    assert all(0 <= s <= 1 for s in shares) and np.ptp(shares) > 0.1


def test_wildcards_take_turns_by_seed(loaded):
    words = "{red,green}, {apple,pear}"
    in_turn = loaded.request(None, words, "cat", 0, None)
    assert in_turn.cond["prompt"] == ["red, apple", "red, pear", "green, apple", "green, pear"]
    assert loaded.request(2, words, "cat", 3, None).cond["prompt"] == ["green, pear", "red, apple"]
    by_seed = loaded.request(40, words, "cat", 0, None, wildcards="seed").cond["prompt"]
    assert (
        len(set(by_seed)) == 4
        and by_seed[7:] == loaded.request(33, words, "cat", 7, None, wildcards="seed").cond["prompt"]
    )
    both = loaded.request(None, "{red,green}", "{cat,dog}", 0, None).cond
    assert len(set(zip(both["prompt"], both["label"], strict=True))) == 4


def test_a_file_of_prompts_names_its_samples_by_line(loaded, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("red\n\ngreen | pear\n{red,green}, apple\n")
    samples = loaded.sample(2, prompts=lines, label="cat", steps=2, batch=4)
    paths = save_samples(samples, tmp_path / "out")
    assert [p.stem for p in paths] == [*(f"line-{n:04d}-seed-{s:06d}" for n in (1, 3, 4) for s in (0, 1)), "grid"]
    assert samples[2].caption == "cat, green | pear" and samples[5].recipe["cond"]["prompt"] == "green, apple"
    width, height = Pil.open(paths[-1]).size
    assert height > 1.4 * width  # a row for each line, of two
    again, _ = reproduce(paths[2])
    assert np.abs(np.asarray(Pil.open(again)).astype(int) - samples[2].data[..., 0]).max() <= 1
    rest = loaded.sample(2, prompts=lines, from_line=3, label="cat", steps=2)
    torch.testing.assert_close(rest[-1].raw, samples[-1].raw, atol=1e-4, rtol=1e-4)


def test_tiles_roll_and_the_model_is_left_as_it_was(loaded):
    """Rolling what a tiled network sees rolls what it says, and others may sample from the model meanwhile."""
    model, x = small(weak=False), torch.randn(1, 1, 16, 24)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    twin, t = tiled(model, [(1, 16, 24)]), torch.tensor(0.3, dtype=torch.float64)
    assert [p.data_ptr() for p in twin.parameters()] == [p.data_ptr() for p in model.parameters()]
    cond = model.cond(branches.prepare(model, {"label": ["cat"]}, 1), {}, 1)
    with torch.inference_mode():
        plain, round_ = (m.denoiser(x, t, cond) for m in (model, twin))
        for shift in ((4, 0), (0, 8), (-4, 12)):
            moved = twin.denoiser(x.roll(shift, (2, 3)), t, cond)
            torch.testing.assert_close(moved, round_.roll(shift, (2, 3)), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(
            model.denoiser(x.roll((4, 0), (2, 3)), t, cond), plain.roll((4, 0), (2, 3)), atol=1e-3
        )
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
    alone = [loaded.sample(1, seed=i, label="cat", tile=i % 2 == 1)[0].raw for i in range(4)]
    found: dict[int, torch.Tensor] = {}

    def work(i: int) -> None:
        found[i] = loaded.sample(1, seed=i, label="cat", tile=i % 2 == 1)[0].raw

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[i], alone[i]) for i in range(4))


def test_what_cannot_tile_says_so(loaded):
    with pytest.raises(KakusanError, match="multiples of 4 do: use --size 20"):
        loaded.sample(1, label="cat", tile=True, size=18)
    net = DiT(1, width=16, depth=1, heads=2, vector=24)
    with pytest.raises(KakusanError, match="net/dit has no borders"):
        tiled(small(net), [(1, 16, 16)])


@pytest.mark.parametrize("strength", ["subtle", "strong", 0.01])
def test_variants_are_near_their_picture_and_made_again(loaded, tmp_path, strength):
    """At a noise level of next to nothing they are the picture; made again with it there, and from its recipe."""
    parent = loaded.sample(1, seed=5, label="dog", prompt="red | green", guidance=3.0, steps=6)[0]
    origin = parent.save(tmp_path / "parent.png")
    variants = loaded.vary(origin, 3, strength=strength)
    far = np.mean([np.abs(v.data.astype(int) - parent.data.astype(int)).mean() for v in variants])
    assert (far < 3) if strength == 0.01 else (far > 3 and len({v.data.tobytes() for v in variants}) == 3)
    assert variants[0].recipe["cond"] == parent.recipe["cond"] and variants[0].recipe["guidance"] == 3.0
    path = save_samples(loaded.vary(origin, 1, strength=strength, seed=1), tmp_path / "variants")[0]
    assert reproduce(path)[1]
    origin.unlink()  # its recipe makes it again
    assert reproduce(path)[1]
    again = loaded.vary(variants[0], 1, label="cat", steps=3)[0]
    assert again.label == "cat" and again.recipe["steps"] == 3
    assert reproduce(again.save(tmp_path / "grandchild.png"))[1]


def test_any_other_picture_is_varied_by_a_named_model(loaded, tmp_path):
    picture = tmp_path / "foreign.png"
    Pil.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)).save(picture)
    made = loaded.vary(picture, 1, prompt="red")
    assert made[0].recipe["cond"] == {"prompt": "red"} and made[0].data.shape == (16, 16, 1)
    assert "30 x 40 pixels; it was fitted to the model's 16 x 16" in varying.remark(loaded, picture)
    path = save_samples(made, tmp_path / "out")[0]
    assert reproduce(path)[1]
    Pil.fromarray(np.zeros((40, 30, 3), np.uint8)).save(picture)
    with pytest.raises(KakusanError, match=r"foreign.png has changed; put it back"):
        reproduce(path)
    picture.unlink()
    with pytest.raises(KakusanError, match=r"foreign.png is not there"):
        reproduce(path)
    with pytest.raises(KakusanError, match="no such file"):
        loaded.vary(picture)
    with pytest.raises(KakusanError, match="strength='mild'"):
        loaded.vary(made[0], strength="mild")
    with pytest.raises(KakusanError, match="no argument 'colour'"):
        loaded.vary(made[0], colour=1)


@pytest.mark.parametrize(
    "damage",
    [
        {"cond": {"label": {"mix": [["cat"]]}}}, {"cond": {"label": {}}}, {"cond": 3}, {"guidance": "much"},
        {"guidance": {"label": []}}, {"guidance_interval": 3}, {"from": {}}, {"from": {"picture": 3}}, {"from": 7},
        {"size": "x"}, {"seed": None}, {"negative": ["a"]}, {"chaos": "x"}, {"model": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_recipe_is_one_line(loaded, tmp_path, damage):
    sample = loaded.sample(1, label="cat", steps=1)[0]
    sample.recipe |= damage
    with pytest.raises(KakusanError) as caught:
        reproduce(sample.save(tmp_path / "one.png"))
    assert "\n" not in str(caught.value)


def test_a_chain_of_pictures_that_are_gone_has_an_end(loaded, tmp_path):
    sample = loaded.vary(loaded.sample(1, label="cat", steps=1)[0], 1)[0]
    whole = sample.recipe
    for _ in range(60):
        whole = whole | {"from": whole["from"] | {"recipe": whole}}
    sample.recipe = whole
    with pytest.raises(KakusanError, match="began from more than 50 pictures"):
        reproduce(sample.save(tmp_path / "one.png"))


def test_four_make_a_grid_of_two_by_two(loaded, tmp_path):
    paths = save_samples(loaded.sample(4, label="cat", steps=1), tmp_path)
    width, height = Pil.open(paths[-1]).size
    one = Pil.open(save_samples(loaded.sample(1, label="cat", steps=1), tmp_path / "one")[-1]).size
    assert width == 2 * one[0] - 2 and height == 2 * one[1] - 2


BAD = [
    ({"label": "cat", "guidance": 1e6}, "weights go from -100 to 100"),
    ({"label": "cat", "guidance": float("nan")}, "need a number"),
    ({"label": "cat", "guidance": {"label": 200.0}}, "--guidance label 200: weights go"),
    ({"label": "cat", "guidance": {"labl": 2.0}}, "no condition 'labl'; did you mean 'label'"),
    ({"label": "cat", "guidance": {"prompt": 2.0}}, "no prompt is asked for"),
    ({"label": "cat", "autoguidance": 1e4}, "--autoguidance 10000: weights go"),
    ({"cond": {"promt": "red"}}, "did you mean 'prompt'"),
    ({"negative": {"promt": "red"}}, "did you mean 'prompt'"),
    ({"label": "cat", "guidance": 1.0, "negative": {"label": "dog"}}, "--negative: steers guidance, and there is none"),
    ({"label": "cat", "guidance": 1.0, "apg": 0.0}, "--apg: steers guidance"),
    ({"label": "cat", "guidance": 1.0, "guidance_rescale": 0.5}, "--guidance-rescale: steers guidance"),
    ({"label": "cat", "guidance": 1.0, "guidance_interval": (0.1, 1)}, "--guidance-interval: steers guidance"),
    ({"label": "cat", "guidance": 1.0, "autoguidance": 1.0, "chaos": 10}, "--chaos: loosens guidance"),
    ({"label": "cat", "prompt": "red", "negative": {"label": "dog"}, "guidance": {"label": 1.0, "prompt": 2.0}},
     "add --guidance label=3"),
    ({"label": "cat", "guidance_interval": (2, 1)}, "--guidance-interval 2,1: need LOW,HIGH"),
    ({"label": "cat", "guidance_interval": ["a"]}, "need LOW,HIGH"),
    ({"label": "cat", "guidance_interval": (-1, 1)}, "need LOW,HIGH"),
    ({"label": "cat", "guidance_rescale": 2.0}, "choose a number from 0 to 1"),
    ({"label": "cat", "threshold": 0.1}, "choose a number from 0.5 to 1"),
    ({"label": "cat", "chaos": 101.0}, "--chaos 101: choose a number from 0 to 100"),
    ({"label": "cat", "apg": -1.0}, "--apg -1: choose a number"),
    ({"label": "cat", "n": 0}, "-n 0: ask for 1 to 100,000"),
    ({"label": "cat", "n": 10**9}, "ask for 1 to 100,000"),
    ({"label": "cat", "steps": 10**6}, "choose between 1 and 10000"),
    ({"label": "cat", "size": 10**6}, "sides go from 1 to 4096"),
    ({"label": "cat", "wildcards": "chance"}, "choose turn"),
    ({"label": "cat", "prompt": "{red,green,apple}" * 4}, "the wildcards stand for 81 prompts: say how many"),
    ({"label": ["cat", "dog"], "n": 3}, "2 values for 3 samples"),
    ({"prompt": "a", "prompts": "b.txt"}, "give one of the two"),
    ({"label": " | ".join(["cat"] * 8), "prompt": " | ".join(["red"] * 8)}, "65 branches of a sample; at most 32"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "said"), BAD)
def test_bad_input_is_one_line_with_the_bound_or_the_fix(loaded, asked, said):
    with pytest.raises(KakusanError, match=said) as caught:
        loaded.sample(**asked)
    assert "\n" not in str(caught.value)


def test_an_absurd_size_is_refused_before_memory_is_taken(loaded, monkeypatch):
    monkeypatch.setattr(sampler, "free_memory", lambda device: 1 << 28)
    with pytest.raises(KakusanError, match=r"--size 4096: one sample would need about .* GiB, and 0.2 GiB are free"):
        loaded.sample(1, label="cat", size=4096)


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    return int(stopped.value.code or 0)


def test_the_command_line_says_the_same_words(file, loaded, tmp_path, capsys):
    out = tmp_path / "out"
    words = [
        "--guidance", "label=2", "--guidance", "prompt=3", "--no", "pear", "--guidance-interval", "0.1,9",
        "--apg", "0.5", "--guidance-rescale", "0.5", "--threshold", "0.9", "--chaos", "20", "--tile",
        "--label", "cat", "--seed", "4", "--steps", "2",
    ]  # fmt: skip
    assert call("sample", str(file), "{red,green}, apple", *words, "--out", str(out), "--json") == 0
    files = [Path(f) for f in json.loads(capsys.readouterr().out)["files"]]
    assert [f.name for f in files] == ["seed-000004.png", "seed-000005.png", "grid.png"]
    asked = {
        "guidance": {"label": 2.0, "prompt": 3.0}, "negative": {"prompt": "pear"}, "guidance_interval": (0.1, 9),
        "apg": 0.5, "guidance_rescale": 0.5, "threshold": 0.9, "chaos": 20, "tile": True, "label": "cat", "steps": 2,
    }  # fmt: skip
    same = loaded.sample(2, prompt="{red,green}, apple", seed=4, **asked)
    for path, sample in zip(files, same, strict=False):
        np.testing.assert_array_equal(np.asarray(Pil.open(path)), sample.data[..., 0])
    assert call("vary", str(files[0]), "--strong", "-n", "2") == 0
    grid = Path(capsys.readouterr().out.strip())
    assert grid == out / "seed-000004-strong" / "grid.png" and (grid.parent / "seed-000001.png").exists()
    assert call("vary", str(file), str(files[0]), "-n", "1", "--label", "dog", "--out", str(tmp_path / "dog")) == 0
    bare = tmp_path / "bare.png"
    Pil.open(files[0]).save(bare)
    for bad, said in (
        (["vary", str(files[0]), "--subtle", "--strong"], "choose one of them"),
        (["vary"], "give a picture"),
        (["vary", str(bare)], "carries no recipe; name a model"),
        (["vary", str(tmp_path / "none.png")], "no such file"),
        (["sample", str(file), "red", "--prompts", "x.txt"], "give one of the two"),
        (["sample", str(file), "--no", "pear", "--negative", "prompt=red"], "prompt is given twice"),
        (["sample", str(file), "--guidance", "3", "--guidance", "label=2"], "one number for all"),
    ):
        capsys.readouterr()
        assert call(*bad) == 2
        assert said in capsys.readouterr().err.strip().splitlines()[-1]


def test_what_a_stopped_batch_leaves_is_named_as_a_command(file, tmp_path, capsys, monkeypatch):
    lines = tmp_path / "lines.txt"
    lines.write_text("red\ngreen\napple\n")
    asked = []
    monkeypatch.setattr(Stop, "__call__", lambda self: asked.append(1) or len(asked) > 3)
    words = ["--prompts", str(lines), "-n", "2", "--batch", "3", "--steps", "2", "--out", str(tmp_path / "out")]
    assert call("sample", str(file), *words, "--json", "--guidance", "label=2", "--label", "cat") == 130
    found = json.loads(capsys.readouterr().out)
    assert len(found["files"]) == 4  # three and the grid
    assert "-n 2 --seed 0 --from-line 2" in found["rest"] and "--guidance label=2" in found["rest"]
