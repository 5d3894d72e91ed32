"""The whole way, on small made pictures: train, sample, reproduce, resume, start from a model, every mode."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import kakusan
from kakusan.app import facade
from kakusan.app.command.show import Progress
from kakusan.app.draw.loaded import Sample, _kept
from kakusan.app.train import recipe, trained
from kakusan.app.train.project import open_project
from kakusan.domains.domain import Record
from kakusan.part import KakusanError

SMALL = [
    "denoiser.net.width=8",
    "denoiser.net.blocks=1",
    "training.batch=4",
    "training.previews=2",
    "training.precision=fp32",
]


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path / "cache"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pictures(folder: Path, mode: str, count: int = 24, side: int = 20) -> Path:
    """Discs of random place and size, in two class folders."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    for i in range(count):
        cx, cy, r = draw.uniform(5, side - 5), draw.uniform(5, side - 5), draw.uniform(2, 5)
        disc = ((x - cx) ** 2 + (y - cy) ** 2 < r * r).astype(np.float64)
        path = folder / ("small" if r < 3.5 else "large") / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if mode == "L":
            Image.fromarray((disc * 200).astype(np.uint8)).save(path)
        elif mode == "I;16":
            Image.fromarray((disc * 60_000 + 300).astype(np.uint16)).save(path)
        elif mode == "RGB":
            Image.fromarray((disc[..., None] * draw.uniform(50, 250, 3)).astype(np.uint8)).save(path)
        else:
            colour = np.broadcast_to(draw.uniform(50, 250, 3), (side, side, 3))
            Image.fromarray(np.dstack([colour, disc * 255]).astype(np.uint8)).save(path)
    return folder


def train(data: Path, out: Path, *more: str, steps: int = 4, **options) -> facade.Trained:
    return facade.train(
        data, steps=steps, out=out, overrides=[*SMALL, *more], progress=Progress(quiet=True), device="cpu", **options
    )


@pytest.mark.parametrize(
    ("mode", "dtype", "channels"),
    [("L", np.uint8, 1), ("RGB", np.uint8, 3), ("RGBA", np.uint8, 4), ("I;16", np.uint16, 1)],
)
def test_every_kind_of_picture_is_trained_and_saved_as_what_it_is(tmp_path, mode, dtype, channels):
    done = train(pictures(tmp_path / "data", mode), tmp_path / "run")
    model = done.load("cpu")
    assert model.classes == ["large", "small"]
    samples = model.sample(3, seed=5, steps=3)
    assert samples[0].data.shape == (20, 20, channels) and samples[0].data.dtype == dtype
    paths = facade.save_samples(samples, tmp_path / "out")
    assert [p.name for p in paths] == ["seed-000005.png", "seed-000006.png", "seed-000007.png", "grid.png"]
    back = np.asarray(Image.open(paths[0]))
    assert back.dtype.itemsize == np.dtype(dtype).itemsize
    np.testing.assert_array_equal(back.reshape(samples[0].data.shape), samples[0].data)
    for name in (
        "recipe.toml",
        "environment.json",
        "log.jsonl",
        "events.jsonl",
        "report.html",
        "grid.png",
        "samples",
        "state",
    ):
        assert (tmp_path / "run" / name).exists(), name
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    for part in (
        "Loss",
        "The noise schedule",
        "The forward process",
        "The reverse process",
        "Throughput",
        "recipe.toml",
    ):
        assert part in page, part
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_arrays_of_floats_are_trained_shown_and_saved(tmp_path, channels):
    draw = np.random.default_rng(0)
    smooth = np.kron(draw.normal(size=(24, 4, 4, channels)), np.ones((1, 4, 4, 1))).astype(np.float32)
    np.save(tmp_path / "data.npy", smooth)
    done = train(tmp_path / "data.npy", tmp_path / "run")
    assert done.report is not None and (tmp_path / "run" / "grid.png").exists()
    samples = done.load("cpu").sample(2, steps=3, film=True)
    assert samples[0].data.dtype == np.float32 and samples[0].shown.dtype == np.uint8
    paths = facade.save_samples(samples, tmp_path / "out", film=True)
    assert paths[0].suffix == ".npy" and np.array_equal(np.load(paths[0]), samples[0].data)
    assert (paths[-1].name == "grid.png") == (channels != 5)


