"""Label: names, indices, the null row and errors that help."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kakusan.conditions.label import Label
from kakusan.part import KakusanError


def test_prepare_takes_names_indices_and_none():
    label = Label(["Cat", "dog", "Great Dane"])
    index = label.prepare(["cat", "DOG", " great dane", 2, "1", np.int64(0), torch.tensor(1), None])["index"]
    assert index.dtype == torch.int64
    assert index.tolist() == [0, 1, 2, 2, 1, 0, 1, 3]


def test_names_that_are_numbers_come_before_indices():
    label = Label(["7", "1", "0"])
    assert label.prepare(["7", "1", "0", 0])["index"].tolist() == [0, 1, 2, 0]
    assert Label(3).names == ["0", "1", "2"]


def test_names_that_differ_in_case_need_their_case():
    label = Label(["us", "US"])
    assert label.prepare(["us", "US"])["index"].tolist() == [0, 1]
    with pytest.raises(KakusanError, match="capitals"):
        label.prepare(["Us"])


@pytest.mark.parametrize("bad", [-1, 3, "3", 1.5, True, [1]])
def test_bad_index(bad):
    with pytest.raises(KakusanError, match="from 0 to 2"):
        Label(3).prepare([bad])


def test_unknown_name_suggests_and_lists():
    with pytest.raises(KakusanError, match=r"unknown label 'Sneeker': did you mean 'Sneaker'\? .*Bag, Sneaker"):
        Label(["Bag", "Sneaker"]).prepare(["Sneeker"])


def test_bad_classes():
    for bad in (0, []):
        with pytest.raises(KakusanError, match="at least one class"):
            Label(bad)
    with pytest.raises(KakusanError, match="twice"):
        Label(["a", "a"])


def test_forward_and_null():
    label = Label(4, dim=8)
    vector = label(label.prepare([1, 2, None, 2]), torch.tensor([True, False, True, True])).vector
    assert vector.shape == (4, 8)
    assert torch.equal(vector[0], label.table.weight[1])
    assert torch.equal(vector[1], label.table.weight[4])
    assert torch.equal(vector[2], label.table.weight[4])
    assert torch.equal(label(label.null(1), torch.tensor([True])).vector[0], label.table.weight[4])


def test_spec_rebuilds():
    label = Label(["a", "b"], dim=3)
    spec = label.spec()
    assert spec == {"kind": "condition/label", "classes": ["a", "b"], "dim": 3, "called": "label"}
    spec.pop("kind")
    assert Label(**spec).names == ["a", "b"]


def test_messages_say_what_the_classes_are_called():
    with pytest.raises(KakusanError, match=r"unknown style 'glat': did you mean 'flat'\?"):
        Label(["flat", "3d"], called="style").prepare(["glat"])
