"""evaluate: every section filled from a real small model, figures side by side, refusals of one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pil

from app.standins import ByBrightness, pixels
from kakusan.app import facade
from kakusan.app.command.show import Progress
from kakusan.app.judge import emachoice, ground, stepcurve
from kakusan.app.judge.evaluate import Evaluated, evaluate
from kakusan.app.judge.stepcurve import Point, cheapest
from kakusan.checkpoint import load_model, read_info, save_model
from kakusan.conditions.label import Label
from kakusan.core.model import Model
from kakusan.part import KakusanError
from kakusan.training.stop import Stop

SMALL = ["denoiser.net.width=8", "denoiser.net.blocks=1", "training.batch=8", "encoders.label.dim=8"]


def written(folder: Path, count: int = 120, seed: int = 0, size: int = 16, mode: str = "L") -> Path:
    """Discs and squares, in two class folders."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] * 16 / size
    for i in range(count):
        cx, cy, r = draw.uniform(5, 11, 3)
        near = np.hypot(x - cx, y - cy) < r / 2 if i % 2 else np.maximum(abs(x - cx), abs(y - cy)) < r / 2
        path = folder / ("disc" if i % 2 else "square") / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Pil.fromarray((near * draw.uniform(100, 250)).astype(np.uint8)).convert(mode).save(path)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """A run of a few steps and its data."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAKUSAN_CACHE", str(root / "cache"))
        data = written(root / "data")
        facade.train(
            data, steps=12, out=root / "run", overrides=[*SMALL, "data.held_out=0.3"], device="cpu",
            progress=Progress(quiet=True),
        )  # fmt: skip
    return root / "run", data


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ground, "classifier_of", lambda project, shown: ByBrightness(project.train.classes))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def go(model, data, **more) -> Evaluated:
    given = {"count": 60, "steps": 3, "features": pixels, "device": "cpu", "likelihood": False}
    return evaluate(model, data, progress=Progress(quiet=True), **given | more)


def test_every_section_is_filled(trained, tmp_path):
    """Figures with intervals, classes, likelihood, copies among the very pictures trained on, a page with all."""
    run, data = trained
    done = go(run, data, out=tmp_path / "out", likelihood=True)
    assert not done.interrupted and done.report is not None
    result = json.loads((tmp_path / "out" / "result.json").read_text("utf-8"))
    assert result == json.loads(json.dumps(done.result))
    (row,) = result["models"]
    for name in ("frechet", "frechet_infinity", "kernel", "precision", "recall", "density", "coverage", "two_sample"):
        figure = row["figures"][name]
        assert figure["low"] <= figure["value"] <= figure["high"] and figure["method"], name
    assert row["stamp"]["real"] == 84 and row["stamp"]["samples"] == 60  # 30% of 120 are held out
    assert row["sampling"]["steps"] == 3 and row["seen"] is True
    assert {c["class"] for c in row["classes"]} == {"disc", "square"}
    assert all("kernel" in c for c in row["classes"] if min(c["real"], c["drawn"]) >= 20)
    assert 0 <= row["labels"]["accuracy"]["value"] <= 1 and row["labels"]["classifier"]["value"] == 0.5
    assert row["copies"]["verdict"] != "unknown" and row["copies"]["among"] == 84
    assert row["likelihood"]["error"] > 0 and set(row["likelihood"]["bounds"]) == {"unseen", "seen"}
    bound = row["likelihood"]["bounds"]["seen"]
    total = bound["prior"] + bound["reconstruction"] + sum(v["bits"] for v in bound["levels"])
    assert bound["bits"] == pytest.approx(total)
    page = done.report.read_text("utf-8")
    for words in ("Distances", "Classes", "Copies of training pictures", "Likelihood", "Protocol stamp", "<svg"):
        assert words in page, words
    assert (tmp_path / "out" / "grid-run.png").is_file()


def test_the_same_command_gives_the_same_figures(trained):
    run, data = trained
    first, again = (go(run, data).result["models"][0] for _ in range(2))
    assert first["figures"] == again["figures"] and first["stamp"] == again["stamp"]
    assert sorted(p.name for p in Path("runs").iterdir()) == ["evaluate-run", "evaluate-run-2"]


def test_pictures_trained_on_are_known_by_their_fingerprint(trained, tmp_path):
    """Other pictures are judged by all the same, and the run says what it was trained on; a lone file does not."""
    run, data = trained
    other = written(tmp_path / "other", seed=1)
    beside = go(run, other).result["models"][0]
    assert beside["seen"] is False and beside["copies"]["among"] == 84
    alone = shutil.copy(run / "model.safetensors", tmp_path / "alone.safetensors")
    unknown = go(alone, other).result["models"][0]["copies"]
    assert unknown["verdict"] == "unknown" and "--trained-on" in unknown["message"]
    named = go(alone, other, trained_on=data).result["models"][0]["copies"]
    assert named["among"] == len(list(data.rglob("*.png"))) - 6  # held out as by default: 5%
    with pytest.raises(KakusanError, match=r"--trained-on .*is not, or no longer"):
        go(alone, data, trained_on=other)


def test_models_stand_side_by_side_where_their_stamps_agree(trained, tmp_path, monkeypatch):
    run, data = trained
    first = go(run, data, out=tmp_path / "first", steps=2)
    both = go([run, run], data, beside=[first.path])
    assert len(both.result["models"]) == 3
    assert both.report is not None and both.report.read_text("utf-8").count('<th scope="col">run</th>') >= 3
    for change, said in (
        ({"count": 61}, "samples: 61 and 60"),
        ({"seed": 5}, "seed: 5 and 1000000"),
        ({"features": lambda x: pixels(x)}, "weights"),
    ):
        with monkeypatch.context() as patch, pytest.raises(KakusanError, match=f"cannot stand side by side.*{said}"):
            patch.setattr(facade.Loaded, "sample", None)  # refused before anything is drawn
            go(run, data, beside=[first.path], **change)


def test_the_cheapest_setting_within_noise_is_saved(trained, tmp_path, monkeypatch):
    """Points over solvers and steps; the default is written into the file, whose weights and hash stay."""
    run, data = trained
    monkeypatch.setattr(stepcurve, "STEPS", (1, 2, 3))
    mine = tmp_path / "mine"
    shutil.copytree(run, mine)
    before = read_info(mine / "model.safetensors")
    row = go(mine, data, curve=50, set_default=True, steps=None).result["models"][0]
    curve = row["curve"]
    assert len(curve["points"]) == 3 * len(stepcurve.SOLVERS) and curve["saved"] is True
    best, chosen = curve["best"], curve["chosen"]
    assert best["frechet"] == min(p["frechet"] for p in curve["points"])
    assert chosen["frechet"] <= best["high"] and chosen["evaluations"] <= best["evaluations"]
    after = read_info(mine / "model.safetensors")
    assert after["hash"] == before["hash"] and after["spec"]["defaults"]["steps"] == chosen["steps"]
    sample = facade.load(mine, "cpu").sample(1)[0]
    assert sample.recipe["steps"] == chosen["steps"] and sample.recipe["eta"] == (chosen["solver"] == "ddpm")
    path = facade.save_samples([facade.load(run, "cpu").sample(1, steps=2)[0]], tmp_path / "old")[0]
    assert facade.reproduce(path, model=mine)[1]  # samples from before are still made again


def test_the_cheapest_is_the_one_with_fewest_evaluations_inside_the_interval():
    def point(solver, steps, evaluations, frechet):
        return Point(solver, steps, evaluations, frechet, frechet - 2, frechet + 2, 1.0)

    points = [point("ddim", 20, 20, 11), point("heun", 10, 20, 10), point("ddim", 4, 4, 12.5), point("unipc", 8, 8, 12)]
    best, chosen = cheapest(points)
    assert (best.solver, chosen.solver) == ("heun", "unipc")


def test_the_average_with_the_least_held_out_loss_is_chosen(trained, tmp_path):
    """A spoilt file gets the run's own average back; one that is the best already stays as it is."""
    run, data = trained
    mine = tmp_path / "mine"
    shutil.copytree(run, mine)
    model, info = load_model(mine / "model.safetensors")
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2)
    known = {k: v for k, v in info.items() if k not in ("hash", "parameters")}
    emachoice.save_model(mine / "model.safetensors", model, known)
    row = go(mine, data, choose_ema=True).result["models"][0]
    found = row["ema"]
    assert found["chosen"] != "as it is"
    assert found["losses"][found["chosen"]] == min(found["losses"].values()) < found["losses"]["as it is"]
    mean, error = found["better"][found["chosen"]]
    assert mean + error < 0
    repaired, told = load_model(mine / "model.safetensors")
    saved = emachoice.state.load(mine / "state", print)
    assert saved is not None
    for name, p in repaired.named_parameters():
        if not name.startswith("weak."):
            assert torch.equal(p, saved.groups["ema"][f"{found['chosen']}/{name}"])
    assert told["training"]["ema_width"] == float(found["chosen"])
    again = go(mine, data, choose_ema=True).result["models"][0]["ema"]
    assert again["losses"]["as it is"] == min(again["losses"].values()) and again["chosen"] == "as it is"


