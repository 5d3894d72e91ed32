"""The command line: quick help, did-you-mean, one-line errors, clean standard output."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image as Pil

from kakusan.app import cli
from kakusan.part import KakusanError

VERBS = [
    "train",
    "sample",
    "vary",
    "inpaint",
    "outpaint",
    "edit",
    "blend",
    "upscale",
    "resume",
    "info",
    "evaluate",
    "compare",
    "distill",
    "bench",
    "export",
    "reproduce",
    "data",
    "doctor",
]
LATER = ["serve"]


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    return int(stopped.value.code or 0)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_help_is_quick_and_imports_nothing_heavy():
    """Under 0.3 s of processor time, which is the wall time on a machine that is not busy with something else."""
    code = """
import sys
from kakusan.app.cli import main
try:
    main(["--help"])
except SystemExit as stopped:
    assert not stopped.code
heavy = {"torch", "numpy", "PIL", "safetensors", "diffusers"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    took = []
    for _ in range(6):  # the least of them: what else the machine does can only lengthen one
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = python(code)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0 and done.stderr.strip() == "[]"
        if took[-1] < 0.3:
            break
    assert min(took) < 0.3, f"kakusan --help took {min(took):.2f} s"


def test_help_lists_the_verbs_there_are(capsys):
    assert call("--help") == 0
    shown = capsys.readouterr().out
    found = [line.split()[1] for line in shown.splitlines() if line.startswith("│ ") and line[2] not in " -"]
    assert found == VERBS
    assert not set(found) & set(LATER)


@pytest.mark.parametrize(
    "verb",
    [
        ["train"],
        ["sample"],
        ["vary"],
        ["inpaint"],
        ["outpaint"],
        ["edit"],
        ["blend"],
        ["upscale"],
        ["resume"],
        ["info"],
        ["evaluate"],
        ["compare"],
        ["bench"],
        ["export"],
        ["reproduce"],
        ["data", "check"],
        ["doctor"],
    ],
)
def test_every_verb_explains_itself_and_speaks_json(verb, capsys):
    assert call(*verb, "--help") == 0
    shown = capsys.readouterr().out
    assert f"Usage: kakusan {' '.join(verb)}" in shown and "--json" in shown
    assert "--no-json" not in shown and "--empty" not in shown


def test_version(capsys):
    assert call("--version") == 0
    assert capsys.readouterr().out.startswith("kakusan ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sampel", "x"], 'Did you mean "sample"'),
        (["sample", "x", "--stepz", "3"], "Did you mean --steps"),
        (["train"], "DATA"),
        (["sample", "x", "-n", "many"], "many"),
        (["sample", "x", "-n", "0"], "-n 0: must be greater than 0"),
        (["train", "x", "--minutes", "-3"], "--minutes -3.0: must be greater than 0"),
        (["train", "x", "y"], "NAME=VALUE"),
        (["train", "x", "--fit", "corp"], "corp"),
        (["sample", "x", "--cond", "label"], "NAME=VALUE"),
        (["sample", "/no/such/model"], "no such model"),
        (["info", "/no/such/model"], "no such model"),
        (["resume", "/no/such/run"], "no such folder"),
        (["reproduce", "/no/such/file.png"], "no such file"),
        (["data", "check", "/no/such/data"], "/no/such/data"),
        (["train", "/no/such/data", "--out", "never-made"], "/no/such/data"),
        (["train", "/no/such/data"], "/no/such/data"),
        (["train", "/no/such/data", "--device", "cdua"], "--device cdua: no such device; use auto, cpu"),
    ],
)
def test_a_mistake_is_one_line_that_says_how_to_fix_it(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(*words) == 2
    assert not list(tmp_path.iterdir())
    out, err = capsys.readouterr()
    last = err.strip().splitlines()[-1]
    assert out == "" and last.startswith("kakusan: ") and said in last
    assert "Traceback" not in err


def test_samples_do_not_go_into_a_file(capsys, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    assert call("sample", "any", "--out", str(tmp_path / "note.txt")) == 2
    assert "is a file; name a folder" in capsys.readouterr().err and (tmp_path / "note.txt").read_text() == "mine"


def test_a_mistake_with_json_is_an_object_too(capsys):
    assert call("info", "/no/such/model", "--json") == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["code"] == 2 and "no such model" in json.loads(out)["error"] and err.startswith("kakusan: ")


@dataclass
class Facade:
    """Stands for kakusan.app.facade: records what it is asked."""

    asked: dict = field(default_factory=dict)
    raises: BaseException | None = None

    def train(self, data, **given):
        self.asked = {"data": data} | given
        print("a library that talks on standard output")
        if self.raises:
            raise self.raises
        run = Path("runs/x")
        return SimpleNamespace(
            path=run / "model.safetensors",
            run=run,
            report=run / "report.html",
            interrupted=False,
            findings=[],
            summary={"steps": 3, "loss": float("nan")},
        )

    def resume(self, run, **given):
        done = self.train(run, **given)
        done.interrupted, done.path, done.report = True, None, None
        return done

    def model_info(self, model):
        return {"path": model, "deep": {"a": {"b": 1.5}}, "classes": list(range(30)), "reference": {"x": 1}}


@pytest.fixture
def facade(monkeypatch) -> Facade:
    import kakusan.app

    fake = Facade()
    monkeypatch.setitem(sys.modules, "kakusan.app.facade", fake)
    monkeypatch.setattr(kakusan.app, "facade", fake, raising=False)
    return fake


def test_the_words_of_train_reach_the_facade(facade, capsys):
    words = (
        "train photos --minutes 30 --out runs/photos --no-flip --from runs/old denoiser.net.width=96 training.batch=16"
    )
    assert call(*words.split()) == 0
    given = facade.asked
    assert given["data"] == "photos" and given["minutes"] == 30 and given["out"] == Path("runs/photos")
    assert given["flip"] is False and given["start"] == "runs/old"
    assert given["overrides"] == ["denoiser.net.width=96", "training.batch=16"]
    assert all(given[k] is None for k in ("steps", "recipe", "labels", "fit", "size", "seed"))
    out, err = capsys.readouterr()
    assert out == "runs/x/model.safetensors\n" and "talks" in err and "report.html" in err


def test_json_is_the_only_thing_on_standard_output(facade, capsys):
    assert call("train", "photos", "--json") == 0
    out, _ = capsys.readouterr()
    found = json.loads(out)
    assert out.count("\n") == 1 and found["path"] == "runs/x/model.safetensors" and found["healthy"] is True
    assert found["summary"] == {"steps": 3, "loss": None}  # JSON has no NaN


def test_an_interrupted_run_exits_130_with_the_run_as_its_path(facade, capsys):
    assert call("resume", "runs/x") == 130
    assert capsys.readouterr().out == "runs/x\n"


def test_info_is_a_table_of_dotted_names(facade, capsys):
    assert call("info", "runs/x") == 0
    out = capsys.readouterr().out
    assert "deep.a.b" in out and "... (30)" in out and "reference" not in out
    assert call("info", "runs/x", "--json") == 0
    assert json.loads(capsys.readouterr().out)["reference"] == {"x": 1}


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, None),
        (BrokenPipeError(), 130, None),
        (KakusanError("size=3: too small\nuse 8"), 2, "kakusan: size=3: too small use 8"),
        (PermissionError(13, "Permission denied", "some/file"), 1, "kakusan: some/file: Permission denied"),
        (ModuleNotFoundError("x", name="diffusers"), 1, "pip install"),
        (RuntimeError("CUDA out of memory. Tried"), 1, "--batch 1"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, "--batch 1"),
        (ZeroDivisionError("division by zero"), 1, "this is a bug"),
    ],
)
def test_what_goes_wrong_has_a_code_and_a_line(error, code, said, facade, capfd, monkeypatch):
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    facade.raises = error
    assert call("train", "photos") == code
    out, err = capfd.readouterr()
    lines = [x for x in err.splitlines() if "talks" not in x]
    assert out == "" and "Traceback" not in err
    assert (lines == []) if said is None else (len(lines) == 1 and said in lines[0])


