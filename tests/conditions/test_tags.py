"""Tags: subsets by name, and the difference between none and unsaid."""

from __future__ import annotations

import pytest
import torch

from kakusan.conditions.tags import Tags
from kakusan.part import KakusanError

NAMES = ["red", "round", "Striped", "a, b"]


def test_subsets_by_name():
    inputs = Tags(NAMES).prepare(["red, ROUND", ["round", "red"], "striped", "", [], None, "a, b", ("a, b", "red")])
    assert inputs["tags"].int().tolist() == [
        [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0] * 4, [0] * 4, [0] * 4, [0, 0, 0, 1], [1, 0, 0, 1],
    ]  # fmt: skip
    assert inputs["given"].tolist() == [True] * 5 + [False] + [True] * 2


def test_vectors_add_up_and_none_is_not_unsaid():
    tags = Tags(NAMES, dim=4)
    keep = torch.ones(5, dtype=torch.bool)
    red, turn, both, none, unsaid = tags(tags.prepare(["red", "round", "red, round", "", None]), keep).vector
    torch.testing.assert_close(both - none, (red - none) + (turn - none))
    assert torch.equal(none, tags.linear.bias) and torch.equal(unsaid, tags.null_vector)
    assert not torch.isclose(none, unsaid).any()
    dropped = tags(tags.prepare(["red"]), torch.tensor([False])).vector[0]
    assert torch.equal(dropped, tags.null_vector)


def test_same_sets_are_one_condition():
    tags = Tags(NAMES)
    a, b = tags.prepare(["red, round", "", None]), tags.prepare([None, "round,red", "red", []])
    assert tags.same(a, b).tolist() == [
        [False, True, False, False],
        [False, False, False, True],
        [True, False, False, False],
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("red, roun", "unknown tag 'roun': did you mean 'round'"),
        ("STRIPPED", "did you mean 'Striped'"),
        ("xyz", "this model knows red, round"),
        ([3], "tag 3"),
        (7, "tags 7"),
    ],
)
def test_bad_values_name_the_nearest(value, said):
    with pytest.raises(KakusanError, match=said):
        Tags(NAMES).prepare([value])


@pytest.mark.parametrize(("names", "said"), [([], "0 tags"), (["a", "a"], "'a' appears twice")])
def test_bad_names(names, said):
    with pytest.raises(KakusanError, match=said):
        Tags(names)
