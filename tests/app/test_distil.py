"""distill: the tuned copy, the student's run, exact resume, the report's verdict, refusals of one line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pil

import kakusan
from app.standins import pixels
from kakusan.app import facade
from kakusan.app.cli import main
from kakusan.app.command.show import Progress
from kakusan.app.deploy import distil, distilled, fewsteps, tuned
from kakusan.app.deploy import student as student_data
from kakusan.app.deploy.distil import Distilled, distill
from kakusan.app.deploy.fewsteps import Point, verdict
from kakusan.app.deploy.rounds import Wish, planned
from kakusan.app.deploy.student import opened
from kakusan.app.draw import sampler
from kakusan.app.draw.loaded import Loaded, load
from kakusan.app.train import recipe
from kakusan.app.train.columns import columns
from kakusan.catalog import build
from kakusan.checkpoint import load_model, read_info
from kakusan.evaluation.features import from_function
from kakusan.nets import winograd
from kakusan.part import KakusanError
from kakusan.training import loop, timing
from kakusan.training.stop import Stop

SMALL = ["denoiser.net.width=8", "denoiser.net.blocks=1", "training.batch=8", "encoders.label.dim=8"]


def written(folder: Path, mode: str = "L", classes: tuple[str, str] = ("disc", "square")) -> Path:
    """Discs and squares, in two class folders."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16]
    for i in range(60):
        cx, cy, r = draw.uniform(5, 11, 3)
        near = np.hypot(x - cx, y - cy) < r / 2 if i % 2 else np.maximum(abs(x - cx), abs(y - cy)) < r / 2
        path = folder / classes[i % 2] / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = near[..., None] * draw.uniform(100, 250, 3 if mode == "RGB" else 1)
        Pil.fromarray(colour.astype(np.uint8).squeeze()).save(path)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """A teacher of a few steps and its data."""
    root = tmp_path_factory.mktemp("teacher")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAKUSAN_CACHE", str(root / "cache"))
        data = written(root / "data")
        facade.train(
            data, steps=8, out=root / "run", overrides=[*SMALL, "training.previews=0"], device="cpu",
            progress=Progress(quiet=True),
        )  # fmt: skip
    return root / "run", data


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fewsteps, "extractor_of", lambda wanted, packed: from_function(pixels, 17))
    monkeypatch.setattr(fewsteps, "LEAST", 12)
    monkeypatch.setattr(tuned, "TEACHER", 8)
    monkeypatch.setattr(distilled, "RIVAL", 1.0)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)  # two runs shall be the same
    monkeypatch.setattr(tuned, "Seeds", lambda: small)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


small = tuned.Seeds(6, 4, 6)


def made(trained: tuple[Path, Path], **options: Any) -> Distilled:
    return distill(*trained, device="cpu", progress=Progress(quiet=True), **options)


def student(
    trained: tuple[Path, Path], out: Path, count: int = 0, steps: int = 6, more: Sequence[str] = (),
    wanted: int | None = None, method: str = "consistency", **options: Any,
) -> Distilled:  # fmt: skip
    overrides = [f"training.steps={steps}", "batch=8", "log_every=2", *more]
    return made(trained, out=out, count=count, overrides=overrides, steps=wanted, method=method, **options)


