"""compare: arms from words, trainings that go on, one page whose text has the figures, refusals of one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pil

from app.standins import ByBrightness, pixels
from kakusan.app.command.show import Progress
from kakusan.app.facade import load
from kakusan.app.judge import arms, compare, gan
from kakusan.app.judge.arms import SCHEDULES, Arm, parse
from kakusan.app.judge.compare import Compared
from kakusan.app.train.claim import claimed
from kakusan.app.train.project import open_project
from kakusan.catalog import build
from kakusan.part import KakusanError
from kakusan.training.stop import Stop

SMALL = ("denoiser.net.width=8", "denoiser.net.blocks=1", "training.batch=4", "gan.batch=4", "encoders.label.dim=8")


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compare, "classifier_of", lambda project, shown: ByBrightness(project.train.classes))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path) -> Path:
    """Discs and squares, in two class folders."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16]
    for i in range(40):
        cx, cy, r = draw.uniform(5, 11, 3)
        near = np.hypot(x - cx, y - cy) < r / 2 if i % 2 else np.maximum(abs(x - cx), abs(y - cy)) < r / 2
        path = tmp_path / "data" / ("disc" if i % 2 else "square") / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Pil.fromarray((near * draw.uniform(100, 250)).astype(np.uint8)).save(path)
    return tmp_path / "data"


def go(data: Path, out: Path, **more) -> Compared:
    given = {"steps": 6, "seeds": 2, "count": 50, "features": pixels, "overrides": SMALL, "device": "cpu"}
    return compare.compare(data, out=out, progress=Progress(quiet=True), **given | more)


def test_a_comparison_from_end_to_end(data, tmp_path, monkeypatch):
    """Three arms and two seeds; stopped inside one, it goes on; what is finished is not trained again."""
    trained = []
    real = arms.train_arm

    def counted(arm, run, *given, **more):
        trained.append((arm.name, more["seed"]))
        if len(trained) == 3:
            more["stop"].request()
        return real(arm, run, *given, **more)

    monkeypatch.setattr(arms, "train_arm", counted)
    stopped = go(data, tmp_path / "out")
    assert stopped.interrupted and stopped.report is None
    done = go(data, tmp_path / "out")
    kinds = ["diffusion", "gan-r3", "gan-classic"]
    assert trained == [*((k, 0) for k in kinds), ("gan-classic", 0), *((k, 1) for k in kinds)]
    assert not done.interrupted and done.report is not None
    result = json.loads((tmp_path / "out" / "result.json").read_text("utf-8"))
    assert [a["name"] for a in result["arms"]] == kinds
    for arm in result["arms"]:
        assert [r["seed"] for r in arm["runs"]] == [0, 1]
        for r in arm["runs"]:
            assert r["state"] in ("steady", "collapsed", "worsened") and len(r["curve"]) > 1
            assert r["score"]["classes"] == 2 and 0 <= r["score"]["accuracy"] <= 1 and r["score"]["covered"] <= 2
            assert r["score"]["count"] == 50 and r["score"]["seconds"] > 0
            assert sorted(r["few"]) == (["4", "8"] if arm["kind"] == "diffusion" else [])
    one, r3, classic = (a["runs"][0] for a in result["arms"])
    assert one["score"]["evaluations"] > 20 and r3["score"]["evaluations"] == classic["score"]["evaluations"] == 1
    assert one["few"]["4"]["evaluations"] < one["few"]["8"]["evaluations"] < one["score"]["evaluations"]
    assert one["score"]["frechet"] != result["arms"][0]["runs"][1]["score"]["frechet"]
    networks = [json.loads((tmp_path / "out" / r["folder"] / "gan.json").read_text()) for r in (r3, classic)]
    assert [n["training"]["loss"] for n in networks] == ["relativistic", "non-saturating"]
    assert all(n["training"]["augment"] for n in networks)  # 40 pictures
    page = done.report.read_text("utf-8")
    for words in ("Stability", "Quality", "Diversity", "Cost of a picture", "Kernel distance while training"):
        assert words in page, words
    for lines in result["words"].values():
        for line in lines:
            assert line.split("`")[0].split("&")[0][:60] in page
    before = (tmp_path / "out" / "arms" / "diffusion" / "seed-0" / "score.json").stat().st_mtime_ns
    for file in (tmp_path / "out").glob("arms/*/*/model.safetensors"):
        file.unlink()  # what is scored needs none
    again = go(data, tmp_path / "out")
    assert len(trained) == 7 and again.result == done.result
    assert (tmp_path / "out" / "arms" / "diffusion" / "seed-0" / "score.json").stat().st_mtime_ns == before
    with pytest.raises(KakusanError, match="other steps"):
        go(data, tmp_path / "out", steps=7)


