"""Fine-tuning: what the model decides, adapters and their weights, what is kept, exact resume, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import kakusan
from kakusan.app import cli, facade
from kakusan.app.command.show import Progress
from kakusan.app.draw.loaded import Loaded, load
from kakusan.app.draw.samples import reproduce, save_samples
from kakusan.app.train import adapters, recipe
from kakusan.catalog import build
from kakusan.part import KakusanError
from kakusan.training import loop, state

pytestmark = pytest.mark.usefixtures("alone")

SMALL = ["training.batch=4", "training.previews=0", "training.precision=fp32", "training.log_every=1"]
NET = ["denoiser.net.width=8", "denoiser.net.blocks=1", "encoders.prompt.depth=1", "data.augment=false"]


class Said(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def note(self, words: str) -> None:
        self.lines.append(words)


def pictures(folder: Path, classes: tuple[str, ...], count: int, side: int = 8, mode: str = "L") -> Path:
    """Plain pictures, in a folder for each class."""
    draw = np.random.default_rng(len(classes) + side)
    for i in range(count):
        path = folder / classes[i % len(classes)] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        a = draw.integers(0, 255, (side, side, 3) if mode == "RGB" else (side, side)).astype(np.uint8)
        Image.fromarray(a).save(path)
    return folder


def train(data: Path, out: Path, *more: str, steps: int | None = 3, **options: Any) -> facade.Trained:
    given = {"progress": Progress(quiet=True), "device": "cpu", "overrides": [*SMALL, *more]} | options
    return facade.train(data, steps=steps, out=out, **given)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A model of two classes and of words."""
    root = tmp_path_factory.mktemp("base")
    data = pictures(root / "data", ("Cup", "mug"), 20)
    for path in data.rglob("*.png"):
        path.with_suffix(".txt").write_text(f"a photo of a {path.parent.name.lower()}")
    return train(data, root / "base", *NET).run


@pytest.fixture(scope="module")
def mine(base, tmp_path_factory) -> Path:
    """Adapters of it, of large colour pictures without captions, made to draw something else at all."""
    root = tmp_path_factory.mktemp("mine")
    said = Said()
    data = pictures(root / "data", ("cup", "MUG"), 5, side=12, mode="RGB")
    more = ["optim.lr=0.3", "training.warmup=0"]
    asked = {"start": base, "prompt": "a photo of sks mug", "progress": said, "overrides": [*SMALL, *more]}
    done = train(data, root / "run", **asked)
    assert done.path == done.run / "lora.safetensors" and not (done.run / "model.safetensors").exists()
    assert "the pictures are RGB of 8 bits and are made L of 8 bits, as the model draws" in said.lines
    return done.run


def raw(model: Loaded, **more: Any) -> torch.Tensor:
    samples = model.sample(2, prompt="a photo of a mug", seed=3, steps=3, **more)
    return torch.stack([s.raw for s in samples if s.raw is not None])


def test_the_model_decides_what_its_data_are(base, mine):
    ours, theirs = recipe.read(mine / "recipe.toml"), recipe.read(base / "recipe.toml")
    one, other = (build(tree["model"], "model").spec() for tree in (ours, theirs))
    assert one == other
    assert ours["training"]["adapters"] == {"kind": "adapters/lora", "rank": 8, "alpha": 8.0}
    assert json.loads((mine / "environment.json").read_text())["base"]["name"] == "base"
    found = adapters.read(mine)
    assert found.base["hash"] == kakusan.load(base, "cpu").info()["hash"] and found.info["data"]["pictures"] == 5
    assert (mine / "lora.safetensors").stat().st_size < (base / "model.safetensors").stat().st_size
    assert found.info["training"]["parameters"] == sum(t.numel() for t in found.tensors.values())


def test_weights_of_adapters(base, mine):
    plain = raw(load(base, "cpu"))
    none, half, whole = (raw(load(base, "cpu", lora=f"{mine}:{w}")) for w in ("0", "0.5", "1"))
    assert torch.equal(none, plain)
    assert not torch.allclose(whole, plain, atol=1e-3)
    assert 0 < (half - plain).norm() < (whole - plain).norm()
    assert torch.equal(raw(load(base, "cpu", lora=mine)), whole) and torch.equal(raw(load(mine, "cpu")), whole)
    stacked = raw(load(base, "cpu", lora=[f"{mine}:0.25", f"{mine / 'lora.safetensors'}:0.75"]))
    assert torch.allclose(stacked, whole, atol=1e-4)


