"""Models by name: what a name means beside runs and files; cards; recipes that hold elsewhere; files that stay."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from kakusan.app import cli, facade
from kakusan.app.deploy.distil import distill
from kakusan.app.draw import shipped
from kakusan.app.draw.upscale import enlarged
from kakusan.app.judge.evaluate import evaluate
from kakusan.app.train.rundir import find_model
from kakusan.catalog import build
from kakusan.checkpoint import read_info, save_model
from kakusan.domains.picture import read_recipe
from kakusan.part import KakusanError

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
CARD = "# tiny\n\nDraws four grey pixels,\nbadly.\n\nLicence: none.\n"
LOW = {"kind": "condition/low-resolution", "channels": 3, "factor": 2, "dim": 4}


def spec(**more) -> dict:
    net = {"kind": "net/unet", "channels": 3, "width": 8, "mults": [1, 1], "attention": [], "blocks": 1}
    net |= {"norm": "pixel", "field": 3, "vector": 4} if more.get("encoders") else {}
    denoiser = {"kind": "denoiser", "net": net, "process": {"kind": "process/ve"}, "param": {"kind": "param/karras"}}
    domain = {"kind": "domain/image", "size": [8, 8], "mode": "RGB"}
    return {"kind": "model", "denoiser": denoiser | {"space": {"kind": "space/flat"}}, "domain": domain,
            "defaults": {"steps": 2}} | more  # fmt: skip


@pytest.fixture
def models(tmp_path, monkeypatch) -> Path:
    """A folder in place of the package's, with two models; the working folder is empty."""
    folder = tmp_path / "package" / "models"
    save_model(folder / "tiny.safetensors", build(spec()), {"licence": "CC0-1.0"})
    save_model(folder / "tiny-upscale.safetensors", build(spec(encoders={"low": LOW})), {})
    (folder / "tiny.md").write_text(CARD)
    monkeypatch.setattr(shipped, "MODELS", folder)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


