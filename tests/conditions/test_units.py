"""Scalar: numbers with a unit."""

from __future__ import annotations

import math

import pytest
import torch

from kakusan.conditions.scalar import Scalar
from kakusan.part import KakusanError

KEEP = torch.tensor([True, True])


def test_a_number_may_be_written_with_its_unit():
    scalar = Scalar("thickness", "mm", mean=3.0, std=0.5)
    inputs = scalar.prepare([3.5, "3.5", "3.5 mm", "3.5mm", " +35e-1  mm ", None, ""])
    assert inputs["value"].tolist() == [1.0] * 5 + [0.0, 0.0]
    assert inputs["given"].tolist() == [True] * 5 + [False] * 2
    assert Scalar("count").prepare(["-.5"])["value"].tolist() == [-0.5]


def test_log_scale():
    scalar = Scalar("mass", "kg", mean=math.log(10.0), std=math.log(10.0), log=True)
    torch.testing.assert_close(scalar.prepare([1.0, 10.0, 100.0])["value"], torch.tensor([-1.0, 0.0, 1.0]))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("3.5 cm", "thickness '3.5 cm': this model counts it in mm: write 3.5 mm, or the number alone"),
        ("thick", "write a number, as 3.5 mm"),
        ("1,5 mm", "write a number|counts it in mm"),
        (True, "give a number in mm"),
        ([1.0], "give a number in mm"),
        (float("nan"), "finite"),
        ("1e999", "finite"),
        (99.0, "thickness 99 mm: this model takes -2 to 8 mm"),
    ],
)
def test_bad_values_are_one_line(value, said):
    with pytest.raises(KakusanError, match=said) as caught:
        Scalar("thickness", "mm", mean=3.0, std=0.5).prepare([value])
    assert "\n" not in str(caught.value)


def test_bad_values_without_a_unit_or_on_a_log_scale():
    with pytest.raises(KakusanError, match="knows no unit for it"):
        Scalar("count").prepare(["3 mm"])
    with pytest.raises(KakusanError, match="mass 0: must be above 0"):
        Scalar("mass", log=True).prepare([0])
    with pytest.raises(KakusanError, match="std=0"):
        Scalar("mass", std=0.0)


def test_unsaid_and_dropped_are_the_learned_null_and_no_number_is():
    scalar = Scalar("thickness", dim=4)
    out = scalar(scalar.prepare([None, 1.0]), torch.tensor([True, False])).vector
    assert torch.equal(out[0], scalar.null_vector) and torch.equal(out[1], scalar.null_vector)
    assert not torch.isclose(scalar(scalar.prepare([0.0]), KEEP[:1]).vector[0], scalar.null_vector).any()
    near, far = scalar(scalar.prepare([1.0, 1.3]), KEEP).vector
    assert not torch.isclose(near, far).all()


def test_same_numbers_are_one_condition():
    scalar = Scalar("thickness")
    a, b = scalar.prepare([0.0, 2.0, None]), scalar.prepare([2.0, None, 0.0, 2.0])
    assert scalar.same(a, b).tolist() == [
        [False, False, True, False],
        [True, False, False, True],
        [False, True, False, False],
    ]