def test_recipes_are_compared_on_one_network(data, tmp_path):
    done = go(data, tmp_path / "out", arms=["schedule=linear,planned,cosine,flow"], gan=["none"], seeds=1, steps=3)
    names = [a["name"] for a in done.result["arms"]]
    assert sorted(names) == sorted(f"schedule={s}" for s in SCHEDULES) and names[0] == "schedule=linear"
    assert len({a["runs"][0]["summary"]["parameters"] for a in done.result["arms"]}) == 1
    kinds = []
    for a in done.result["arms"]:
        model = load(tmp_path / "out" / a["runs"][0]["folder"], "cpu").model.denoiser
        kinds.append((model.process.kind, model.param.kind))
        assert all(np.isfinite(r["score"]["frechet"]) for r in a["runs"])
    assert kinds == [("process/vp", "param/eps"), ("process/ve", "param/karras"), ("process/vp", "param/eps"),
                     ("process/flow", "param/velocity")]  # fmt: skip
    assert "schedule=flow" in " ".join(done.result["words"]["answer"])


def test_axes_and_gans_are_read():
    assert parse([], ["r3", "classic"]) == [
        Arm("diffusion", "diffusion"), Arm("gan-r3", "gan-r3"), Arm("gan-classic", "gan-classic")
    ]  # fmt: skip
    found = parse(["denoiser.net.mults=[1,2],[1,2,2]", "training.batch=8,16"], [])
    assert [a.overrides for a in found] == [
        ("denoiser.net.mults=[1,2]",), ("denoiser.net.mults=[1,2,2]",), ("training.batch=8",), ("training.batch=16",)
    ]  # fmt: skip
    assert len({a.folder for a in found}) == 4 and all("/" not in a.folder for a in found)


@pytest.mark.parametrize(
    ("axes", "gans", "said"),
    [
        (["schedule=linear,quadratic"], [], "quadratic.*cosine"),
        (["schedule"], [], "NAME=VALUE"),
        (["schedul=linear"], [], "did you mean schedule=linear"),
        (["a.b=1,,2"], [], "NAME=VALUE"),
        (["a.b=1,1"], [], "twice"),
        ([], ["wgan"], "wgan.*r3, classic"),
    ],
)
def test_axes_that_cannot_be_read_are_refused(axes, gans, said):
    with pytest.raises(KakusanError, match=said):
        parse(axes, gans)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"minutes": 1.0}, "give one of the two"),
        ({"seeds": 0}, "--seeds 0"),
        ({"count": 10}, "too few samples"),
        ({"steps": None, "minutes": -1.0}, "--minutes -1"),
        ({"overrides": ("denoiser.net.widht=3",)}, "width"),
        ({"overrides": ("gan.lr=fast",)}, "gan.lr"),
        ({"overrides": ("photos2",)}, "NAME=VALUE"),
        ({"arms": ["training.batch=4,-1"]}, "training.batch=-1"),
        ({"features": "inception-v9"}, "inception-v9"),
        ({"features": lambda pictures: pictures}, "need \\(pictures, numbers\\)"),
    ],
)
def test_what_cannot_be_compared_is_one_line(data, tmp_path, settings, said):
    with pytest.raises(KakusanError, match=said):
        go(data, tmp_path / "out", **settings)


