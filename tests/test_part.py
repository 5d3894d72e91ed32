"""A part remembers the arguments it was built with, and they are its spec."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from torch import nn

from kakusan.core.process import VP, Flow, Shifted, Tabulated
from kakusan.core.solver import DDIM, UniPC
from kakusan.part import KakusanError, Part


class Pair(Part):
    kind = "test/pair"

    def __init__(self, first: Part, rest: list[Part] | None = None, name: str = "x", table: dict | None = None) -> None:
        self.first = first


class Weights(Part, nn.Module):
    kind = "test/weights"

    def __init__(self, size: int, deep: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(size, size)


def test_spec_has_kind_and_every_default():
    assert UniPC(3).spec() == {"kind": "solver/unipc", "order": 3, "corrector": True}
    assert DDIM().spec() == {"kind": "solver/ddim"}
    assert list(VP().spec()) == ["kind", "schedule", "beta_min", "beta_max", "tau"]


def test_spec_nests():
    spec = Pair(Shifted(Flow(), 3), [DDIM(), UniPC()], table={"a": DDIM(), "b": (1, 2)}).spec()
    assert spec["first"] == {"kind": "process/shifted", "base": {"kind": "process/flow"}, "factor": 3}
    assert [s["kind"] for s in spec["rest"]] == ["solver/ddim", "solver/unipc"]
    assert spec["table"] == {"a": {"kind": "solver/ddim"}, "b": [1, 2]}
    assert json.loads(json.dumps(spec)) == spec


def test_arguments_given_by_position_and_by_name_are_the_same():
    assert VP("cosine").spec() == VP(schedule="cosine").spec()


def test_what_is_not_plain_has_no_spec():
    with pytest.raises(KakusanError, match="first"):
        Pair(object()).spec()
    with pytest.raises(KakusanError, match="no kind"):
        Part().spec()


def test_replace_builds_anew():
    shifted = Shifted(Flow(), 3.0)
    assert shifted.replace(factor=2.0).spec() == {**shifted.spec(), "factor": 2.0}
    assert shifted.spec()["factor"] == 3.0


def test_modules_are_parts_too_and_their_weights_are_not_arguments():
    part = Weights(3)
    assert part.spec() == {"kind": "test/weights", "size": 3, "deep": False}
    assert list(part.state_dict()) == ["layer.weight", "layer.bias"]


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("part", [UniPC(3), Tabulated([0.1, 0.2]), Weights(2)], ids=lambda p: p.kind)
def test_copies_keep_their_arguments(part, again):
    assert again(part).spec() == part.spec()


def test_pickles_keep_their_arguments():
    """For workers of a data loader; a model's file holds none."""
    part = Shifted(Tabulated([0.1, 0.2]), 2.0)
    assert pickle.loads(pickle.dumps(part)).spec() == part.spec()


def test_repr_is_the_constructor_call():
    assert repr(Shifted(Flow(), 3.0)) == "Shifted(base=Flow(), factor=3.0)"


def test_wrong_arguments_fail_as_python_does():
    with pytest.raises(TypeError):
        UniPC(2, True, 3)
    with pytest.raises(TypeError):
        Shifted()
