"""The plan: the largest network that sees enough pictures in the time; nothing chosen that the recipe already says."""

from __future__ import annotations

import math

import pytest
import torch

from kakusan.catalog import build
from kakusan.core.batch import Batch
from kakusan.core.model import Model
from kakusan.part import KakusanError
from kakusan.training import plan, timing
from kakusan.training.plan import Facts, make, networks, noise_level
from kakusan.training.settings import Training

CPU = torch.device("cpu")


def facts(count: int = 50_000, shape=(3, 32, 32), **more) -> Facts:
    size = list(shape[1:])
    domain = {"kind": "domain/image", "size": size, "mode": "RGB" if shape[0] == 3 else "L"}
    return Facts(count, shape, 0.5, domain, **more)


@pytest.fixture
def machine(monkeypatch):
    """A made machine without bf16 (tests that want it say so): a million parameters cost ``pace`` seconds a step, bf16
    halves that; what was timed is kept."""
    timed: list[tuple[float, str]] = []
    state = {"pace": 0.05, "bf16": True, "winograd": math.inf, "timed": timed}

    def fake(tree, sample, device, precision, teacher=None):
        net = build(tree["model"]["denoiser"]["net"])
        parameters = sum(p.numel() for p in net.parameters())
        timed.append((parameters, precision))
        share = 0.5 if precision == "bf16" and state["bf16"] else 1.0
        share *= state["winograd"] if tree["training"].get("convolution") == "winograd" else 1.0
        return state["pace"] * parameters / 1e6 * share, parameters

    monkeypatch.setattr(timing, "timed", fake)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    return state


def planned(of: Facts, minutes: float | None = 10, steps: int | None = None, **more) -> plan.Plan:
    return make(of, lambda n: None, minutes=minutes, steps=steps, seed=0, device=CPU, **more)


