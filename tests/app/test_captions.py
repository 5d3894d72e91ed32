"""From captioned pictures to pictures from words: trained, drawn, remarked on, made again, checked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kakusan.app import cli, facade
from kakusan.app.command.show import Progress
from kakusan.app.draw.loaded import load
from kakusan.app.draw.samples import save_samples
from kakusan.app.judge.checkwords import advice
from kakusan.app.judge.datacheck import check
from kakusan.app.train import recipe
from kakusan.app.train.project import Project, open_project
from kakusan.part import KakusanError

SMALL = [
    "denoiser.net.width=8", "denoiser.net.blocks=1", "training.batch=4", "training.previews=1",
    "training.precision=fp32", "encoders.prompt.depth=1", "data.augment=false",
]  # fmt: skip


@pytest.fixture(autouse=True)
def quiet(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path_factory.getbasetemp() / "captions-cache"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pictures(folder: Path, labelled: bool = False) -> Path:
    """24 plain pictures, red or blue as their captions say; one has none."""
    draw = np.random.default_rng(0)
    for i in range(24):
        name, colour = (("red", (200, 30, 30)), ("blue", (30, 30, 200)))[i % 2]
        path = folder / (("x", "y")[i // 12] if labelled else "") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        a = np.clip(np.array(colour) + draw.integers(-25, 25, (8, 8, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(a).save(path)
        if i != 5:
            path.with_suffix(".txt").write_text(f"a {name} picture\n{name} (plain)\n")
    return folder


def train(data: Path, out: Path, *more: str, **options) -> facade.Trained:
    return facade.train(
        data, steps=3, out=out, overrides=[*SMALL, *more], progress=Progress(quiet=True), device="cpu", **options
    )


def opened(data: Path, **more) -> Project:
    return open_project({"path": str(data), **more}, Progress(quiet=True))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("words")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAKUSAN_CACHE", str(root / "cache"))
        return train(pictures(root / "data"), root / "run").run


def test_captions_give_a_model_that_reads_words(run):
    tree = recipe.read(run / "recipe.toml")
    assert tree["model"]["encoders"]["prompt"]["kind"] == "condition/text"
    net = tree["model"]["denoiser"]["net"]
    assert net["tokens"] == tree["model"]["encoders"]["prompt"]["tokens"] and net["vector"] == 64
    assert tree["model"]["defaults"]["guidance"] == 2
    page = (run / "report.html").read_text("utf-8")
    assert "captions of pictures kept aside" in page and "(plain)" not in page
    assert ">a red picture<" in page or ">a blue picture<" in page


def test_prompts_are_drawn_recorded_and_reproduced(run, tmp_path):
    model = load(run, "cpu")
    red = model.sample(2, prompt="a (red:1.2) picture", steps=3)
    assert [s.caption for s in red] == ["a (red:1.2) picture"] * 2 and red[0].recipe["guidance"] == 2
    paths = facade.save_samples(red, tmp_path)
    assert facade.reproduce(paths[0])[1]
    for other in ("a blue picture", "a (red:2) picture"):
        assert not torch.equal(model.sample(1, prompt=other, steps=3)[0].raw, red[0].raw)
    each = model.sample(2, cond={"prompt": ["a blue picture", "a red picture"]}, steps=3)
    assert [s.caption for s in each] == ["a blue picture", "a red picture"]
    with pytest.raises(KakusanError, match="no other half"):
        model.sample(1, prompt="a (red picture")


def test_without_a_prompt_it_is_unconditional_and_says_so(run):
    model = load(run, "cpu")
    nothing, empty = model.sample(1, steps=3)[0], model.sample(1, prompt="", steps=3, guidance=1.0)[0]
    assert torch.allclose(nothing.raw, empty.raw, atol=1e-5)
    assert nothing.recipe["guidance"] == 1 and nothing.caption == ""

    def said(prompt):
        return model.remarks(model.request(1, prompt, None, 0, None))

    assert "unconditionally" in said(None)[0] and "unconditionally" in said(" ")[0]
    assert said("a red qwzx") == said("a red qwzx | qwzx") == ["'qwzx' is unknown to this model's vocabulary"]


def test_edits_and_variants_say_it_too(run, tmp_path, capsys):
    picture = save_samples(load(run, "cpu").sample(1, prompt="a red picture", steps=2), tmp_path / "s")[0]
    for words in (["edit", run, picture, "a qwzx"], ["vary", run, picture, "-n", "1", "--prompt", "a qwzx"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main([*map(str, words), "--steps", "2", "--out", str(tmp_path / "o"), "--device", "cpu"])
        assert not stopped.value.code
        assert "'qwzx' is unknown to this model's vocabulary" in capsys.readouterr().err, words


def test_the_command_line_says_it(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["sample", str(run), "a red qwzx", "--steps", "2", "--out", str(tmp_path / "o"), "--device", "cpu"])
    assert not stopped.value.code
    said = capsys.readouterr()
    assert "'qwzx' is unknown to this model's vocabulary" in said.err and said.out.strip().endswith("grid.png")


def test_captions_can_be_left_unread(run, tmp_path):
    assert opened(run.parent / "data", captions="none").facts.vocabulary == ""
    with pytest.raises(KakusanError, match="--captions maybe"):
        opened(run.parent / "data", captions="maybe")


def test_held_out_captions_are_what_is_drawn_at_the_end(run):
    project = opened(run.parent / "data", held_out=0.2)
    asked = project.asked(7)["prompt"]
    held = {project.held.texts[i] for i in range(len(project.held))}
    assert len(asked) == 7 and set(asked) <= held
    assert project.asked(2)["prompt"][0] in held


def test_labels_and_captions_together(tmp_path):
    done = train(pictures(tmp_path / "data", labelled=True), tmp_path / "run")
    model = done.load("cpu")
    assert set(model.model.encoders) == {"label", "prompt"} and model.classes == ["x", "y"]
    both = model.sample(1, prompt="a red picture", label="x", steps=2)[0]
    words, label, none = (model.sample(1, steps=2, **more)[0] for more in (
        {"prompt": "a red picture"}, {"label": "x"}, {},
    ))  # fmt: skip
    assert both.caption == "x, a red picture" and words.label is None and label.caption == "x"
    assert none.label in ("x", "y")  # as of any model with classes
    raw = [s.raw for s in (both, words, label)]
    assert not any(torch.equal(a, b) for i, a in enumerate(raw) for b in raw[:i])
    assert re.search(">[xy], a (red|blue) picture<", (done.run / "report.html").read_text("utf-8"))


def test_training_on_keeps_the_numbers_of_the_words(run, tmp_path):
    """Another data set's captions are read with the vocabulary that the weights know."""
    other = pictures(tmp_path / "data")
    (other / "00.txt").write_text("something entirely different\nsomething else\n")
    done = train(other, tmp_path / "run", start=run)
    first, second = (recipe.read(r / "recipe.toml")["model"]["encoders"]["prompt"] for r in (run, done.run))
    assert first["vocabulary"] == second["vocabulary"]