def test_a_tuned_copy_is_used_and_the_teacher_stays(trained, tmp_path):
    teacher = trained[0] / "model.safetensors"
    before = teacher.read_bytes()
    done = made(trained, method="tune", steps=3, minutes=0.03, count=12, out=tmp_path / "out")
    assert teacher.read_bytes() == before
    assert done.path == tmp_path / "out" / "model.safetensors" and done.report is not None and done.result["kept"]
    assert done.result["after"] < done.result["before"]
    model = done.load("cpu")
    defaults = model.info()["defaults"]
    assert (defaults["grid"]["kind"], defaults["solver"]["kind"], defaults["steps"]) == (
        "grid/learned", "solver/learned", 3,
    )  # fmt: skip
    assert model.info_["hash"] == read_info(teacher)["hash"], "the same model with other defaults"
    own, again, other = load(teacher, "cpu"), model.sample(2, seed=4), model.sample(2, seed=4, steps=7)
    assert again[0].recipe["solver"]["kind"] == "solver/learned"
    assert not np.array_equal(again[0].data, own.sample(2, seed=4, steps=3)[0].data)
    assert np.array_equal(other[1].data, own.sample(2, seed=4, steps=7)[1].data), "other steps: the model's own way"
    path, same = kakusan.reproduce(facade.save_samples(again, tmp_path / "samples")[0])
    assert same, path
    figures = json.loads((tmp_path / "out" / "few-steps.json").read_text("utf-8"))
    assert [p["series"] for p in figures["points"]] == ["the model's own way", "tuned", "the model's own way"]
    assert "What was learned" in done.report.read_text("utf-8")


def test_several_numbers_of_steps_stand_in_one_file_and_the_teacher_takes_them_when_asked(trained, tmp_path):
    copy = tmp_path / "teacher.safetensors"
    copy.write_bytes((trained[0] / "model.safetensors").read_bytes())
    for steps in (3, 2):
        done = distill(
            copy, method="tune", steps=steps, minutes=0.01, out=tmp_path / f"{steps}-{len(list(tmp_path.iterdir()))}",
            set_default=True, device="cpu", progress=Progress(quiet=True),
        )  # fmt: skip
        assert done.result["data"] is None and done.result["points"] == []
    known = sampler.defaults(load_model(copy)[0])
    assert sorted(len(row) for row in known["solver"]["lams"]) == [1, 2]
    assert known["grid"]["base"]["kind"] == "grid/karras" and known["solver"]["base"]["kind"] == "solver/dpm2m"


def test_no_gain_writes_no_model(trained, tmp_path, monkeypatch):
    found = tuned.Tuned(3, 0.5, 0.6, 0.5, "ddim on karras", 2, None, None, [0.6])
    monkeypatch.setattr(distil, "tuned", lambda *given, **settings: found)
    done = made(trained, method="tune", steps=3, count=0, out=tmp_path / "out")
    assert done.path is None and not done.result["kept"] and "nothing was changed" in done.result["words"]
    assert not (tmp_path / "out" / "model.safetensors").exists()
    with pytest.raises(KakusanError, match="no gain"):
        done.load()


def test_a_student_is_a_run_with_its_own_report(trained, tmp_path):
    before = (trained[0] / "model.safetensors").read_bytes()
    done = student(trained, tmp_path / "out", count=12, steps=8)
    assert (trained[0] / "model.safetensors").read_bytes() == before
    for name in ("recipe.toml", "environment.json", "log.jsonl", "events.jsonl", "report.html", "state", "grid.png"):
        assert (tmp_path / "out" / name).exists(), name
    model = done.load("cpu")
    assert model.model.weak is None and model.info_["distilled"]["hash"] == load(trained[0], "cpu").info_["hash"]
    sample = model.sample(1)[0]
    assert sample.recipe["grid"]["kind"] == "grid/consistency" and sample.recipe["steps"] == 2
    assert sampler.evaluations(sample.recipe) == 2, "guidance is inside"
    points = done.result["points"]
    assert {p["steps"] for p in points if p["series"] == "student"} == {1, 2, 4}
    assert {p["series"] for p in points} > {"student", "teacher", "teacher, unguided"}
    page = done.report.read_text("utf-8")
    assert "Distance against evaluations" in page and done.result["words"] in page.replace("&#x27;", "'")