def test_a_sample_knows_its_adapters_and_is_made_again(base, mine, tmp_path, capsys):
    run = tmp_path / "moved"
    shutil.copytree(mine, run)
    words = ["sample", str(base), "a mug", "--lora", f"{run}:0.8", "--lora", f"{mine}:0.1", "--steps", "2", "--json"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--out", str(tmp_path / "out"), "--device", "cpu"])
    assert ended.value.code == 0
    file = Path(json.loads(capsys.readouterr().out.splitlines()[-1])["files"][0])
    assert reproduce(file)[1]
    words = ["edit", str(base), str(file), "--strength", "0.5", "--lora", f"{run}:0.8", "--steps", "2"]
    assert cli._run([*words, "--device", "cpu", "--out", str(tmp_path / "edits")]) == 0
    (edit,) = (tmp_path / "edits").glob("*.png")
    alike = load(base, "cpu", lora=f"{run}:0.8").edit(file, strength=0.5, steps=2)[0]
    assert np.array_equal(np.asarray(Image.open(edit)), alike.data[..., 0]) and reproduce(edit)[1]
    own = save_samples(load(run, "cpu").sample(1, steps=2), tmp_path / "own")[0]
    assert reproduce(own)[1]
    shutil.copy(base / "model.safetensors", run / "lora.safetensors")
    with pytest.raises(KakusanError, match="holds no adapters"):
        reproduce(file)
    (run / "lora.safetensors").unlink()
    with pytest.raises(KakusanError, match="not there any more"):
        reproduce(file)


def stopped(monkeypatch: pytest.MonkeyPatch, at: int, step: Any) -> None:
    """Do a training that is asked to stop at a step."""
    real = loop.run

    def broken(*given: Any, **options: Any) -> Any:
        given[5].on_log = lambda row: options["stop"].request() if row["step"] == at else None
        return real(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "run", broken)
        assert step().interrupted


def test_kept_samples_and_exact_resume(base, tmp_path, monkeypatch):
    data = pictures(tmp_path / "data", ("x",), 5)
    given: dict[str, Any] = {
        "start": base,
        "prompt": "sks",
        "label": "cup",
        "keep": [str(tmp_path / "kept.txt"), "a cup", "6"],
        "steps": 4,
    }
    given |= {"lora": 2, "overrides": [*SMALL, "training.batch=8", "defaults.steps=2"]}
    (tmp_path / "kept.txt").write_text("a mug\n\n")
    straight = train(data, tmp_path / "straight", **given)
    assert recipe.read(straight.run / "recipe.toml")["data"]["keep"] == ["a mug", "a cup", "6"]
    stopped(monkeypatch, 2, lambda: train(data, tmp_path / "out", **given))
    before = (tmp_path / "out" / "kept.safetensors").read_bytes()
    done = facade.resume(tmp_path / "out", progress=Progress(quiet=True))
    assert done.path == tmp_path / "out" / "lora.safetensors" and not done.interrupted
    assert before == (done.run / "kept.safetensors").read_bytes() == (straight.run / "kept.safetensors").read_bytes()
    one, other = (state.load(r / "state", pytest.fail) for r in (straight.run, done.run))
    for group, tensors in one.groups.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other.groups[group][name]), name
    assert adapters.read(straight.run).hash == adapters.read(done.run).hash
    assert len(adapters.read(done.run).tensors) == len(adapters.read(straight.run).tensors) > 0
    with pytest.raises(KakusanError, match="these adapters are finished"):
        facade.resume(done.run)
    other_base = tmp_path / "other"
    shutil.copytree(base, other_base)
    with pytest.raises(KakusanError, match="holds adapters, no whole model"):
        facade.model_info(done.run)