def test_data_that_cannot_be_judged_is_refused(tmp_path):
    np.save(tmp_path / "two.npy", np.random.default_rng(0).normal(size=(30, 8, 8, 2)).astype(np.float32))
    with pytest.raises(KakusanError, match="2 channels and 32 bits"):
        go(tmp_path / "two.npy", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    np.save(tmp_path / "grey.npy", np.arange(30, dtype=np.uint8).repeat(64).reshape(30, 8, 8, 1))
    with pytest.raises(KakusanError, match="is no comparison"):
        go(tmp_path / "grey.npy", tmp_path / "full", overrides=())


@pytest.mark.parametrize("size", [(16, 16), (28, 28), (30, 22), (64, 64)])
@pytest.mark.parametrize("kind", list(gan.GANS))
@pytest.mark.parametrize("wanted", [300_000, 1_800_000])
def test_generators_have_the_parameters_asked_for(kind, size, wanted):
    pair = gan.networks(kind, wanted, 3, size, 10)
    with torch.device("meta"):
        counts = [sum(p.numel() for p in build(spec).parameters()) for spec in pair]
    assert counts[0] == pytest.approx(wanted, rel=0.02) and counts[1] == pytest.approx(wanted, rel=0.1)


@pytest.mark.parametrize("kind", list(gan.GANS))
def test_a_trained_generator_is_one_file_and_draws_by_seed(data, tmp_path, kind):
    project = open_project({"path": str(data)}, Progress(quiet=True))
    with Stop() as stop:
        done = gan.train_gan(
            project, tmp_path / "run", kind, parameters=60_000, steps=5, settings={"batch": 4, "previews": 2}, stop=stop
        )
    assert not done.interrupted and done.summary["steps"] == 5 and done.summary["pictures_seen"] == 20
    model = gan.load_gan(tmp_path / "run" / "model.safetensors")
    assert model.classes == ["disc", "square"]
    many, alone = model.draw(70, seed=3), model.draw(1, seed=72)
    assert many.pictures.shape == (70, 16, 16, 1) and many.pictures.dtype == np.uint8 and many.evaluations == 1
    assert np.abs(many.pictures[69].astype(int) - alone.pictures[0].astype(int)).max() <= 1
    assert many.labels[69] == alone.labels[0] and set(many.labels) == {"disc", "square"}
    assert len(list((tmp_path / "run" / "snapshots").glob("step-*.safetensors"))) == 2
    with pytest.raises(KakusanError, match="not a model"):
        load(tmp_path / "run" / "model.safetensors", "cpu")


def test_a_file_of_something_else_is_no_gan(data, tmp_path):
    done = go(data, tmp_path / "out", seeds=1, steps=2, gan=["none"])
    with pytest.raises(KakusanError, match="'model'"):
        gan.load_gan(done.path / "arms" / "diffusion" / "seed-0" / "model.safetensors")


def test_several_processes_share_the_trainings_and_one_reports(data, tmp_path):
    """Two processes with the same command: every arm is trained once, by either; one of them writes the report."""
    out = tmp_path / "out"
    words = f"""
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {str(Path(__file__).resolve().parents[1])!r})
from app.standins import ByBrightness, pixels
from kakusan.app.judge import arms, compare
from kakusan.app.command.show import Progress
compare.classifier_of = lambda project, shown: ByBrightness(project.train.classes)
done = compare.compare(
    {str(data)!r}, out={str(out)!r}, progress=Progress(quiet=True), steps=6, seeds=2, count=50, features=pixels,
    overrides={SMALL!r}, device="cpu", clock="processor",
)
print(done.report is not None)
"""
    both = [
        subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300) for process in both]
    assert [p.returncode for p in both] == [0, 0], said
    result = json.loads((out / "result.json").read_text("utf-8"))
    assert [len(a["runs"]) for a in result["arms"]] == [2, 2, 2]
    assert "True" in {text.strip() for text, _ in said}
    for arm in result["arms"]:
        for run in arm["runs"]:
            log = (out / run["folder"] / "log.jsonl").read_text("utf-8").splitlines()
            steps = [row["step"] for row in map(json.loads, log) if row["kind"] in ("train", "adversarial")]
            assert steps == sorted(set(steps)) and steps[-1] == 6  # trained once, by one process
    assert result["overrides"][-2:] == ["training.clock=processor", "gan.clock=processor"]


def test_a_claim_ends_with_its_block(tmp_path):
    with claimed(tmp_path / "run") as mine:
        assert mine
        with claimed(tmp_path / "run") as again:
            assert not again
        with claimed(tmp_path / "other") as other:
            assert other
    with claimed(tmp_path / "run") as mine:
        assert mine
