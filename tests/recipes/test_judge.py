"""recipes/icons/judge.py: colours are turned and measured, ranks and intervals are exact, a small judge learns."""

from __future__ import annotations

import importlib
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kakusan.evaluation.labels import wilson
from kakusan.part import KakusanError

RECIPE = Path(__file__).parents[2] / "recipes" / "icons"


@pytest.fixture(scope="module", autouse=True)
def recipe():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPE))
        yield
    torch.set_num_threads(before)


def disc(rgb: tuple[int, int, int], bar: bool = False) -> np.ndarray:
    """A disc or an upright bar of one colour with a black dot, on nothing."""
    y, x = np.mgrid[:64, :64] - 31.5
    a = np.zeros((64, 64, 4), np.uint8)
    a[(np.abs(x) < 10) if bar else (x * x + y * y < 700)] = (*rgb, 255)
    a[(x * x + y * y) < 30] = (10, 10, 10, 255)
    return a


def made(kept: bool = True):
    """Discs and bars, each in two styles (two shades of red)."""
    icons = importlib.import_module("judging.icons")
    lines, pictures = [], []
    for code, bar in (("d", False), ("b", True)):
        for style, shade in (("flat", (220, 40, 40)), ("3d", (180, 20, 25))):
            name = "red bar" if bar else "red disc"
            lines.append({"code": code, "style": style, "category": "Symbols", "concept": name, "text": [f"a {name}"]})
            pictures.append(disc(shade, bar))
    return icons.Icons(np.stack(pictures), lines, frozenset({1, 3} if kept else ()))


def asked() -> list:
    prompt = importlib.import_module("judging.icons").Prompt
    colours = ("red", "green", "blue", "yellow")
    return [prompt(f"a {c} {n}", n[0], "3d", c) for n in ("disc", "bar") for c in colours]


def test_every_colour_becomes_every_other_and_the_measure_agrees():
    from iconset.recolour import TARGETS, dominant, recoloured

    for colour in TARGETS:
        made = recoloured(disc((220, 40, 40)), colour)
        assert made is not None and dominant(made) == colour
        again = recoloured(made, "red")
        assert again is not None and dominant(again) == "red"
        assert (made[31, 31] == (10, 10, 10, 255)).all() and (made[..., 3] == disc((0, 0, 0))[..., 3]).all()
    assert dominant(recoloured(disc((240, 240, 240)), "green")) == "green"  # white is tinted
    assert recoloured(disc((5, 5, 5)), "green") is None  # black has nothing to turn
    shaded = disc((220, 40, 40))
    shaded[:20, :, :3] //= 2
    turned = recoloured(shaded, "blue")
    assert turned[25, 31, 2] > 1.5 * turned[12, 31, 2]  # shading stays


def test_captions_say_the_new_colour_and_no_other():
    from iconset.recolour import coloured

    assert coloured("red apple", "green") == "a green apple" and coloured("apple", "orange") == "an orange apple"


def test_shares_of_first_places_come_with_their_intervals():
    from judging.scoring import told

    row = told(np.array([0, 0, 3, 7]))
    assert (row["n"], row["top1"], row["top5"]) == (4, 0.5, 0.75)
    assert row["top5_interval"] == [round(edge, 4) for edge in wilson(3, 4)]


def test_ranks_count_better_captions_and_no_twins():
    from judging.icons import Prompt
    from judging.scoring import ranks

    class Fixed:
        def scores(self, pictures, texts):
            return torch.tensor([[0.1, 0.9, 0.9, 0.5], [0.3, 0.2, 0.2, 0.3]])

    some = [Prompt(t, "x") for t in ("a", "b", "b", "d")]
    assert ranks(Fixed(), np.zeros((2, 1)), [1, 0], some).tolist() == [0, 1]  # the twin is none, a draw counts against
    assert ranks(Fixed(), np.zeros((2, 1)), [3, 3], some).tolist() == [2, 1]


def test_agreement_leaves_out_what_is_true_as_well():
    from judging.training import agreement

    torch.manual_seed(0)
    logits = torch.randn(3, 5)
    keys, texts = [("a", ""), ("b", "red"), ("a", "")], ["x", "y", "z"]
    found = agreement(logits, keys, texts, ["b", "a"])
    rows = [[0, 1], [0, 1, 2, 3], [1, 2]]  # of each picture: captions that count; the wrong colour of b against b alone
    places = [0, 1, 1]
    one = sum(logits[i, r].logsumexp(0) - logits[i, r][p] for i, (r, p) in enumerate(zip(rows, places))) / 3
    columns = [[0, 1], [0, 1, 2], [1, 2]]
    two = sum(logits[c, j].logsumexp(0) - logits[c, j][p] for j, (c, p) in enumerate(zip(columns, places))) / 3
    assert float(found) == pytest.approx(float((one + two) / 2), rel=1e-5)


