"""Vector: numbers, units, and both kinds of null."""

from __future__ import annotations

import pytest
import torch

from kakusan.conditions.scalar import Vector
from kakusan.part import KakusanError

KEEP = torch.tensor([True, True])


def test_prepare():
    inputs = Vector(2).prepare([[1, 2.5], None, torch.tensor([3.0, 4.0])])
    assert inputs["value"].tolist() == [[1, 2.5], [0, 0], [3, 4]]
    assert inputs["given"].tolist() == [True, False, True]
    assert Vector(1).prepare([0.5, [2]])["value"].tolist() == [[0.5], [2]]


def test_zero_null_is_the_zero_vector():
    """No augmentation, no condition and parameters that are all zero are one and the same."""
    vector = Vector(3, dim=4, null="zero")
    out = vector(vector.prepare([[0, 0, 0], None]), KEEP).vector
    assert not out.any()
    dropped = vector(vector.prepare([[1, 2, 3], [1, 2, 3]]), torch.tensor([True, False])).vector
    assert dropped[0].any()
    assert not dropped[1].any()


def test_learned_null():
    vector = Vector(3, dim=4)
    out = vector(vector.prepare([None, [1, 2, 3]]), torch.tensor([True, False])).vector
    assert torch.equal(out[0], vector.null_vector)
    assert torch.equal(out[1], vector.null_vector)
    out.sum().backward()
    assert vector.null_vector.grad.eq(2).all()


def test_value_alone_means_given():
    vector = Vector(2, dim=4)
    value = torch.tensor([[1.0, 2], [3, 4]])
    assert torch.equal(vector({"value": value}, KEEP).vector, vector.linear(value))


def test_units():
    vector = Vector(1, dim=4, mean=[300.0], std=[10.0])
    assert torch.equal(vector(vector.prepare([310.0, 300.0]), KEEP).vector[0], vector.linear.weight[:, 0])
    assert not [name for name in vector.state_dict() if name in ("mean", "std")]


@pytest.mark.parametrize("bad", [[1], [1, 2, 3], "ab", ["x", "y"], [1, float("nan")], 4, object()])
def test_bad_values(bad):
    with pytest.raises(KakusanError, match="condition"):
        Vector(2).prepare([bad])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"size": 0}, "size=0"),
        ({"size": 1, "null": "none"}, "null='none'"),
        ({"size": 1, "null": "zero", "mean": [1.0]}, "mean"),
        ({"size": 2, "std": [1.0]}, "std"),
        ({"size": 1, "std": [0.0]}, "std"),
    ],
)
def test_bad_arguments(arguments, named):
    with pytest.raises(KakusanError, match=named):
        Vector(**arguments)


def test_spec_rebuilds():
    spec = Vector(9, dim=16, null="zero").spec()
    assert spec.pop("kind") == "condition/vector"
    assert Vector(**spec).spec() == spec | {"kind": "condition/vector"}