def test_classes_are_drawn_as_often_as_they_are_in_the_data():
    labels = np.array([0] * 70 + [1] * 20 + [-1] * 5 + [2] * 10)
    asked = ground.asked_classes(labels, ["a", "b", "c"], 50, seed=1)
    assert [asked.count(c) for c in "abc"] == [35, 10, 5] and asked != sorted(asked)
    assert asked == ground.asked_classes(labels, ["a", "b", "c"], 50, seed=1)
    assert sorted(ground.asked_classes(labels, ["a", "b", "c"], 200, seed=1)).count("c") == 20


def test_features_of_the_datas_own_labels(trained):
    run, data = trained
    row = go(run, data, features="classifier").result["models"][0]
    assert row["stamp"]["extractor"] == "classifier" and row["stamp"]["weights"] == ByBrightness.hash


@pytest.mark.parametrize("when", ["sampling", "curve"])
def test_stopped_on_the_way(trained, monkeypatch, when):
    run, data = trained
    real = facade.Loaded.sample
    calls = []

    def sample(self, *given, **more):
        calls.append(more)
        if len(calls) == (1 if when == "sampling" else 4):
            more["stop"].request()
        return real(self, *given, **more)

    monkeypatch.setattr(facade.Loaded, "sample", sample)
    done = go(run, data, curve=50)
    assert done.interrupted and done.report is None and isinstance(Stop, type)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"count": 20}, "-n 20: too few samples"),
        ({"curve": 10}, "--curve 10: too few samples"),
        ({"features": "efficientnet-lit0"}, "did you mean 'efficientnet-lite0'"),
        ({"beside": ["nowhere"]}, "--beside nowhere: no evaluation there"),
    ],
)
def test_wrong_settings_are_one_line(trained, change, said):
    run, data = trained
    with pytest.raises(KakusanError, match=said) as error:
        go(run, data, **change)
    assert "\n" not in str(error.value)