def test_a_sample_is_the_same_alone_in_a_batch_and_from_its_file(tmp_path):
    model = train(pictures(tmp_path / "data", "RGB"), tmp_path / "run").load("cpu")
    many = model.sample(9, seed=0, steps=4, eta=0.5)
    alone = model.sample(1, seed=7, steps=4, eta=0.5)[0]
    assert many[7].label == alone.label
    assert np.abs(many[7].data.astype(int) - alone.data.astype(int)).max() <= 1
    halves = model.sample(9, seed=0, steps=4, eta=0.5, batch=4)
    assert all(np.abs(a.data.astype(int) - b.data.astype(int)).max() <= 1 for a, b in zip(many, halves, strict=True))
    path = facade.save_samples([alone], tmp_path / "out")[0]
    again, identical = facade.reproduce(path)
    assert identical and again != path
    bare = facade.save_samples([alone], tmp_path / "bare", recipe=False)[0]
    with pytest.raises(KakusanError, match="no recipe"):
        facade.reproduce(bare)


def test_a_sample_is_made_again_with_the_whole_solver_of_its_recipe(tmp_path):
    more = ["defaults.solver.kind=solver/ipndm", "defaults.solver.order=1"]
    model = train(pictures(tmp_path / "data", "L"), tmp_path / "run", *more, steps=12).load("cpu")
    made = model.sample(1, steps=6)[0]
    assert made.recipe["solver"] == {"kind": "solver/ipndm", "order": 1}
    assert not torch.equal(made.raw, model.sample(1, steps=6, solver="ipndm")[0].raw)  # order 4
    assert facade.reproduce(facade.save_samples([made], tmp_path / "out")[0])[1]


def test_autoguidance_leads_away_from_the_weak_self(tmp_path):
    """On by default, recorded, reproducible; a file without a weak model says so; weights survive the file."""
    done = train(pictures(tmp_path / "data", "L"), tmp_path / "run", "training.ema_every=1", steps=12)
    model = done.load("cpu")
    assert model.model.weak is not None and model.info()["defaults"]["autoguidance"] == 2
    default, plain = (model.sample(2, label="small", steps=4, **more) for more in ({}, {"autoguidance": 1.0}))
    assert default[0].recipe["autoguidance"] == 2 and plain[0].recipe["autoguidance"] == 1
    assert not np.array_equal(default[0].raw, plain[0].raw)
    saved = default[0].save(tmp_path / "one.png")
    assert facade.reproduce(saved, model=done.path)[1]
    assert done.summary["parameters"] == sum(p.numel() for p in model.model.denoiser.parameters()) + sum(
        p.numel() for p in model.model.encoders.parameters()
    )
    bare = train(tmp_path / "data", tmp_path / "bare", "training.weak=0").load("cpu")
    assert bare.sample(1, steps=2)[0].recipe["autoguidance"] == 1
    with pytest.raises(KakusanError, match="no weak model"):
        bare.sample(1, steps=2, autoguidance=1.5)


def test_stream_yields_every_step_and_notebooks_see_a_picture(tmp_path):
    model = train(pictures(tmp_path / "data", "L"), tmp_path / "run").load("cpu")
    steps = list(model.stream(2, steps=5, label="small"))
    assert [s.index for s in steps] == [0, 1, 2, 3, 4] and steps[-1].t == 0
    assert len(model.records(steps[2])) == 2
    assert model.sample(1, steps=2)[0]._repr_png_().startswith(b"\x89PNG")


def test_labels_and_guidance_change_the_picture_and_wrong_ones_are_named(tmp_path):
    model = train(pictures(tmp_path / "data", "L"), tmp_path / "run", "encoders.label.dim=16", steps=12).load("cpu")
    by_name, by_index = model.sample(1, label="small", steps=3)[0], model.sample(1, label=1, steps=3)[0]
    np.testing.assert_array_equal(by_name.data, by_index.data)
    assert by_name.label == "small"
    other = model.sample(1, label="large", steps=3)[0]
    strong = model.sample(1, label="small", steps=3, guidance=4.0)[0]
    assert not torch.equal(by_name.raw, other.raw) and not torch.equal(by_name.raw, strong.raw)
    for wrong, words in (
        ({"label": "smal"}, "small"),
        ({"solver": "hein"}, "heun"),
        ({"steps": 0}, "steps"),
        ({"cond": {"x": 1}}, "'x'"),
    ):
        with pytest.raises(KakusanError, match=words):
            model.sample(1, **wrong)