def test_a_small_judge_tells_shapes_and_colours_that_it_did_not_see_and_keeps_them_in_its_file(tmp_path):
    from judging.scoring import own
    from judging.towers import Judge, read, write
    from judging.training import trained, words_of

    icons, questions = made(), {"colour": asked()}
    torch.manual_seed(0)
    judge = Judge(words_of(icons, questions), size=16, width=8)
    steps = itertools.count()
    trained(icons, judge, 150, batch=16, clock=lambda: next(steps), tell=lambda words: None)
    found = own(judge, icons, questions)["colour"]
    assert found["n"] == 8 and found["top1"] >= 0.6, found  # chance: 1 in 8
    write(tmp_path / "judge.safetensors", judge, {"own": found})
    again, about = read(tmp_path / "judge.safetensors")
    assert about == {"own": found}
    pictures = torch.from_numpy(icons.pictures)
    texts = [p.text for p in asked()]
    assert torch.equal(again.scores(pictures, texts), judge.scores(pictures, texts))
    (tmp_path / "bad").write_text("no judge")
    for name, message in (("none", "no such file; train one"), ("bad", "no judge that judge.py wrote")):
        with pytest.raises(KakusanError, match=message):
            read(tmp_path / name)


def test_one_rendering_of_each_concept_asked_for_is_kept_from_the_judge():
    from judging.icons import KINDS, Prompt, asked_picture, prompts, taken

    icons = made(kept=False)
    assert taken(icons, Prompt("a disc", "d", "3d")) == 1 and taken(icons, Prompt("a disc", "d")) in (0, 1)
    assert taken(icons, Prompt("a heart", "h", "3d")) is None
    assert np.array_equal(asked_picture(icons, Prompt("a red disc", "d", "3d", "red")), icons.pictures[1])
    listed = prompts(RECIPE / "prompts.toml")
    assert [len(listed[kind]) for kind in KINDS] == [100] * 4
    assert all(p.colour for p in listed["colour"]) and all(p.style for p in listed["seen"])


def test_a_model_is_drawn_in_the_styles_asked_for_and_scored(tmp_path, monkeypatch, capsys):
    judge = importlib.import_module("judge")
    from judging import scoring
    from judging.towers import Judge, write

    asked: list = []
    sample = SimpleNamespace(shown=np.full((32, 32, 4), 65535, np.uint16))

    def draw(n, *, cond, seed, guidance, steps):
        asked.append((n, cond, guidance, steps))
        return [sample] * n

    styles = SimpleNamespace(names=("3d", "flat"))
    inner = SimpleNamespace(encoders={"prompt": None, "label": styles}, encoder=lambda name: styles)
    model = SimpleNamespace(model=inner, info_={"hash": "f" * 64}, sample=draw)
    monkeypatch.setattr(judge, "load", lambda path, device: model)
    write(tmp_path / "j", Judge(["_a"], 8, 8), {"own": {"seen": scoring.told(np.zeros(9, int))}})
    judge.main(["score", "run", str(tmp_path / "j"), "--kinds", "held_concepts", "colour", "-n", "2", "--guidance", "3",
                "--json", str(tmp_path / "o.json")])  # fmt: skip
    n, cond, guidance, steps = asked[0]
    assert (n, guidance, steps) == (200, 3.0, None) and cond["label"][:3] == ["3d", "flat", "3d"]
    told = json.loads((tmp_path / "o.json").read_text())
    assert told["kinds"]["colour"]["n"] == 200 and told["guidance"] == 3 and told["model"] == "f" * 64
    assert sum(told["kinds"][k]["n"] for k in ("colour, in training", "colour, new")) == 200
    assert "real icons" in capsys.readouterr().out
    judge.main(["score", "run", str(tmp_path / "j"), "--kinds", "colour", "--language", "ja"])
    prompts = asked[-1][1]["prompt"]
    assert prompts[0] == "赤いハート" and not any(p.isascii() for p in prompts) and len(prompts) == 100
    with pytest.raises(SystemExit, match="no such file"):
        judge.main(["score", "run", str(tmp_path / "none")])