def test_kept_samples_are_what_the_model_drew(base, tmp_path):
    """They are the samples that the model draws for the same words and seeds."""
    from kakusan.app.train import keeping
    from kakusan.app.train.rundir import RunDir

    model = load(base, "cpu")
    run = RunDir(tmp_path)
    words = ["a photo of a {mug} (big)", "3"]
    assert keeping.draw(run, model, words, 5, model.domain.size, lambda made, of: None, lambda: False)
    kept = keeping.read(run, words, model.model, 5)
    request = keeping.asked(model.model, words, 5)
    assert kept.cond["prompt"] == ["a photo of a {mug} (big)"] * 3 and kept.cond["label"] == request.cond["label"]
    assert kept.x0.shape == (3, 1, 8, 8) and not torch.equal(kept.x0[0], kept.x0[1])
    drawn = model.sample(
        1, seed=request.seeds[1], prompt=r"a photo of a \\\{mug\\\} \(big\)", label=request.cond["label"][1]
    )
    assert torch.allclose(drawn[0].raw, kept.x0[1], atol=1e-4)
    assert not keeping.draw(run, model, words, 5, model.domain.size, lambda made, of: None, lambda: True)


def test_all_weights_are_trained_where_that_is_asked_for(base, tmp_path):
    said = Said()
    data = pictures(tmp_path / "data", ("cup", "mug"), 6)
    done = train(data, tmp_path / "run", start=base, lora=0, progress=said)
    assert done.path == done.run / "model.safetensors"
    tree = recipe.read(done.run / "recipe.toml")
    assert "adapters" not in tree["training"] and tree["training"]["optim"]["lr"] == 1e-3
    assert done.load("cpu").classes == ["Cup", "mug"]
    assert any("have no captions, and the model reads words" in line for line in said.lines)
    again = train(base.parent / "data", tmp_path / "on", start=base)
    assert again.path == again.run / "model.safetensors"  # the same data: training goes on
    assert recipe.read(again.run / "recipe.toml")["training"]["optim"]["lr"] == 0.01


def test_bad_input_is_one_clear_line(base, mine, tmp_path, capsys):
    data, other = pictures(tmp_path / "data", ("cup", "mugs"), 6), pictures(tmp_path / "one", ("x",), 6)
    asked: dict[str, list[Any]] = {
        "'mugs' is no label of the model to start from (nearest: mug); rename the folder": [data, "--from", base],
        "--label 'mog' is no label of the model to start from (nearest: mug)": [
            other, "--from", base, "--label", "mog"
        ],
        "--prompt a b: is for training that starts from a model": [other, "--prompt", "a b"],
        "--lora 4: is for training that starts from a model": [other, "--lora", 4],
        "--lora -1: a rank of 1 or more": [other, "--from", base, "--lora", -1],
        "rank=9999": [other, "--from", base, "--lora", 9999],
        "--prompt: is empty": [other, "--from", base, "--prompt", " "],
        "--keep gone.txt: no such file": [other, "--from", base, "--keep", "gone.txt"],
        "--keep 0: keep between": [other, "--from", base, "--keep", 0],
        "--keep 5 and --keep 6: say once": [other, "--from", base, "--keep", 5, "--keep", 6],
        "no such model": [other, "--from", tmp_path / "none"],
        "holds adapters, no whole model": [other, "--from", mine],
        "--masks is learnt by all weights": [other, "--from", base, "--masks", "--lora", 2],
        "adapters need its very network": [other, "--from", base, "denoiser.net.width=12"],
    }  # fmt: skip
    for said, words in asked.items():
        one_line(capsys, said, ["train", *words, "--steps", 2, "-o", tmp_path / "out"])
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    own = {
        "no such file": f"{tmp_path / 'none'}:0.5",
        "a folder without lora.safetensors": data,
        "holds no adapters of kakusan": base / "model.safetensors",
        "the weight is 1000": f"{mine}:1000",
    }
    for said, lora in own.items():
        one_line(capsys, said, ["sample", base, "--lora", lora, "-o", tmp_path / "out"])
    damaged = tmp_path / "lora.safetensors"
    data_ = bytearray((mine / "lora.safetensors").read_bytes())
    data_[-3] ^= 1
    damaged.write_bytes(data_)
    one_line(capsys, "damaged since it was written", ["sample", base, "--lora", damaged, "-o", tmp_path / "out"])
    wrong = train(other, tmp_path / "wrong", *NET[:2], NET[3], steps=1).run
    one_line(capsys, "was trained from base (", ["sample", wrong, "--lora", mine, "-o", tmp_path / "out"])
    assert not (tmp_path / "out").exists()


def one_line(capsys: pytest.CaptureFixture[str], said: str, words: list[Any]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*map(str, words), "--device", "cpu"])
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("kakusan:")]
    assert ended.value.code == 2 and not out and len(lines) == 1 and said in lines[0], (said, err)