def test_a_reader_that_leaves_early_is_no_error():
    code = "from kakusan.app.cli import main; main(['--help'])"
    done = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    done.stdout.close()
    assert done.wait(60) in (0, 1, 130) and done.stderr.read() == b""


def test_a_sample_made_again_otherwise_is_said_by_how_much(facade, tmp_path, capsys):
    from kakusan.app.draw.samples import apart

    first = np.full((4, 5, 3), 100, np.uint8)
    second = first.copy()
    second[1, 2] = 103, 100, 99
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, pixels in zip(paths, (first, second), strict=True):
        Pil.fromarray(pixels).save(path)
    assert apart(*paths) == (3, 1, 20) and apart(paths[0], paths[0]) == (0, 0, 20)
    facade.reproduce = lambda file, **given: (paths[1], False)
    assert call("reproduce", str(paths[0]), "--json") == 0
    out = capsys.readouterr().out
    assert json.loads(out) == {"path": str(paths[1]), "identical": False, "levels": 3.0, "pixels": 1}
    assert call("reproduce", str(paths[0])) == 0
    assert "not identical: up to 3 of 255 levels off, at 1 of 20 pixels" in "".join(capsys.readouterr())
    Pil.fromarray(first[:2]).save(paths[1])
    assert apart(*paths)[0] == float("inf")
