"""The words follow the figures: whoever is ahead is named, and nobody where the interval holds 0."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from kakusan.app.judge.comparewords import difference, spread, state, story


def run(frechet: float, **more: Any) -> dict[str, Any]:
    score = {"finite": True, "frechet": frechet, "kernel": frechet / 1000, "precision": 0.7, "recall": 0.5}
    score |= {"density": 1, "coverage": 0.6, "spread": 0.95, "spread_coarse": 0.95, "seconds": 0.02, "evaluations": 40}
    extra = {k: more.pop(k) for k in ("few", "curve", "summary") if k in more}
    made = {"score": score | more, "few": {}, "curve": [], "summary": {}} | extra
    return made | {"state": state(made)}


def arm(name: str, *runs: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "runs": list(runs)}


def answer(first: list[float], second: list[float], **more: Any) -> str:
    arms = [arm("diffusion", *(run(v, **more) for v in first)), arm("gan-r3", *(run(v, **more) for v in second))]
    return story(arms, 10, len(first))["answer"][0]


def test_the_one_that_is_closer_is_named():
    assert answer([50, 51, 49], [30, 31, 29]).startswith("R3GAN came closer to the data than the diffusion model: ")
    assert "30 against 50, a difference of 20 (" in answer([50, 51, 49], [30, 31, 29])
    assert answer([30, 31, 29], [50, 51, 49]).startswith("The diffusion model came closer to the data than R3GAN: ")


def test_where_the_interval_holds_0_nobody_wins():
    said = answer([30, 40, 50], [32, 38, 47])
    assert said.startswith("No difference between the diffusion model and R3GAN that is certain: ")


def test_a_single_seed_goes_by_its_samples_and_says_so():
    near, far = {"frechet_interval": [28.0, 32.0]}, {"frechet_interval": [48.0, 52.0]}
    arms = [arm("diffusion", run(50, **far)), arm("gan-r3", run(30, **near))]
    said = story(arms, 10, 1)["answer"]
    assert said[0].startswith("R3GAN came closer") and "One seed each" in said[1]
    lone = [arm("diffusion", run(50, recall=0.5)), arm("gan-r3", run(30, recall=0.25))]
    assert (
        story(lone, 10, 1)["diversity"][0] == "Recall: the diffusion model 0.5, R3GAN 0.25; one seed has no interval."
    )
    assert answer([50], [30]).startswith("No difference") and "without an interval" in answer([50], [30])


def test_welch_s_interval_is_the_textbook_s():
    """Two samples of three: means 2 and 5, variances 1 and 4; t(2.94) taken at 2 degrees of freedom."""
    first, second = ([run(v) for v in values] for values in ([1, 2, 3], [3, 5, 7]))
    a, b = spread(first, "frechet"), spread(second, "frechet")
    assert a.error == pytest.approx(math.sqrt(1 / 3)) and a.half == pytest.approx(4.303 * math.sqrt(1 / 3))
    found = difference(a, b, higher=False)
    assert found.value == -3 and found.half == pytest.approx(4.303 * math.sqrt(5 / 3)) and found.better == ""
    assert difference(a, b, higher=True).better == ""
    clear = difference(a, spread([run(v) for v in (21, 22, 23)], "frechet"), higher=False)
    assert clear.better == "first" and difference(
        a, spread([run(v) for v in (21, 22, 23)], "frechet"), True
    ).better == ("second")


def test_diversity_and_quality_have_winners_of_their_own():
    """The one is more precise, the other covers more: both are said."""
    sharp = [run(30 + i, precision=0.9 + i / 1000, recall=0.1 + i / 1000) for i in range(3)]
    broad = [run(30 + i, precision=0.6 + i / 1000, recall=0.6 + i / 1000) for i in range(3)]
    said = story([arm("diffusion", *broad), arm("gan-classic", *sharp)], 10, 3)
    assert said["quality"][0].startswith("The classic GAN is better than the diffusion model in precision: 0.901")
    assert said["diversity"][0].startswith("The diffusion model is better than the classic GAN in recall: 0.601")
    assert any(w.startswith("No certain difference in coverage") for w in said["diversity"])


def test_the_faster_one_is_the_faster_one():
    slow, quick = [run(30, seconds=0.05)], [run(30, seconds=0.001, evaluations=1)]
    words = "R3GAN draws a picture in 1 ms (1 evaluation), the diffusion model in 50 ms (40 evaluations): 50 times"
    for arms in (
        [arm("diffusion", *slow), arm("gan-r3", *quick)],
        [arm("gan-r3", *quick), arm("diffusion", *slow)],
    ):
        assert story(arms, 10, 1)["cost"][0].startswith(words)


def test_few_steps_are_set_against_the_usual_ones():
    def made(value: float, short: float) -> dict[str, Any]:
        return run(value, few={"4": run(short, seconds=0.004)["score"]})

    worse = story([arm("diffusion", *(made(30 + i, 60 + i) for i in range(3)))], 10, 3)["cost"]
    assert worse == [
        "The diffusion model with 4 steps: 4 ms a picture instead of 20 ms, Fréchet distance 61, farther than "
        "the 31 of its usual steps."
    ]
    same = story([arm("diffusion", *(made(30 + 5 * i, 31 + 5 * i) for i in range(3)))], 10, 3)["cost"]
    assert "not certainly other than" in same[0]


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (run(30), "steady"),
        (run(30, summary={"diverged": True}), "diverged"),
        (run(30, finite=False), "diverged"),
        (run(30, spread=0.3, spread_coarse=0.3), "collapsed"),
        (run(30, spread=0.3), "steady"),  # blurred
        (run(30, classes=10, covered=5), "collapsed"),
        (run(30, classes=10, covered=6), "steady"),
        (run(30, curve=[{"kernel": k} for k in (0.5, 0.1, 0.15)]), "steady"),
        (run(30, curve=[{"kernel": k} for k in (0.5, 0.1, 0.3)]), "worsened"),
    ],
)
def test_how_a_run_went_follows_from_its_figures(made, expected):
    assert state(made) == expected


def test_what_went_wrong_is_said_of_every_kind_of_model():
    for name, begin in (("diffusion", "The diffusion model"), ("gan-classic", "The classic GAN"), ("x=1", "`x=1`")):
        runs = [run(30), run(900, summary={"diverged": True, "skipped": 60}), run(80, spread=0.1, spread_coarse=0.1)]
        said = story([arm(name, *runs)], 10, 3)["stability"][0]
        assert said.startswith(f"{begin}: of its 3 runs, 1 diverged, 1 collapsed; 60 steps were left out")
        assert "from 30 to 900" in said
    assert "its 3 runs stayed steady" in story([arm("gan-r3", run(3), run(3), run(3))], 10, 3)["stability"][0]


def test_the_words_are_plain_data():
    said = story([arm("a=1", run(3), run(4)), arm("a=2", run(3), run(3)), arm("a=3", run(5), run(5))], None, 2)
    assert len(said["answer"]) == 3 and json.loads(json.dumps(said)) == said


@pytest.mark.parametrize(("seconds", "said"), [(0.00051, "0.51 ms"), (0.0164, "16 ms"), (0.185, "185 ms"), (2, "2 s")])
def test_times_are_written_out(seconds, said):
    first, second = (arm(name, run(30, seconds=seconds)) for name in ("diffusion", "gan-r3"))
    assert f" {said} (40 evaluations)" in story([first, second], 10, 1)["cost"][0]