def test_numbers_and_tags_of_metadata_become_conditions(tmp_path):
    """Trained on what data.fields names, resumable, sampled with units and nearest tags, made again from the file."""
    data = pictures(tmp_path / "data", "L")
    lines = [
        {
            "file_name": f"{p.parent.name}/{p.name}",
            "label": p.parent.name,
            "side": i / 2,
            "tags": ["dim", "even"][i % 2 :],
        }
        for i, p in enumerate(sorted(data.rglob("*.png")))
    ]
    (data / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    model = train(data, tmp_path / "run", "data.fields=side:mm, tags", "training.reference=8").load("cpu")
    assert list(model.model.encoders) == ["label", "side", "tags", "augment"]
    assert recipe.read(tmp_path / "run" / "recipe.toml")["data"]["fields"] == "side:mm, tags"
    cond = {"side": "3.5 mm", "tags": "even"}
    made = model.sample(1, label="small", cond=cond, guidance={"side": 3.0, "tags": 0.0}, steps=3)[0]
    assert made.recipe["cond"] == {"side": "3.5 mm", "tags": "even", "label": "small"}
    assert made.recipe["guidance"] == {"label": 2.0, "side": 3.0, "tags": 0.0}
    assert facade.reproduce(made.save(tmp_path / "one.png"))[1]
    for bad, said in (({"side": "3 cm"}, "counts it in mm"), ({"tags": "evn"}, "did you mean 'even'")):
        with pytest.raises(KakusanError, match=said):
            model.sample(1, cond=bad, steps=1)
    longer = facade.resume(tmp_path / "run", minutes=0.02, progress=Progress(quiet=True)).load("cpu")
    assert list(longer.model.encoders) == ["label", "side", "tags", "augment"]


def test_a_run_is_never_overwritten_and_a_finished_one_goes_on_beside_itself(tmp_path):
    data = pictures(tmp_path / "data", "L")
    done = train(data, tmp_path / "run")
    with pytest.raises(KakusanError, match="never overwritten"):
        train(data, tmp_path / "run")
    with pytest.raises(KakusanError, match="finished"):
        facade.resume(tmp_path / "run")
    more = train(data, tmp_path / "more", start=done.run)
    assert more.path is not None and more.path.exists()


@pytest.mark.parametrize("wrong", ["training.convolution=winograt", "training.clock=sun", "training.cooldown=2"])
def test_settings_that_are_refused_leave_nothing(tmp_path, wrong):
    with pytest.raises(KakusanError, match=wrong.split("=")[1]):
        train(pictures(tmp_path / "data", "L"), tmp_path / "run", wrong)
    assert not (tmp_path / "run").exists()


def test_starting_from_a_model_starts_from_its_weights(tmp_path):
    data = pictures(tmp_path / "data", "L")
    first = train(data, tmp_path / "run", steps=30)
    fresh, onward = train(data, tmp_path / "a", steps=1), train(data, tmp_path / "b", steps=1, start=first.run)
    assert onward.summary["loss"] < fresh.summary["loss"]


def test_the_recipe_of_a_run_makes_the_same_run(tmp_path):
    data = pictures(tmp_path / "data", "L")
    first = train(data, tmp_path / "a", steps=6)
    written = recipe.read(first.run / "recipe.toml")
    second = facade.train(
        data, out=tmp_path / "b", recipe=first.run / "recipe.toml", progress=Progress(quiet=True), device="cpu"
    )
    assert recipe.read(second.run / "recipe.toml") == written
    assert facade.model_info(first.run)["hash"] == facade.model_info(second.run)["hash"]


def test_the_paper_of_2020_runs_and_samples_its_own_way(tmp_path):
    paper = Path(__file__).parents[2] / "recipes" / "ddpm.toml"
    done = train(pictures(tmp_path / "data", "L"), tmp_path / "run", "model.defaults.steps=20", recipe=paper)
    spec = facade.model_info(done.run)["spec"]
    assert (
        spec["denoiser"]["process"]["kind"] == "process/tabulated" and spec["denoiser"]["param"]["kind"] == "param/eps"
    )
    assert spec["defaults"]["eta"] == 1.0 and spec["denoiser"]["net"]["dropout"] == 0.1
    assert "label" not in spec["encoders"]


def test_exchanging_parts_keeps_what_the_data_decided(tmp_path):
    done = facade.train(
        pictures(tmp_path / "data", "RGB"), steps=2, out=tmp_path / "run", progress=Progress(quiet=True), device="cpu",
        overrides=["denoiser.net.kind=net/dit", "denoiser.net.depth=2", "denoiser.net.width=32", "training.batch=4",
                   "denoiser.process.kind=process/flow", "denoiser.param.kind=param/velocity",
                   "objective.weight.kind=weight/flow-uniform", "training.previews=1"],
    )  # fmt: skip
    assert facade.model_info(done.run)["spec"]["denoiser"]["net"]["channels"] == 3
    for bad, words in (
        ("denoiser.net.widht=3", "width"),
        ("denoiser.param.kind=param/ep", "param/eps"),
        ("foo.bar=1", "foo"),
    ):
        with pytest.raises(KakusanError, match=words):
            train(tmp_path / "data", tmp_path / "bad", bad)
    with pytest.raises(KakusanError, match="alpha is 0"):
        train(
            tmp_path / "data", tmp_path / "bad", "denoiser.process.kind=process/flow", "denoiser.param.kind=param/eps"
        )


def test_ctrl_c_saves_and_resume_ends_bit_identical(tmp_path):
    """A real process, interrupted by a real signal, against one that was left alone."""
    data = pictures(tmp_path / "data", "RGB")
    environment = os.environ | {"KAKUSAN_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "kakusan.app.cli", "train", str(data), "--steps", "60", "--device", "cpu", *SMALL]
    subprocess.run([*words, "--out", str(tmp_path / "whole")], env=environment, check=True, capture_output=True)
    process = subprocess.Popen(
        [*words, "--out", str(tmp_path / "cut")], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "cut" / "samples").glob("step-*.png")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said.decode()
    assert f"kakusan resume {tmp_path / 'cut'}" in said.decode()
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    words = [sys.executable, "-m", "kakusan.app.cli", "resume", str(tmp_path / "cut"), "--json"]
    resumed = subprocess.run(words, env=environment, check=True, capture_output=True)
    assert json.loads(resumed.stdout)["path"].endswith("model.safetensors")
    assert facade.model_info(tmp_path / "cut")["hash"] == facade.model_info(tmp_path / "whole")["hash"]


def test_minutes_are_kept(tmp_path):
    begun = time.monotonic()
    done = facade.train(
        pictures(tmp_path / "data", "L"),
        minutes=0.2,
        out=tmp_path / "run",
        overrides=SMALL,
        progress=Progress(quiet=True),
        device="cpu",
    )
    assert not done.interrupted
    assert abs(time.monotonic() - begun - 12) < 10


def test_noise_is_not_served_as_success(tmp_path):
    """A model that was hardly trained is named as such, after training and again when it is sampled."""
    done = train(pictures(tmp_path / "data", "L", count=60), tmp_path / "run", steps=1)
    assert {f.severity for f in done.findings} == {"problem"}
    assert {f.kind for f in done.findings} <= {"noise", "unconverged", "range"}
    assert "kakusan resume" in done.findings[0].fix
    words = [
        sys.executable,
        "-m",
        "kakusan.app.cli",
        "sample",
        str(done.run),
        "-n",
        "8",
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    said = subprocess.run(words, check=True, capture_output=True, text=True)
    assert json.loads(said.stdout)["healthy"] is False and "problem:" in said.stderr


def test_copies_are_shown_beside_the_picture_they_copy(tmp_path, monkeypatch):
    """Also where only a part of the training pictures is compared with."""
    monkeypatch.setattr(trained, "COMPARED", 40)
    source = pictures(tmp_path / "data", "RGB", count=500)
    project = open_project({"path": str(source)}, Progress(quiet=True))
    row = len(project.train) - 1  # the spread of 40 ends there
    raw = project.domain.floats(project.train.rows(np.array([row])))[0]
    sample = Sample(Record(np.zeros((20, 20, 3), np.uint8)), 0, {}, project.domain, raw=raw)
    found = trained._copying(project, [sample], lambda: False)
    assert found.pairs[0].train == row and found.pairs[0].distance < 1e-3


@pytest.mark.parametrize("count", [1, 20, 60, 61, 119, 1000])
def test_a_film_has_few_frames_and_the_last(count):
    kept = [i for i in range(count) if _kept(i, count)]
    assert kept[-1] == count - 1 and min(count, 30) <= len(kept) <= 61


def test_public_names_are_these():
    assert sorted(kakusan.__all__) == [
        "Compared", "Distilled", "Evaluated", "Exported", "KakusanError", "Loaded", "Sample", "Trained", "build",
        "compare", "distill", "evaluate", "export", "load", "reproduce", "resume", "save_samples", "train",
    ]  # fmt: skip
    for name in kakusan.__all__:
        assert getattr(kakusan, name) is not None
    with pytest.raises(AttributeError):
        kakusan.nothing  # noqa: B018