def test_more_time_never_gives_a_smaller_network(machine):
    sizes = [planned(facts(), minutes).figures["parameters"] for minutes in (0.2, 1, 5, 20, 100)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_the_largest_network_that_sees_enough_is_taken(machine):
    made = planned(facts(), 5)
    fitting = [row for row in made.timings if row["fits"]]
    assert made.figures["parameters"] == fitting[-1]["parameters"]
    assert made.model["denoiser"]["net"]["activations"] == 1
    assert made.figures["pictures_seen"] >= plan.NEED * made.figures["parameters"] / 1e6
    assert not made.timings[-1]["fits"] or len(made.timings) == len(networks(facts(), CPU))


def test_short_times_are_said_to_be_short(machine):
    machine["pace"] = 5.0
    made = planned(facts(), 0.5)
    assert made.figures["parameters"] == made.timings[0]["parameters"]
    assert "the time is short" in made.warnings[0] and "times as long" in made.warnings[0]
    assert "very few" in planned(facts(count=30), 0.5).warnings[-1]
    machine["pace"] = 0.001
    assert planned(facts(), 60).warnings == []


def test_what_a_recipe_may_not_say_is_refused_before_anything_is_timed(machine):
    def half(tree):
        return {"model": tree["model"], "training": tree["training"] | {"precision": "half"}}

    with pytest.raises(KakusanError, match="precision='half': choose one of auto, fp32, bf16"):
        planned(facts(), overlay=half)
    assert machine["timed"] == []


def test_precision_follows_the_clock(machine, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert planned(facts()).training["precision"] == "bf16"
    machine["bf16"] = False
    assert planned(facts()).training["precision"] == "fp32"


def test_one_disturbed_timing_does_not_choose_bf16(machine, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    machine["bf16"], honest, slow = False, timing.timed, iter([3.0])

    def disturbed(*given):
        seconds, parameters = honest(*given)
        return seconds * next(slow, 1.0), parameters  # the first, in fp32, falls into something else's work

    monkeypatch.setattr(timing, "timed", disturbed)
    assert planned(facts()).training["precision"] == "fp32"


def test_winograds_filtering_is_taken_where_it_is_faster_and_makes_room_for_a_larger_network(machine):
    usual = planned(facts())
    assert usual.training["convolution"] == "direct"
    machine["winograd"] = 0.97
    assert planned(facts()).training["convolution"] == "direct"
    machine["winograd"] = 0.5
    made = planned(facts())
    assert made.training["convolution"] == "winograd" and build(made.training).convolution == "winograd"
    assert made.figures["parameters"] > usual.figures["parameters"]
    assert planned(facts(), overlay=_bf16).training.get("convolution", "direct") == "direct"


def _bf16(tree):
    tree["training"]["precision"] = "bf16"
    return tree


def test_a_network_without_wide_layers_is_not_timed_with_it(machine):
    for net, able in ((networks(facts(), CPU)[0], False), (networks(facts(), CPU)[2], True)):
        tree = {"model": plan.model_spec(facts(), net), "training": plan.training_spec(facts(), 1, None, 0)}
        tree["training"]["precision"] = "fp32"
        machine["timed"].clear()
        assert timing.convolution(tree, lambda n, model: None, CPU, 1.0) == 1.0
        assert bool(machine["timed"]) == able and tree["training"]["convolution"] == "direct"


@pytest.mark.parametrize(("share", "said"), [(0.5, "winograd"), (1.1, "direct")])
def test_a_students_convolutions_are_settled_by_the_clock_unless_the_recipe_says(machine, share, said):
    machine["winograd"] = share
    of = facts()
    tree = {"model": plan.model_spec(of, networks(of, CPU)[2]), "training": plan.training_spec(of, 1, None, 0)}
    tree["training"]["precision"] = "fp32"
    half = {"model": tree["model"], "training": tree["training"] | {"precision": "bf16"}}
    told = {"model": tree["model"], "training": tree["training"] | {"convolution": "direct"}}
    for each in (tree, half, told):
        timing.settle(each, lambda n, m: None, CPU, None)
    assert tree["training"]["convolution"] == said and told["training"]["convolution"] == "direct"
    assert "convolution" not in half["training"]
    assert len(machine["timed"]) == 2, "what is told is not timed"


@pytest.mark.parametrize(("able", "faster"), [(True, True), (True, False), (False, True)])
def test_a_students_precision_is_settled_by_the_clock_unless_the_recipe_says(machine, monkeypatch, able, faster):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: able)
    machine["bf16"] = faster
    tree = {"model": plan.model_spec(facts(), networks(facts(), CPU)[2]), "training": {"convolution": "direct"}}
    told = {"model": tree["model"], "training": {"precision": "bf16"}}
    for each in (tree, told):
        timing.settle(each, lambda n, m: None, CPU, None)
    assert tree["training"] == {"convolution": "direct", "precision": "bf16" if able and faster else "fp32"}
    assert told["training"] == {"precision": "bf16"}, "nothing to choose: Winograd's filtering is of fp32"
    assert bool(machine["timed"]) == able
    elsewhere = {"model": tree["model"], "training": {}}
    timing.settle(elsewhere, lambda n, m: None, torch.device("cuda"), None)
    assert elsewhere["training"] == {}, "auto knows"


def test_filtering_asked_for_is_timed_as_it_will_be_where_no_layer_can_have_it():
    def asked(tree):
        tree["training"] |= {"convolution": "winograd", "precision": "fp32", "batch": 1}
        tree["model"]["denoiser"]["net"] |= {"width": 8, "heads": 1}
        return tree

    batch = Batch(torch.zeros(1, *facts().shape))
    made = make(facts(), lambda n, m: batch, minutes=1, steps=None, seed=0, device=CPU, overlay=asked)
    assert made.figures["pictures_per_second"] > 0 and made.figures["pictures_seen"] > 0
    assert made.training["convolution"] == "winograd"


def test_what_the_recipe_says_is_not_chosen(machine):
    def overlay(tree):
        tree["model"]["denoiser"]["net"] |= {"width": 40, "mults": [1, 2], "attention": [1], "unshuffle": 1}
        tree["training"] |= {"precision": "fp32", "convolution": "direct"}
        return tree

    made = planned(facts(), overlay=overlay)
    assert made.model["denoiser"]["net"]["width"] == 40 and len(made.timings) == 1
    assert machine["timed"] == [(made.figures["parameters"], "fp32")]


@pytest.mark.parametrize("side", [8, 16, 28, 32, 50, 64, 67, 96, 128, 200])
@pytest.mark.parametrize("classes", [[], ["a", "b"]])
def test_every_candidate_can_be_built_and_run(side, classes):
    of = facts(shape=(1, side, side), classes=classes, augment=14)
    net = networks(of, CPU)[0]
    model = build(plan.model_spec(of, net))
    assert isinstance(model, Model) and isinstance(build(plan.training_spec(of, 10, None, 0)), Training)
    x, t = torch.randn(1, 1, side, side), torch.tensor(0.5, dtype=torch.float64)
    with torch.no_grad():
        assert model.denoiser(x, t, model.cond({}, {}, 1)).shape == x.shape
    widths = [n["width"] for n in networks(of, CPU)]
    assert widths == sorted(widths)


def test_larger_pictures_are_trained_at_more_noise():
    levels = [noise_level(facts(shape=(3, side, side))) for side in (16, 28, 32, 64, 128)]
    assert levels == sorted(levels) and levels[2] == -0.5
