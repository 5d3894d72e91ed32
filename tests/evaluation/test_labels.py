"""Accuracy, its interval, classes and mistakes, on cases counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kakusan.evaluation.labels import accuracy, accuracy_by_class, confusion, mistaken, wilson
from kakusan.part import KakusanError

TRUTH = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
GUESS = np.array([0, 0, 0, 1, 1, 1, 1, 1, 2, 0])


@pytest.mark.parametrize(
    "right, count, low, high",
    [(81, 263, 0.255275, 0.366194), (15, 148, 0.062386, 0.160455), (0, 20, 0.0, 0.161125), (1, 29, 0.006113, 0.171755)],
)
def test_the_interval_is_the_published_one(right, count, low, high):
    """Newcombe 1998, table I, method 3 (scores without continuity correction), to its four digits."""
    found = wilson(right, count)
    assert found[0] == pytest.approx(low, abs=6e-5) and found[1] == pytest.approx(high, abs=6e-5)


def test_the_interval_holds_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for share in (0.05, 0.5, 0.9):
        held = [low <= share <= high for low, high in (wilson(int(n), 40) for n in rng.binomial(40, share, 2000))]
        assert np.mean(held) == pytest.approx(0.95, abs=0.03)


def test_accuracy():
    found = accuracy(TRUTH, GUESS)
    assert found.value == 0.6 and found.count == 10
    assert (found.low, found.high) == wilson(6, 10)
    assert str(found) == "60.0% (31.3 to 83.2, 10 pictures)"


def test_each_class_and_the_mistakes():
    by_class = accuracy_by_class(TRUTH, GUESS, ["a", "b", "c", "d"])
    assert [v.value for v in by_class.values()][:3] == [0.75, 1.0, 0.25]
    assert math.isnan(by_class["d"].value) and (by_class["d"].low, by_class["d"].high) == (0.0, 1.0)
    table = confusion(TRUTH, GUESS, 3)
    assert table.tolist() == [[3, 1, 0], [0, 2, 0], [1, 2, 1]]
    assert mistaken(table, ["a", "b", "c"], 2) == [("c", "b", 0.5), ("a", "b", 0.25)]
    assert len(mistaken(table, ["a", "b", "c"])) == 3


def test_labels_that_do_not_fit():
    with pytest.raises(KakusanError, match="one length"):
        accuracy(TRUTH, GUESS[:3])
    with pytest.raises(KakusanError, match="2 classes have 0 to 1"):
        confusion(TRUTH, GUESS, 2)
    with pytest.raises(KakusanError, match="between 0 and 1"):
        wilson(4, 3)
