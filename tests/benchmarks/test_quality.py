"""The pure parts of benchmarks/time_to_quality.py: distance, clock, schedules, plan, table, plot, icons."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
PAGE = ROOT / "docs" / "explanation" / "quality.md"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def covariance(rng: np.random.Generator, size: int) -> np.ndarray:
    a = rng.standard_normal((size, size))
    return a @ a.T


# the distance


def test_frechet_of_commuting_gaussians_has_the_closed_form():
    from quality.frechet import frechet

    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    a, b, mu = rng.uniform(0.1, 4, 6), rng.uniform(0.1, 4, 6), rng.standard_normal(6)
    found = frechet((np.zeros(6), turn * a @ turn.T), (mu, turn * b @ turn.T))
    assert found == pytest.approx((mu**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum(), rel=1e-10)


def test_frechet_of_two_by_two_covariances_has_the_closed_form():
    """tr M^(1/2) of a 2 x 2 matrix is (tr M + 2 sqrt(det M))^(1/2), here of M = A B, which do not commute."""
    from quality.frechet import frechet

    rng = np.random.default_rng(1)
    a, b = covariance(rng, 2), covariance(rng, 2)
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    found = frechet((np.zeros(2), a), (np.zeros(2), b))
    assert found == pytest.approx(np.trace(a) + np.trace(b) - 2 * root, rel=1e-10)


def test_frechet_is_symmetric_zero_at_itself_and_holds_for_singular_covariances():
    from quality.frechet import frechet, moments

    rng = np.random.default_rng(2)
    few, many = moments(rng.standard_normal((20, 64))), moments(rng.standard_normal((500, 64)) @ covariance(rng, 64))
    assert frechet(few, few) == pytest.approx(0, abs=1e-5)
    assert frechet(few, many) == pytest.approx(frechet(many, few), rel=1e-6)


def test_frechet_of_drawn_gaussians_comes_near_their_own():
    from quality.frechet import frechet, moments

    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((40_000, 4)), 1 + 2 * rng.standard_normal((40_000, 4))
    assert frechet(moments(x), moments(y)) == pytest.approx(4 + 4, rel=0.03)


def test_rgba_is_judged_over_white_and_over_black():
    from quality.features import prepared, views

    pictures = np.zeros((1, 4, 4, 4), np.uint8)
    pictures[..., :3], pictures[..., 3] = 200, 51
    white, black = views(pictures)
    assert (white == 244).all() and (black == 40).all()
    grey = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    assert (views(grey)[0] == grey).all() and views(grey)[0].shape == (1, 4, 4, 3)
    x = prepared(np.full((2, 28, 28, 3), 255, np.uint8))
    assert x.shape == (2, 3, 96, 96) and torch.allclose(x, torch.ones(()))


def test_only_the_scoring_knows_the_judging_network():
    """Nothing is trained, tuned or selected with it: no other file of the benchmark, of the package only evaluation.

    Training does not import that (tests/test_imports.py).
    """
    users = []
    for file in [*BENCHMARKS.rglob("*.py"), *(ROOT / "src").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            if module.startswith("quality.features") or (module == "quality" and "features" in names):
                users.append(file)
            if any("efficientnet" in n for n in [module, *names]):
                users.append(file)
    judges = [BENCHMARKS / "features.py", *(BENCHMARKS / "quality" / f for f in ("features.py", "scoring.py"))]
    evaluation = ROOT / "src" / "kakusan" / "evaluation"
    assert set(users) == {*judges, evaluation / "features.py", evaluation / "efficientnet.py"}


# the same minutes for all


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_budget_ends_before_the_step_that_would_overrun():
    from quality.record import Budget

    time = Time()
    budget = Budget(1.0, now=time)
    time.now = 5.0  # what set-up took counts
    steps = 0
    for step in budget.steps():
        assert step == steps
        steps += 1
        time.now += 7.0
    assert steps == 7 and budget.elapsed() == 54.0 and budget.gone() == pytest.approx(0.9)


def test_a_budget_of_steps_does_not_look_at_the_clock():
    from quality.record import Budget

    budget, gone = Budget(1e-9, steps=4), []
    for _ in budget.steps():
        gone.append(budget.gone())
    assert budget.done == 4 and gone == [0, 0.25, 0.5, 0.75] and budget.gone() == 1


def test_the_peers_learning_rates_end_at_the_budget():
    pytest.importorskip("diffusers")
    from quality.peer_diffusers import WARMUP, Cosine
    from quality.peer_diffusers_tuned import rate

    cosine = Cosine()
    assert cosine.factor(0, 0.0) == 0 and cosine.factor(WARMUP // 2, 0.05) == 0.5
    assert cosine.factor(WARMUP, 0.1) == 1
    assert cosine.factor(WARMUP + 1, 0.55) == pytest.approx(0.5)
    assert cosine.factor(WARMUP + 2, 1.0) == pytest.approx(0, abs=1e-12)
    assert rate(1000, 0.5) == 1 and rate(1000, 0.8) == pytest.approx(0.5) and rate(1000, 1.0) == 0
    assert rate(0, 0.0) == pytest.approx(1 / 21)


def test_batches_show_every_picture_once_an_epoch():
    from quality.record import batches

    torch.manual_seed(0)
    feed = batches(torch.arange(12, dtype=torch.uint8), 4)
    epochs = [torch.cat([next(feed) for _ in range(3)]) for _ in range(2)]
    assert all(sorted(e.tolist()) == list(range(12)) for e in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()


def test_pictures_survive_the_way_to_tensors_and_back():
    from quality.record import shares, tensor, to_uint8

    pictures = np.random.default_rng(0).integers(0, 256, (3, 5, 6, 4), dtype=np.uint8)
    assert (to_uint8(tensor(pictures).float() / 127.5 - 1) == pictures).all()
    assert to_uint8(torch.full((1, 1, 1, 1), float("nan"))).item() == 128
    assert shares(250) == [100, 100, 50] and sum(shares(1000)) == 1000


def test_edm_training_and_sampling_know_a_constant_picture():
    """With the ideal denoiser of one picture, the loss is zero and the sampler ends at that picture."""
    pytest.importorskip("diffusers")
    from quality.peer_diffusers_tuned import TIMES, Edm, autocast

    edm, value = Edm(0.5, 32), 0.3

    class Ideal(torch.nn.Module):
        def forward(self, x, t):
            sigma = (4 * t / TIMES).exp().reshape(-1, 1, 1, 1)
            c_in, c_skip = (sigma**2 + 0.25) ** -0.5, 0.25 / (sigma**2 + 0.25)
            out = (value - c_skip * x / c_in) / (sigma * 0.5 * c_in)
            return type("Out", (), {"sample": out})

    torch.manual_seed(0)
    loss = edm.loss(Ideal(), torch.full((8, 1, 8, 8), value), autocast(False))
    assert loss.item() < 1e-4
    drawn = edm.draw(Ideal(), torch.Size((1, 8, 8)), 2)
    assert torch.allclose(drawn, torch.full_like(drawn, value), atol=1e-3)


@pytest.mark.parametrize("system", ["peer_diffusers", "peer_diffusers_tuned"])
def test_a_peer_trains_within_its_time_and_draws_what_was_asked(system, tmp_path):
    pytest.importorskip("diffusers")
    from importlib import import_module

    from quality.data import pictures
    from quality.record import read_rows, write

    grey = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "tiny-train.npz", images=grey)
    out = tmp_path / "run"
    out.mkdir()
    facts = import_module(f"quality.{system}").run(tmp_path / "tiny-train.npz", 0.03, 0, out, 3)
    assert facts.steps >= 1 and facts.pictures % facts.steps == 0 and facts.parameters > 1e6
    assert pictures(out / "samples.npz").shape == (3, 8, 8, 1)
    write(out, facts, system=system, data="tiny", minutes=0.03, seed=0)
    assert read_rows(tmp_path)["run"]["sampler_steps"] == 20


def test_the_missing_torchvision_is_stood_in_for(monkeypatch):
    from quality import peer_ddpm

    for name in ("torchvision", "torchvision.transforms", "torchvision.utils"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(peer_ddpm, "find_spec", lambda name: None)
    before = set(sys.modules)
    try:
        assert peer_ddpm.stand_in_for_torchvision()
        from torchvision import transforms, utils

        assert transforms.__name__ == "torchvision.transforms" and utils.__name__ == "torchvision.utils"
    finally:
        for name in set(sys.modules) - before:
            del sys.modules[name]  # not by monkeypatch, which would put the stand-ins back


# the plan


def test_the_plan_names_every_run_once_seed_by_seed(tmp_path):
    from quality.plan import Run, read_plan

    runs = read_plan(BENCHMARKS / "quality" / "plan.toml")
    assert len(runs) == 3 * (5 + 1 + 2 + 4) and [r.seed for r in runs] == sorted(r.seed for r in runs)
    assert Run("ddpm-pytorch", "cifar", 30.0, 2) in runs and Run("kakusan", "fashion", 5.0, 0) in runs
    assert Run("kakusan", "fashion", 5.0, 0).name == "fashion-kakusan-5min-seed0"
    bad = tmp_path / "plan.toml"
    bad.write_text('[[runs]]\ndata = "fashion"\nsystems = ["other"]\nminutes = 1\nseeds = [0]\n')
    with pytest.raises(SystemExit, match="no system 'other'"):
        read_plan(bad)


# the table


def row(system: str, seed: int, samples: int = 1000, minutes: float = 15.0) -> dict[str, object]:
    return {
        "system": system, "data": "fashion", "minutes": minutes, "seed": seed, "parameters": 1_600_000, "steps": 10,
        "pictures": 5000, "seconds": 100.0, "sampler": "DDIM", "sampler_steps": 50, "samples": samples,
        "sample_seconds": 20.0, "machine": {"cpu": "a processor", "cores": 2, "threads": 2},
    }  # fmt: skip


def test_the_table_brings_seeds_together_and_leaves_trials_out():
    from quality.table import inserted, lines, markdown

    rows = {"a0": row("diffusers", 0), "a1": row("diffusers", 1), "b0": row("kakusan", 0), "c": row("kakusan", 3, 20)}
    distances = {"a0": 1000.0, "a1": 1100.0, "b0": 203.4, "c": 1.0}
    scores = {
        "floors": {"fashion": {"mean": 103.4, "references": 5000}},
        "runs": {n: {"distance": d} for n, d in distances.items()},
    }
    found = lines(rows, scores)
    assert [line.system for line in found] == ["kakusan", "diffusers"] and found[0].excess == (100.0,)
    table = markdown(found)
    assert "| diffusers | 947 (897 to 997) | 2 | 1.6M | 50 | DDIM, 50 steps | 20 |" in table
    assert "floor 103, 5,000 test pictures; a processor, 2 cores" in table
    a_counted = {"a0": rows["a0"] | {"counted": True}}
    assert "| diffusers (counted) | 897 | 1 | 1.6M |" in markdown(lines(a_counted, scores))
    page = inserted("head\n<!-- results: begin -->\nold\n<!-- results: end -->\ntail\n", table)
    assert "old" not in page and table in page and page.startswith("head\n") and page.endswith("\ntail\n")
    assert inserted(page, table) == page
    with pytest.raises(SystemExit, match="results: begin"):
        inserted("no marks", table)
    assert inserted(PAGE.read_text("utf-8"), table).count("results: begin") == 1


def test_the_curves_are_well_formed_and_name_every_system():
    from xml.etree import ElementTree

    from quality.plot import curves
    from quality.table import lines

    rows = {"a": row("diffusers", 0), "b": row("kakusan", 0), "c": row("kakusan", 0, minutes=5.0)}
    scores = {
        "floors": {"fashion": {"mean": 100.0, "references": 5000}},
        "runs": {"a": {"distance": 1000.0}, "b": {"distance": 200.0}, "c": {"distance": 300.0}},
    }
    root = ElementTree.fromstring(curves(lines(rows, scores), "fashion"))
    words = {t.text for t in root.iter() if t.tag.endswith("text")}
    assert {"kakusan", "diffusers", "5", "15"} <= words
    assert sum(t.tag.endswith("circle") for t in root.iter()) == 3 + 2


# the command


def test_prepare_keeps_train_and_test_apart_and_a_done_run_is_not_repeated(tmp_path):
    from PIL import Image

    for split, value in (("train", 10), ("test", 200)):
        for label in ("cat", "dog"):
            (tmp_path / "set" / split / label).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (8, 8), (value, i, 0)).save(tmp_path / "set" / split / label / f"{i}.png")
    command = [sys.executable, str(BENCHMARKS / "time_to_quality.py")]
    made = [*command, "prepare", "tiny", str(tmp_path / "set"), "--data", str(tmp_path / "data")]
    subprocess.run(made, check=True, capture_output=True)
    from quality.data import pictures, split_file

    for split, value in (("train", 10), ("test", 200)):
        file = split_file(tmp_path / "data", "tiny", split)
        assert pictures(file).shape == (6, 8, 8, 3) and (pictures(file)[..., 0] == value).all()
        with np.load(file) as arrays:
            assert arrays["classes"].tolist() == ["cat", "dog"] and sorted(arrays["labels"]) == [0, 0, 0, 1, 1, 1]
    done = tmp_path / "out" / "tiny-diffusers-1min-seed0"
    done.mkdir(parents=True)
    (done / "row.json").write_text(json.dumps({"system": "diffusers"}))
    again = [*command, "run", "diffusers", "tiny", "--minutes", "1", "--data", str(tmp_path / "data")]
    said = subprocess.run([*again, "--out", str(tmp_path / "out")], check=True, capture_output=True, text=True)
    assert "tiny-diffusers-1min-seed0 is done" in said.stdout


# the icons


def test_icons_that_show_the_same_lie_on_one_side():
    from quality.icons import concept, divided

    assert concept("MAN RUNNING FACING RIGHT") == concept("WOMAN RUNNING") == "RUNNING"
    assert concept("CLOCK FACE TWO OCLOCK") == concept("CLOCK FACE TEN-THIRTY") == "CLOCK FACE"
    assert concept("COW") != concept("COW FACE")
    entries = [{"name": f"{who} {what}", "image": ""} for what in map(chr, range(65, 91)) for who in ("MAN", "WOMAN")]
    train, test = divided(entries, 20)
    assert len(test) == 20 and len(train) == 32
    assert not {concept(e["name"]) for e in train} & {concept(e["name"]) for e in test}