def test_wrong_data_is_one_line(trained, tmp_path):
    run, _ = trained
    colour = written(tmp_path / "colour", mode="RGB")
    for path in sorted((colour / "disc").iterdir()):
        Pil.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)).save(path)
    small = written(tmp_path / "small", size=8)
    lacking = written(tmp_path / "lacking")
    shutil.rmtree(lacking / "disc")
    (lacking / "star").mkdir()
    shutil.copy(next((lacking / "square").iterdir()), lacking / "star" / "a.png")
    for wrong, said in (
        (colour, "its pictures are RGB .* the model draws L"),
        (small, "smaller than the model's 16 x 16"),
        (lacking, "has no class 'disc', which the model draws.*--labels none"),
    ):
        with pytest.raises(KakusanError, match=said) as error:
            go(run, wrong)
        assert "\n" not in str(error.value)
    assert "classes" not in go(run, lacking, labels="none").result["models"][0]


def test_classes_that_are_numbers_alone_are_called_as_the_models(trained, tmp_path):
    """An archive with a test split whose classes are 0 and 1, for a model of discs and squares."""
    run, data = trained
    files = [(i, p) for i, name in enumerate(("disc", "square")) for p in sorted((data / name).iterdir())]
    pictures = np.stack([np.asarray(Pil.open(p)) for _, p in files])
    labels = np.array([i for i, _ in files])
    np.savez(tmp_path / "set.npz", x_train=pictures[::2], y_train=labels[::2], x_test=pictures, y_test=labels)
    row = go(run, tmp_path / "set.npz").result["models"][0]
    assert {c["class"]: c["real"] for c in row["classes"]} == {"disc": 60, "square": 60}
    assert row["labels"]["accuracy"]["count"] == 60


def test_a_model_with_names_is_judged_on_the_numbered_classes_it_was_trained_on(trained, tmp_path):
    """As fashion, which ships: the data number the classes, and its file names them."""
    _, data = trained
    files = [(i, p) for i, name in enumerate(("disc", "square")) for p in sorted((data / name).iterdir())]
    pictures, labels = np.stack([np.asarray(Pil.open(p)) for _, p in files]), np.array([i for i, _ in files])
    np.savez(tmp_path / "set.npz", x_train=pictures, y_train=labels, x_test=pictures[::2], y_test=labels[::2])
    told = {"overrides": SMALL, "device": "cpu", "progress": Progress(quiet=True)}
    facade.train(tmp_path / "set.npz", steps=2, out=tmp_path / "run", **told)
    model, info = load_model(tmp_path / "run" / "model.safetensors")
    numbered = model.encoder("label")
    names = Label(["disc", "square"], numbered.table.embedding_dim)
    names.load_state_dict(numbered.state_dict())
    others = {name: model.encoder(name) for name in model.encoders} | {"label": names}
    save_model(tmp_path / "named.safetensors", Model(model.denoiser, model.domain, others, model.defaults), info)
    done = go(tmp_path / "named.safetensors", tmp_path / "set.npz").result["models"][0]
    assert done["seen"] is False and {c["class"]: c["real"] for c in done["classes"]} == {"disc": 30, "square": 30}


def test_larger_pictures_are_brought_to_the_models_size_and_the_stamp_says_so(trained, tmp_path):
    run, _ = trained
    stamp = go(run, written(tmp_path / "large", size=20)).result["models"][0]["stamp"]
    assert stamp["resize"].startswith("data: crop to 16 x 16; ")


def test_a_damaged_file_of_weights_and_of_results_is_one_line(trained, tmp_path):
    run, data = trained
    (tmp_path / "weights.pth").write_bytes(b"not weights")
    (tmp_path / "result.json").write_text('{"models": [{}]}')
    with pytest.raises(KakusanError, match=r"weights\.pth"):
        go(run, data, features=tmp_path / "weights.pth")
    with pytest.raises(KakusanError, match="not a result of kakusan evaluate"):
        go(run, data, beside=[tmp_path / "result.json"])