def test_a_name_means_what_ships_unless_a_run_or_a_file_has_it(models):
    ours = models / "tiny.safetensors"
    assert find_model("tiny") == ours
    Path("tiny").mkdir()
    assert find_model("tiny") == ours, "a folder that is no run"
    with pytest.raises(KakusanError, match=r"^tiny: a folder without model\.safetensors"):
        find_model("./tiny")
    with pytest.raises(KakusanError, match="a folder without"):
        find_model("tiny/")
    Path("tiny/recipe.toml").touch()
    with pytest.raises(KakusanError, match="no finished model yet"):
        find_model("tiny")
    Path("tiny/model.safetensors").touch()
    assert find_model("tiny") == Path("tiny/model.safetensors")
    Path("tiny-upscale").touch()
    assert find_model("tiny-upscale") == Path("tiny-upscale")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("tinny", "tinny: no such model; did you mean 'tiny'?"),
        ("photoz", "photoz: no such model; did you mean 'runs/photos'?"),
        ("runs/photoz", "runs/photoz: no such model; did you mean 'runs/photos'?"),
        ("./tiny", "./tiny: no such model; give a run, a model file or the name of a model that ships: tiny, "
                   "tiny-upscale"),
        ("elephant", "elephant: no such model; there is no run or file of this name, and none that ships has it "
                     "(tiny, tiny-upscale)"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_one_line_with_what_is_near(models, model, said):
    Path("runs/photos").mkdir(parents=True)
    Path("runs/photos/recipe.toml").touch()
    with pytest.raises(KakusanError) as error:
        find_model(model)
    assert str(error.value) == said


def test_where_nothing_ships_that_is_said(models, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(shipped, "MODELS", tmp_path / "none")
    assert shipped.named() == ""
    with pytest.raises(SystemExit) as done:
        cli.main(["sample", "icons", "a red apple"])
    line = capsys.readouterr().err.strip()
    assert done.value.code == 2 and "\n" not in line and "icons: no such model" in line and "none ships yet" in line


def test_samples_name_the_model_and_are_made_again_where_the_package_lies_elsewhere(models, tmp_path, monkeypatch):
    model = facade.load("tiny", "cpu")
    samples = enlarged(model.sample(1), facade.load("tiny-upscale", "cpu"))
    file = facade.save_samples(samples, "out")[0]
    made = read_recipe(file)
    assert made is not None and made["file"] == "tiny" and made["upscaled"]["file"] == "tiny-upscale"
    assert shipped.called(None) == "" and shipped.called("runs/x/model.safetensors") == "runs/x/model.safetensors"
    moved = models.rename(tmp_path / "elsewhere")
    monkeypatch.setattr(shipped, "MODELS", moved)
    assert facade.reproduce(file)[1]


def test_upscale_alone_means_the_model_that_ships_for_it(models, capsys):
    assert cli._run(["sample", "tiny", "-n", "1", "--out", "out", "--upscale"]) == 0
    made = read_recipe(Path("out/seed-000000.png"))
    assert made is not None and made["upscaled"]["file"] == "tiny-upscale" and made["file"] == "tiny"
    Path("auto").mkdir()  # a folder of that name is not what was meant
    assert shipped.upscaler("tiny", "auto") == "tiny-upscale"
    with pytest.raises(KakusanError, match=r"--upscale: no model ships that enlarges what ./mine draws"):
        shipped.upscaler("./mine", "auto")
    assert shipped.upscaler("./mine", "x4") == "x4"


def test_info_begins_with_the_first_paragraph_of_the_card(models, capsys):
    for words in (["info", "tiny"], ["info", "tiny-upscale"], ["info", "tiny", "--json"]):
        with pytest.raises(SystemExit) as done:
            cli.main(words)
        assert done.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Draws four grey pixels, badly." and lines[1] == "" and lines[2].startswith("path ")
    assert sum(line.startswith("path ") for line in lines) == 2 and not any("card" in line for line in lines[:-1])
    assert json.loads(lines[-1])["card"] == lines[0]
    (models.parent / "tiny.md").write_text(CARD)
    assert shipped.summary(models.parent / "tiny.safetensors") == "", "a text beside some other model is no card"


def test_what_ships_is_not_written_to(models):
    before = (models / "tiny.safetensors").read_bytes()
    with pytest.raises(KakusanError, match="--set-default: tiny ships with kakusan and stays as it is; give a copy"):
        evaluate("tiny", "data", set_default=True)
    with pytest.raises(KakusanError, match="--choose-ema: tiny ships"):
        evaluate("tiny", "data", choose_ema=True)
    with pytest.raises(KakusanError, match="--set-default: tiny ships"):
        distill("tiny", None, method="tune", count=0, set_default=True)
    assert (models / "tiny.safetensors").read_bytes() == before


def missing(folder: Path, notice: str, page: str) -> list[str]:
    """What the models in a folder lack to ship."""
    found = []
    for file in sorted(folder.glob("*.safetensors")):
        name, info = file.stem, read_info(file)["info"]
        card = file.with_suffix(".md")
        found += [] if card.is_file() and len(card.read_text()) > 400 else [f"{name}: a card"]
        found += [] if info.get("licence") else [f"{name}: a licence"]
        found += [] if re.search(rf"\b{name}\.safetensors", notice) else [f"{name}: a section in NOTICE"]
        found += [] if f"| `{name}` |" in page else [f"{name}: a row in docs/how-to/shipped-models.md"]
        found += [] if file.stat().st_size <= 20_000_000 else [f"{name}: 20 MB at most"]
    return found


def test_what_ships_has_a_card_a_licence_a_notice_and_a_line_in_the_docs(models):
    notice = (ROOT / "NOTICE").read_text("utf-8")
    page = (ROOT / "docs" / "how-to" / "shipped-models.md").read_text("utf-8")
    assert len(missing(models, notice, page)) == 7, "two cards, a licence, two sections, two rows"
    assert missing(ROOT / "src" / "kakusan" / "models", notice, page) == []


def test_weights_and_cards_go_into_the_package():
    """Hatchling takes all of the package's folder but what Git ignores and what pyproject excludes."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        target = tomllib.load(file)["tool"]["hatch"]["build"]
    assert target == {"targets": {"wheel": {"packages": ["src/kakusan"]}}}
    if (ROOT / ".git").exists():
        asked = [f"src/kakusan/models/{name}" for name in ("icons.safetensors", "icons.md")]
        ignored = subprocess.run(["git", "check-ignore", *asked], cwd=ROOT, capture_output=True, text=True)
        assert ignored.stdout == "" and ignored.returncode == 1
