"""What the documents say is true: their commands run, their code runs, their links lead somewhere."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kakusan.app import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)


def test_the_tutorial_on_your_own_tensor_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    names: dict[str, object] = {}
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            for block in blocks(ROOT / "docs" / "tutorials" / "your-own-tensor.md", "python"):
                exec(block, names)  # the page is ours
    finally:
        torch.set_num_threads(before)
    words = re.search(r"median distance to the moons: ([\d.]+)", said.getvalue())
    assert words is not None and float(words[1]) < 0.03
    assert "alpha is 0" in said.getvalue()
    assert (tmp_path / "waves.safetensors").exists()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with pictures, as the README's reader has."""
    folder = tmp_path_factory.mktemp("reader")
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(15):
            smooth = np.kron(draw.uniform(0, 255, (4, 4, 3)), np.ones((5, 5, 1))).astype(np.uint8)
            Image.fromarray(smooth).save(folder / "photos" / name / f"{i}.png")
    return folder


def commands_of(page: Path) -> list[str]:
    lines = [line for block in blocks(page, "console") for line in block.splitlines()]
    return [line[2:] for line in lines if line.startswith("$ kakusan ")]


@pytest.fixture
def reader(tmp_path, monkeypatch, one_thread) -> Path:
    """An empty folder that a page's commands run in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path / "cache"))
    return tmp_path


def follow(page: str) -> None:
    """Run a tutorial's commands in their order."""
    for command in commands_of(ROOT / "docs" / "tutorials" / page):
        with pytest.raises(SystemExit) as done:
            cli.main(shlex.split(command)[1:])
        assert done.value.code == 0, command


def test_the_tutorial_on_first_pictures_runs(reader):
    follow("first-pictures.md")
    assert len(list((reader / "sneakers").glob("seed-??????.png"))) == 8
    with Image.open(next((reader / "boot").glob("*.png"))) as im:
        assert (im.size, im.mode) == ((28, 28), "L")


def test_the_tutorial_on_words_runs(reader, capsys):
    follow("from-words.md")
    assert "unknown" not in capsys.readouterr().err
    assert len(list((reader / "balloons").glob("seed-??????.png"))) == 3
    for folder in ("apple", "ringo", "greener"):
        with Image.open(next(p for p in sorted((reader / folder).glob("*.png")) if p.stem != "grid")) as im:
            assert (im.size, im.mode) == ((64, 64), "RGBA")


def test_the_commands_of_the_readme_run_in_their_order(workplace):
    """As they stand there, but for the length of the training and the size of the network."""
    commands = commands_of(ROOT / "README.md")
    assert {shlex.split(c)[1] for c in commands} >= {"train", "sample", "resume", "info", "doctor", "data", "reproduce"}
    environment = os.environ | {"KAKUSAN_CACHE": str(workplace / "cache"), "OMP_NUM_THREADS": "1"}
    for command in commands:
        words = shlex.split(command, comments=True)[1:]
        if words[0] == "train":
            at = words.index("--minutes")
            words[at : at + 2] = ["--steps", "3", "denoiser.net.width=8", "denoiser.net.blocks=1", "training.batch=4"]
        if words[0] == "evaluate":
            words += ["-n", "50", "--steps", "3"]
        if words[0] == "resume":
            at = words.index("--minutes")
            words[at + 1] = "0.05"
        run = [sys.executable, "-m", "kakusan.app.cli", *words]
        done = subprocess.run(run, cwd=workplace, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_catalog_and_its_page_name_the_same_parts():
    from kakusan.catalog import CATALOG

    said = set(
        re.findall(r"`([a-z]+/[a-z0-9-]+|training)`", (ROOT / "docs" / "reference" / "parts.md").read_text("utf-8"))
    )
    assert set(CATALOG) - {"denoiser", "model"} <= said
    assert {s for s in said if "/" in s} <= set(CATALOG)