def test_what_has_no_caption_and_what_no_picture_is_listed(run, tmp_path):
    data = pictures(tmp_path / "data")
    (data / "gone.txt").write_text("x")
    found = check(data)
    assert found["uncaptioned"] == {"count": 1, "first": ["05.png"]}
    assert found["astray"] == {"count": 1, "first": ["gone.txt"]}
    lines = "\n".join(advice(found))
    assert "1 pictures have no caption" in lines and "05.png" in lines
    assert "1 captions belong to no picture: gone.txt" in lines
    assert json.dumps(found)


def test_ports_fit_what_the_recipe_says():
    text = {"kind": "condition/text", "vocabulary": "a b"}
    net = {"kind": "net/unet", "channels": 1}
    tree = {"model": {"denoiser": {"net": net}, "encoders": {"prompt": text, "label": {"kind": "condition/label"}}}}
    fitted = recipe.fit_ports(tree)["model"]["denoiser"]["net"]
    assert fitted["tokens"] == 128 and fitted["vector"] == 64 + 64  # their defaults
    tree["model"]["encoders"]["tags"] = text | {"tokens": 64}
    with pytest.raises(KakusanError, match="prompt 128, tags 64"):
        recipe.fit_ports(tree)


def test_a_field_of_the_metadata_is_a_condition_of_its_own_name(tmp_path, capsys):
    data = pictures(tmp_path / "data")
    lines = [{"file_name": f"{i:02d}.png", "text": "a picture", "style": ("flat", "3d")[i % 2]} for i in range(24)]
    (data / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = train(data, tmp_path / "run", labels="style").run
    model = load(out, "cpu")
    assert model.classes == ["3d", "flat"]
    sample = ["sample", str(out), "a picture", "--steps", "3", "--out", str(tmp_path / "drawn")]
    with pytest.raises(SystemExit) as ended:
        cli.main([*sample, "--style", "3d", "--guidance", "style=2", "--guidance", "prompt=3", "--json"])
    assert ended.value.code == 0
    file = Path(json.loads(capsys.readouterr().out.splitlines()[-1])["files"][0])
    again = facade.reproduce(file)
    assert again[1]
    drawn = model.sample(1, prompt="a picture", cond={"style": "3d"}, guidance={"style": 2, "prompt": 3}, steps=3)
    assert drawn[0].recipe["cond"]["label"] == "3d"
    with pytest.raises(SystemExit):
        cli.main([*sample, "--style", "glat"])
    assert "unknown style 'glat': did you mean 'flat'?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*sample, "--styling", "flat"])
    assert "no condition 'styling'; did you mean 'style'?" in capsys.readouterr().err
