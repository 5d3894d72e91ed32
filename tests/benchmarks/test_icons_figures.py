"""benchmarks/icons.py: what is kept, how defaults are chosen, and figures whose truth is known."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from app.standins import pixels
from kakusan.domains.image import Image
from kakusan.evaluation.features import from_function

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch, one_thread):
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "icons"))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def icons(each: int = 24):
    """Pictures of smooth colours in four styles and three parts, each of a concept of its own."""
    from judging.icons import Icons

    draw, lines, made = np.random.default_rng(0), [], []
    for split in ("train", "test-concepts", "test-styles"):
        for style in ("noto", "3d", "flat", "modern"):
            for i in range(each):
                name = f"{split} {style} {i}"
                lines.append({"split": split, "style": style, "code": name, "concept": name, "text": [f"a {name}"]})
                made.append(np.kron(draw.integers(0, 256, (8, 8, 4)), np.ones((8, 8, 1))).astype(np.uint8))
    return Icons(np.stack(made), lines, frozenset())


def bench(tmp_path: Path, real: bool):
    """A bench whose samples are the very pictures that the prompts are of, or noise."""
    from iconbench.bench import Bench

    model = SimpleNamespace(info_={"hash": "f" * 64}, domain=Image((64, 64), "RGBA"))
    found = Bench(model, None, {}, {}, tmp_path, tmp_path, tmp_path, 12, 0, tell=lambda words: None)
    made = icons()
    found.__dict__ |= {"icons": made, "extract": from_function(pixels, 17, "pixels")}
    by_name = {line["code"]: i for i, line in enumerate(made.lines)}
    noise = np.random.default_rng(1).integers(0, 256, (len(made.lines), 64, 64, 4), np.uint8)

    def draw(asked, **settings):
        rows = [by_name[p.code] for p in asked]
        return (made.pictures if real else noise)[rows]

    found.__dict__ |= {"draw": draw, "real_features": lambda rows: pixels(made.pictures[rows])}
    return found


def test_rows_are_kept_and_another_question_begins_anew(tmp_path):
    from iconbench.kept import Kept

    calls: Counter[str] = Counter()

    def make(name):
        calls[name] += 1
        return {"value": calls[name]}

    file = tmp_path / "new" / "part.json"
    first = Kept(file, {"count": 1, "pair": (1, 2)})
    assert first.row("a", lambda: make("a")) == {"value": 1}
    first.write(chosen=3)
    again = Kept(file, {"count": 1, "pair": [1, 2]})
    assert again.row("a", lambda: make("a")) == {"value": 1} and again.extra == {"chosen": 3}
    again.row("b", lambda: make("b"))
    assert Kept(file, {"count": 1, "pair": [1, 2]}).rows.keys() == {"a", "b"}
    assert Kept(file, {"count": 2}).rows == {}
    assert calls == {"a": 1, "b": 1}


def cell(guidance, steps, top1, frechet, half=0.1, spread=5.0):
    right = round(100 * top1)  # the same easy prompts in every cell
    return {
        "right": "1" * right + "0" * (100 - right),
        "guidance": guidance, "steps": steps, "evaluations": steps * (1 if guidance == 1 else 2), "top1": top1,
        "top1_interval": [top1 - half, top1 + half], "frechet": frechet, "low": frechet - spread,
        "high": frechet + spread,
    }  # fmt: skip


def test_the_defaults_are_the_cheapest_of_those_that_are_not_told_from_the_best():
    from iconbench.curves import chosen, table

    rows = [
        cell(1, 20, 0.40, 50),  # the nearest to real pictures, and deaf to words
        cell(3, 20, 0.84, 100),
        cell(3, 8, 0.83, 104),  # both figures within the noise of the best, and the fewest evaluations
        cell(2, 8, 0.83, 107),
        cell(6, 8, 0.85, 150),
        cell(2, 4, 0.79, 90),  # of the same samples 6 fewer are right, and none more
    ]
    assert chosen(rows) == {"guidance": 3, "steps": 8}
    assert chosen([*rows, cell(3, 4, 0.84, 130)]) == {"guidance": 3, "steps": 8}
    assert chosen(rows[:1]) == {"guidance": 1, "steps": 20}
    words = table({f"{i}": r for i, r in enumerate(rows)})
    assert words.count("**3**") == 1 and "| **3** | **8** |" in words


def test_worse_is_told_from_the_samples_that_differ():
    from iconbench.curves import worse

    best = {"right": "1" * 50 + "0" * 50}
    assert not worse(best, best)
    assert not worse({"right": "1" * 48 + "0" * 52}, best)  # 2 against 0
    assert worse({"right": "1" * 46 + "0" * 54}, best)  # 4 against 0
    assert not worse({"right": "0" * 20 + "1" * 47 + "0" * 33}, best)  # 20 against 17
    assert not worse({"right": "1" * 100}, best)


def test_plots_are_documents_of_their_own():
    from iconbench.curves import plots

    rows = [cell(g, n, 0.1 * g, 100 - n) for g in (1, 2, 3) for n in (8, 20)]
    made = plots(rows)
    assert made.keys() == {"top1", "frechet"}
    for svg in made.values():
        tree = ET.fromstring(svg)
        words = [t.text for t in tree.iter("{http://www.w3.org/2000/svg}text")]
        assert {"8 steps", "20 steps", "weight of guidance"} <= set(words)
        assert len(list(tree.iter("{http://www.w3.org/2000/svg}circle"))) == 6
        assert "var(" not in svg


def test_goals_are_met_missed_or_within_the_noise():
    from iconbench.fidelity import goal, table, verdict

    row = {"n": 9, "top1": 0.8, "top1_interval": [0.75, 0.85], "top5": 0.9, "top5_interval": [0.8, 1.0]}
    assert [verdict(row, aim) for aim in (0.7, 0.79, 0.83, 0.9, None)] == [
        "met", "met, within the noise", "missed, within the noise", "missed", "-",
    ]  # fmt: skip
    own = {"colour": {"top1": 0.5}}
    assert goal("colour", own) == 0.35 and goal("seen", own) == 0.8 and goal("held_concepts", own) is None
    assert goal("colour", {}) is None
    assert "| in a colour | 9 | 80% (75-85) | 90% (80-100) | 35% | met | 50% |" in table({"colour": row}, own)


def test_alpha_and_flatness_of_what_is_known():
    from iconbench.clean import alpha_settled, speckle

    flat = np.full((3, 64, 64, 4), 255, np.uint8)
    flat[0, :, :32] = (200, 10, 10, 255)
    flat[1, :32, :, 3] = 100
    flat[2, ..., 3] = 0
    assert alpha_settled(flat).tolist() == [1.0, 0.5, 1.0]
    assert alpha_settled(np.full((1, 8, 8, 4), 3, np.uint8)) == 0
    median, share = speckle(flat)
    assert median[0] == 0 and 0.95 < share[0] < 1 and share[1] == 1
    assert np.isnan([median[2], share[2]]).all()
    noisy = flat[:1].copy()
    noisy[..., :3] = np.random.default_rng(0).normal(128, 6, (1, 64, 64, 3)).clip(0, 255)
    median, share = speckle(noisy)
    assert 5 < median[0] < 6 and share[0] == 0  # of 9 values around their own mean: a little under 6


def test_real_icons_in_place_of_samples_are_at_the_floor_and_are_copies(tmp_path):
    from iconbench import clean, copied, styles

    truth = bench(tmp_path / "real", real=True)
    rows = styles.measure(truth)
    for r in rows.values():
        assert r["frechet"] == r["floor_frechet"] and r["recall"] == r["floor_recall"]
        assert r["samples"] == r["real"] == 12
    found = copied.measure(truth)
    assert found["seen concepts"]["share"] == found["seen concepts"]["features"]["share"] == 1.0
    assert all(p["distance"] < 1e-3 and p["asked_for"] for p in found["seen concepts"]["pairs"])
    assert found["held-out concepts"]["verdict"] == found["held-out styles"]["verdict"] == "original"
    assert (tmp_path / "real" / "memorisation-seen-concepts.png").is_file()
    alpha = clean.measure(truth)
    assert alpha["flat, samples"] == alpha["flat, real"]
    for part, r in ((styles, rows), (copied, found), (clean, alpha)):
        lines = part.table(r).splitlines()
        assert len(lines) == 2 + len(r) and len({line.count("|") for line in lines}) == 1


def test_noise_in_place_of_samples_is_far_and_copies_nothing(tmp_path, monkeypatch):
    from iconbench import copied, styles

    monkeypatch.setattr(styles, "STYLES", ("flat",))
    noise = bench(tmp_path, real=False)
    for r in styles.measure(noise).values():
        assert r["recall"]["value"] == 0 < 0.2 < r["floor_recall"]["value"]
    assert copied.measure(noise)["seen concepts"]["share"] == 0


def test_the_halves_of_a_style_are_apart():
    from iconbench.styles import halves

    one, other = halves(np.arange(101), 20)
    assert len(one) == 20 and len(other) == 50 and not set(one) & set(other)


def test_samples_are_drawn_once_in_pieces_that_continue_the_seeds(tmp_path, monkeypatch):
    from iconbench import bench as module

    made = module.Bench(
        SimpleNamespace(info_={"hash": "a"}), None, {}, {}, tmp_path, tmp_path, tmp_path, 9, 100, {"steps": 3}
    )
    calls = []

    def drawn(model, some, count, seed, **settings):
        calls.append((len(some), seed, settings))
        return np.full((len(some), 64, 64, 4), len(calls), np.uint8)

    monkeypatch.setattr(module, "drawn", drawn)
    asked = [SimpleNamespace(text=f"{i}", style="") for i in range(70)]
    first = made.draw(asked, guidance=2)
    assert calls == [(64, 100, {"steps": 3, "guidance": 2}), (6, 164, {"steps": 3, "guidance": 2})]
    assert np.array_equal(made.draw(asked, guidance=2), first) and len(calls) == 2
    made.draw(asked[:4], guidance=2)
    assert len(calls) == 3  # other prompts are other samples