@contextlib.contextmanager
def stopped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever trains meanwhile is asked to stop at its fourth step."""
    real = loop.run

    def broken(*given: Any, **options: Any) -> Any:
        given[5].on_log = lambda row: options["stop"].request() if row["step"] == 4 else None
        return real(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "run", broken)
        yield


def test_a_student_stopped_and_resumed_is_the_one_that_never_stopped(trained, tmp_path, monkeypatch):
    student(trained, tmp_path / "straight")
    with stopped(monkeypatch):
        assert student(trained, tmp_path / "out").interrupted
    assert not (tmp_path / "out" / "model.safetensors").exists()
    done = facade.resume(tmp_path / "out", progress=Progress(quiet=True))
    assert not done.interrupted
    one, other = (load_model(tmp_path / name / "model.safetensors")[0].state_dict() for name in ("straight", "out"))
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def halved(trained: tuple[Path, Path], out: Path) -> Distilled:
    """A student of 2 steps from 8, by way of 4."""
    return student(trained, out, method="progressive", more=["objective.grid.steps=8"], wanted=2, steps=12)


def test_a_student_by_halvings_stopped_and_resumed_is_the_one_that_never_stopped(trained, tmp_path, monkeypatch):
    straight = halved(trained, tmp_path / "straight")
    first, last = (load(path, "cpu") for path in (tmp_path / "straight" / "steps-4", straight.path))
    assert [m.info_["training"]["steps"] for m in (first, last)] == [6, 6], "the steps are shared"
    assert [sampler.defaults(m.model)["steps"] for m in (first, last)] == [4, 2]
    assert sampler.evaluations(last.sample(1)[0].recipe) == 2, "guidance is inside"
    asked = [recipe.read(tmp_path / "straight" / name / "recipe.toml")["training"] for name in ("steps-4", "")]
    assert [a["objective"]["steps"] for a in asked] == [4, 2]
    assert asked[0]["objective"]["autoguidance"] > 1 and asked[1]["objective"]["autoguidance"] == 1, "once is enough"
    with stopped(monkeypatch):
        assert halved(trained, tmp_path / "out").interrupted
    first = tmp_path / "out" / "steps-4"
    assert not (first / "model.safetensors").exists()
    assert not facade.resume(first, progress=Progress(quiet=True)).interrupted, "the message names the round's folder"
    for name in ("steps-4", "."):
        one, other = (load_model(tmp_path / run / name / "model.safetensors")[0] for run in ("straight", "out"))
        for key, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[key]), key


def test_the_weight_of_guidance_as_an_input_of_a_student(trained, tmp_path):
    done = student(trained, tmp_path / "out", steps=4, guidance=2.5, guidance_range=(1, 4))
    model, teacher = done.load("cpu"), load(trained[0], "cpu")
    encoder = model.model.encoder("guidance")
    assert (encoder.low, encoder.high, encoder.usual) == (1.0, 4.0, 2.5)
    usual, three = model.sample(1, seed=5)[0], model.sample(1, seed=5, guidance=3.0)[0]
    assert sampler.evaluations(three.recipe) == 2 and three.recipe["cond"]["guidance"] == 3.0
    assert torch.equal(model.sample(1, seed=5, guidance=2.5)[0].raw, usual.raw)
    assert not torch.equal(three.raw, usual.raw), "it has learnt that weights differ"
    path, same = kakusan.reproduce(facade.save_samples([three], tmp_path / "samples")[0])
    assert same, path
    with pytest.raises(KakusanError, match="weights from 1 to 4"):
        model.sample(1, guidance=5.0)
    with pytest.raises(KakusanError, match="told once"):
        model.sample(1, guidance=2.0, cond={"guidance": 3.0})
    with pytest.raises(KakusanError, match="takes the weight as an input already"):
        distill(done.path, trained[1], guidance_range=(1, 4), out=tmp_path / "next", device="cpu")
    with torch.random.fork_rng():
        fresh = build(read_info(done.path)["spec"], "model")
    moved = columns(fresh, teacher.model)["denoiser.net.vector_in.weight"]
    before = teacher.model.state_dict()["denoiser.net.vector_in.weight"]
    zeros = moved.abs().sum(0) == 0
    assert int(zeros.sum()) == 8 and torch.equal(moved[:, ~zeros], before), "the others keep their columns"


def test_a_student_of_the_mean_velocity_jumps_and_is_resumed_exactly(trained, tmp_path, monkeypatch):
    options: dict[str, Any] = {"method": "mean-flow", "more": ["objective.align=3"], "wanted": 2}
    straight = student(trained, tmp_path / "straight", **options)
    with stopped(monkeypatch):
        assert student(trained, tmp_path / "out", **options).interrupted
    assert not facade.resume(tmp_path / "out", progress=Progress(quiet=True)).interrupted
    model, other = straight.load("cpu"), load(tmp_path / "out", "cpu").model.state_dict()
    for name, tensor in model.model.state_dict().items():
        assert torch.equal(tensor, other[name]), name
    two = model.sample(1, seed=5, label="disc")[0]
    assert sampler.evaluations(two.recipe) == 2, "guidance is inside"
    moved = model.model.state_dict()["denoiser.net.vector_in.weight"][:, -8:]
    assert float(moved.abs().max()) > 0, "it has learnt that jumps differ"
    model.model.timed = None
    assert not torch.equal(model.sample(1, seed=5, label="disc")[0].raw, two.raw), "the sampler tells where steps land"
    with pytest.raises(KakusanError, match="the sampler says where its steps land"):
        straight.load("cpu").sample(1, cond={"landing": 1.0})


@pytest.mark.parametrize("faster", [True, False])
def test_a_student_learns_in_bf16_where_a_few_steps_are_faster_so(trained, tmp_path, monkeypatch, faster):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    heard: list[tuple[str, bool]] = []

    def timed(tree: Any, sample: Any, device: Any, precision: str, teacher: Any = None) -> tuple[float, int]:
        heard.append((precision, teacher is not None))
        return (0.5 if faster and precision == "bf16" else 1.0), 0

    monkeypatch.setattr(timing, "timed", timed)
    halved(trained, tmp_path / "student")
    for part in ("student", "student/steps-4"):
        told = recipe.read(tmp_path / part / "recipe.toml")["training"]["precision"]
        assert told == ("bf16" if faster else "fp32"), part
    assert heard and all(teacher for _, teacher in heard), "its teacher's evaluations are part of a step"


def test_a_student_learns_with_fewer_products_and_so_does_its_teacher_teach(trained, tmp_path, monkeypatch):
    """The plan is told what is faster; both networks follow it, and the teacher that was lent stays as it is."""
    monkeypatch.setattr(winograd, "CHANNELS", 8)
    quicker = {"winograd": 0.5}
    monkeypatch.setattr(timing, "timed", lambda tree, *_: (quicker.get(tree["training"].get("convolution"), 1.0), 0))
    filtered, honest = [], winograd.conv3x3

    def heard(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        filtered.append("student" if weight.requires_grad else "teacher")
        return honest(x, weight, bias)

    monkeypatch.setattr(winograd, "conv3x3", heard)
    lent = load(trained[0], "cpu")
    monkeypatch.setattr(distil, "load", lambda *given: lent)
    student(trained, tmp_path / "student", steps=2)
    assert recipe.read(tmp_path / "student" / "recipe.toml")["training"]["convolution"] == "winograd"
    assert set(filtered) == {"student", "teacher"}
    filtered.clear()
    lent.sample(1)
    assert filtered == []


def test_classes_that_the_data_number_are_the_teachers(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)
    np.savez(tmp_path / "data.npz", images=pictures, labels=np.arange(40) % 10)
    teacher = load("fashion", "cpu")
    project = student_data.opened(teacher, str(tmp_path / "data.npz"), None, Progress(quiet=True))
    assert project.facts.classes == teacher.classes and len(teacher.classes) == 10


def test_a_smaller_student_alone_is_drawn_as_its_teacher_and_judged_by_what_it_costs(trained, tmp_path, monkeypatch):
    done = student(trained, tmp_path / "out", steps=4, method="shrink", student_size=0.4, guidance=2.0)
    model, teacher = done.load("cpu"), load(trained[0], "cpu")
    share = distilled._parameters(model) / distilled._parameters(teacher)
    assert 0.2 < share < 0.6
    mine, theirs = sampler.defaults(model.model), sampler.defaults(teacher.model)
    assert [mine[n] for n in ("solver", "grid", "steps")] == [theirs[n] for n in ("solver", "grid", "steps")]
    assert sampler.evaluations(model.sample(1, label="disc")[0].recipe) == mine["steps"], "guidance is inside"
    asked: list[Any] = []

    def measured(judge: Any, loaded: Loaded, series: str, **settings: Any) -> Point:
        asked.append((series, settings["steps"]))
        return Point(series, settings["steps"], settings["steps"], 100.0, 90.0, 110.0, 0.1)

    monkeypatch.setattr(distilled.Judge, "__init__", lambda *given: None)
    monkeypatch.setattr(distilled.Judge, "point", measured)
    about = {"method": "shrink", "steps": 20, "count": 12}
    with Stop() as stop:
        points = distilled._points(teacher, model, None, about, Progress(quiet=True), stop)
    assert [s for name, s in asked if name == "student"] == [10, 20]
    assert points is not None and {p.size for p in points if p.series == "student"} == {share}
    assert ("teacher, unguided", int(20 * share)) in asked, "as many evaluations of the teacher as cost the same"


def test_guidance_inside_costs_one_evaluation_a_step_and_can_be_tuned(trained, tmp_path):
    done = student(trained, tmp_path / "out", steps=4, method="guidance", guidance=2.0)
    model, teacher = done.load("cpu"), load(trained[0], "cpu")
    assert model.model.denoiser.spec() == teacher.model.denoiser.spec() and model.model.weak is None
    mine, theirs = sampler.defaults(model.model), sampler.defaults(teacher.model)
    assert [mine[n] for n in ("solver", "grid", "steps")] == [theirs[n] for n in ("solver", "grid", "steps")]
    assert sampler.evaluations(model.sample(1, label="disc")[0].recipe) == mine["steps"]
    objective = recipe.read(tmp_path / "out" / "recipe.toml")["training"]["objective"]
    assert objective["kind"] == "objective/imitation"
    assert objective["guidance"] == 2.0 and objective["autoguidance"] == theirs["autoguidance"] > 1
    tuned = kakusan.distill(done.path, method="tune", steps=3, minutes=0.05, out=tmp_path / "tuned")
    assert tuned.result["kept"] and tuned.result["after"] < tuned.result["before"]
    assert "with DATA the Fréchet distance decides too" in tuned.result["words"]
    assert sampler.evaluations(tuned.load("cpu").sample(1, label="disc")[0].recipe) == 3
    with pytest.raises(KakusanError, match="draws without guidance, in one evaluation a step"):
        made((done.path, trained[1]), method="guidance")


def test_a_smaller_student_of_few_steps_is_shrunk_first(trained, tmp_path):
    done = student(trained, tmp_path / "out", student_size=0.4)
    first, last = (load(path, "cpu").model.denoiser.net for path in (tmp_path / "out" / "shrink", done.path))
    assert first.spec() == last.spec() != load(trained[0], "cpu").model.denoiser.net.spec()
    kinds = [recipe.read(tmp_path / "out" / name / "recipe.toml")["training"]["objective"] for name in ("shrink", "")]
    assert [k["kind"] for k in kinds] == ["objective/imitation", "objective/consistency"]
    assert kinds[0]["autoguidance"] == kinds[1]["autoguidance"] > 1


def test_a_smaller_network_s_evaluations_count_for_less():
    small = replace(point("student", 4, 100.0), size=0.25)
    found = verdict(small, [point("teacher", 1, 150.0), point("teacher", 2, 10.0)])
    assert found["better"] is True and "4 evaluations of 25% of the network" in found["words"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["objective.grid.steps=12"], "halving 12 steps does not lead to 2"),
        (["objective.grid.steps=2"], "halving 2 steps does not lead to 2"),
        (["objective.steps=4"], "the student's steps are told by --steps 2"),
    ],
    ids=str,
)
def test_halvings_that_lead_elsewhere_are_refused(trained, tmp_path, more, said):
    with pytest.raises(KakusanError, match=said):
        student(trained, tmp_path / "out", method="progressive", more=more, wanted=2)


def test_a_teacher_with_a_weight_for_each_condition_needs_one_for_all(trained):
    teacher = load(trained[0], "cpu")
    teacher.model.defaults["guidance"] = {"label": 2.0}
    project = opened(teacher, str(trained[1]), None, Progress(quiet=True))
    wish = Wish("consistency", 2, None, None, None, ["training.steps=2"], 0)
    with pytest.raises(KakusanError, match="give one weight, --guidance 2"):
        planned(teacher, project, wish)
    ((_, tree),) = planned(teacher, project, replace(wish, guidance=2.0))
    assert tree["training"]["objective"]["guidance"] == 2


def test_resume_refuses_another_teacher(trained, tmp_path):
    done = student(trained, tmp_path / "out")
    done.path.unlink()
    file = tmp_path / "out" / "environment.json"
    about = json.loads(file.read_text("utf-8"))
    about["distilled"]["hash"] = "0" * 64
    file.write_text(json.dumps(about), "utf-8")
    with pytest.raises(KakusanError, match="no longer the teacher"):
        facade.resume(tmp_path / "out", progress=Progress(quiet=True))


def test_a_finished_student_gets_the_report_it_lacks_and_nothing_else(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(distilled, "_points", lambda *given: [point("student", 2, 100.0), point("teacher", 2, 104.0)])
    done = student(trained, tmp_path / "out", count=12, steps=2)
    before = done.path.read_bytes()
    done.report.unlink()
    again = facade.resume(tmp_path / "out", progress=Progress(quiet=True))
    assert not again.interrupted and done.report.is_file() and done.path.read_bytes() == before
    for minutes in (None, 1.0):
        with pytest.raises(KakusanError, match="this student is finished; make another: kakusan distill"):
            facade.resume(tmp_path / "out", minutes=minutes, progress=Progress(quiet=True))


def test_more_steps_than_a_student_was_made_for_are_warned_of(trained, tmp_path, capsys):
    student(trained, tmp_path / "out", steps=2)
    words = ["sample", str(tmp_path / "out"), "--device", "cpu", "--out", str(tmp_path / "drawn"), "--steps"]
    for steps, warned in ((4, False), (6, True)):
        with pytest.raises(SystemExit) as ended:
            main([*words, str(steps)])
        assert ended.value.code == 0
        assert ("made for 1 to 4" in capsys.readouterr().err) is warned


def point(series: str, evaluations: int, value: float) -> Point:
    return Point(series, 2, evaluations, value, value - 10, value + 10, 0.01)


@pytest.mark.parametrize(
    ("rivals", "better", "named"),
    [
        ([("tuned", 2, 60.0), ("teacher", 40, 10.0)], False, "tuned"),
        ([("tuned", 2, 160.0), ("teacher", 2, 150.0)], True, "teacher"),
        ([("tuned", 2, 105.0)], None, "tuned"),
        ([("teacher", 40, 10.0)], None, None),
    ],
)
def test_the_verdict_compares_at_equal_evaluations(rivals, better, named):
    found = verdict(point("student", 2, 100.0), [point(*r) for r in rivals])
    assert found["better"] is better and found.get("rival") == named


def test_a_worse_student_recommends_the_solver(trained, tmp_path, monkeypatch):
    def measured(teacher: Loaded, made: Loaded, *given: Any) -> list[Point]:
        return [point("student", 2, 100.0), point("teacher, unguided, tuned", 2, 50.0)]

    monkeypatch.setattr(distilled, "_points", measured)
    done = student(trained, tmp_path / "out", count=12, steps=2)
    assert done.result["verdict"]["better"] is False
    assert "--method tune" in done.report.read_text("utf-8")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "consistancy"}, "did you mean 'consistency'"),
        ({"method": "magic"}, "choose one of: mean-flow, consistency, progressive, guidance, shrink, tune"),
        ({"steps": 0}, "--steps 0: --method mean-flow makes models of 1 to 100 steps"),
        ({"method": "tune", "steps": 1}, "--steps 1: --method tune makes models of 2"),
        ({"minutes": 0.0}, "--minutes 0: must be greater than 0"),
        ({"count": 5}, "-n 5: too few samples"),
        ({"set_default": True}, "only --method tune"),
        ({"autoguidance": float("nan")}, "autoguidance"),
        ({"student_size": 1.5}, "--student-size 1.5: it is a share"),
        ({"student_size": 0.5, "method": "tune"}, "use --method shrink"),
        ({"student_size": 0.5, "method": "guidance"}, "keeps the network's size; use --method shrink"),
        ({"method": "guidance", "guidance": 1.0, "autoguidance": 1.0}, "draws without guidance, in one evaluation"),
        ({"guidance_range": (4, 1)}, "--guidance-range 4,1: need LOW,HIGH"),
        ({"guidance_range": "1"}, "--guidance-range 1: need LOW,HIGH"),
        ({"guidance_range": (1, 4), "method": "tune"}, "only a student"),
        ({"guidance_range": (1, 2), "guidance": 3.0}, "lies outside --guidance-range 1,2"),
    ],
    ids=str,
)
def test_bad_requests_are_one_line(trained, options, said):
    with pytest.raises(KakusanError, match=said) as caught:
        made(trained, **options)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "wrong", ["training.convolution=winograt", "training.objective.gap=3", "denoiser.net.width=-8"]
)
def test_settings_that_are_refused_leave_nothing(trained, tmp_path, wrong):
    with pytest.raises(KakusanError, match=wrong.split("=")[1]):
        student(trained, tmp_path / "student", more=[wrong], method="mean-flow")
    assert not (tmp_path / "student").exists()


def test_a_student_needs_pictures(trained):
    with pytest.raises(KakusanError, match="no data: a student learns from pictures"):
        distill(trained[0], progress=Progress(quiet=True))


@pytest.mark.parametrize(
    ("mode", "classes", "said"),
    [("RGB", ("disc", "square"), "give pictures of its kind"), ("L", ("disc", "cube"), "are not the teacher's 2")],
)
def test_pictures_of_another_kind_are_refused(trained, tmp_path, mode, classes, said):
    other = written(tmp_path / "other", mode, classes)
    with pytest.raises(KakusanError, match=said):
        distill(trained[0], other, device="cpu", progress=Progress(quiet=True))
    assert not (tmp_path / "runs").exists()


def test_noise_added_of_one_s_own_does_not_go_with_a_climbing_list(trained, tmp_path):
    model = student(trained, tmp_path / "out", steps=2).load("cpu")
    with pytest.raises(KakusanError, match="grid/consistency adds noise of its own"):
        model.sample(1, eta=0.5)


def test_the_stop_is_heard_while_tuning(trained, tmp_path, monkeypatch):
    class Asked(Stop):
        def __call__(self) -> bool:
            return True

    monkeypatch.setattr(distil, "Stop", Asked)
    done = made(trained, method="tune", steps=3, count=0, out=tmp_path / "out")
    assert done.interrupted and done.path is None and not list((tmp_path / "out").iterdir())
