"""Every kind resolves; unknown and hostile specs give one line that says where and how to mend it."""

from __future__ import annotations

import math

import pytest

from kakusan.catalog import CATALOG, build, find, kinds
from kakusan.part import KakusanError, Part


@pytest.mark.parametrize("kind", sorted(CATALOG))
def test_kinds_resolve(kind):
    cls = find(kind)
    assert issubclass(cls, Part)
    assert cls.kind == kind
    assert not getattr(cls, "__abstractmethods__", None)


def test_no_class_is_listed_twice():
    assert len(set(CATALOG.values())) == len(CATALOG)


def test_installed_packages_cannot_replace_an_entry(monkeypatch):
    class Point:
        name, value = "process/vp", "evil:VP"

    monkeypatch.setattr("kakusan.catalog.entry_points", lambda group: [Point])
    kinds.cache_clear()
    try:
        assert kinds()["process/vp"] == CATALOG["process/vp"]
    finally:
        kinds.cache_clear()


def test_a_kind_whose_package_is_missing_says_so(monkeypatch):
    monkeypatch.setitem(CATALOG, "test/absent", "no_such_package_at_all:Thing")
    kinds.cache_clear()
    try:
        with pytest.raises(KakusanError, match="installed"):
            find("test/absent")
    finally:
        kinds.cache_clear()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"kind": "solver/unipcc"}, "did you mean 'solver/unipc'"),
        ({"kind": "solver/xyz"}, "solver/"),
        ({"kind": "solver/unipc", "oder": 2}, "did you mean 'order'"),
        ({"kind": "solver/ddim", "order": 2}, "takes: nothing"),
        ({"kind": "solver/unipc", "order": 9}, "order=9"),
        ({"kind": "process/shifted", "base": {"kind": "process/flow"}}, "factor"),
        ({"kind": "process/shifted", "base": {"kind": "process/vp", "schedule": "x"}, "factor": 2}, r"spec\.base: "),
        ({"kind": "process/shifted", "base": "process/flow", "factor": 2}, r"spec\.base: .* takes Process"),
        ({"kind": "process/shifted", "base": {"kind": "solver/ddim"}, "factor": 2}, "takes Process"),
        ({"kind": "process/shifted", "base": None, "factor": 2}, "got None"),
        ({"kind": "process/vp", "beta_min": "0.1"}, "takes float"),
        ({"kind": "process/vp", "beta_min": True}, "takes float"),
        ({"kind": "process/vp", "beta_max": math.inf}, "takes float"),
        ({"kind": "process/vp", "tau": math.nan}, "takes float"),
        ({"kind": "process/vp", "tau": 10**400}, "cannot be built"),
        ({"kind": "process/tabulated", "table": "abc"}, "takes list"),
        ({"kind": "process/tabulated", "table": [[0.1], [0.2]]}, "takes list"),
        ({"kind": "process/tabulated", "steps": 10**15}, "steps="),
        ({"kind": "solver/unipc", "order": 2.0}, "takes int"),
        ({"kind": "solver/unipc", "corrector": 1}, "takes bool"),
        ({"kind": "space/sphere", "height": 10**6, "width": 10**6, "degree": 10**5}, "too large"),
        ({"kind": ["process/vp"]}, "is not known"),
        ({"kind": None}, "is not known"),
        ({"kind": "os:system"}, "is not known"),
        ({"kind": "kakusan.core.process:VP"}, "is not known"),
        ({"kind": "process/vp", "__class__": "x"}, "takes no argument"),
        ({"kind": "process/vp", "self": 1}, "takes no argument"),
        ({}, "'kind'"),
        ([], "'kind'"),
        ("process/vp", "'kind'"),
        (None, "'kind'"),
        ({"kind": "guide/several", "weights": [0.0] * 200_000}, "more than"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_bad_specs_give_one_line(spec, said):
    with pytest.raises(KakusanError, match=said) as caught:
        build(spec)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 2000
    assert str(caught.value).startswith("spec")


def test_a_deep_spec_is_refused_before_anything_is_built():
    spec = {"kind": "process/flow"}
    for _ in range(5000):
        spec = {"kind": "process/shifted", "base": spec, "factor": 1.0}
    with pytest.raises(KakusanError, match="nested deeper"):
        build(spec)


def test_a_circular_spec_is_refused():
    spec = {"kind": "process/shifted", "factor": 1.0}
    spec["base"] = spec
    with pytest.raises(KakusanError, match="nested deeper"):
        build(spec)


def test_an_integer_serves_as_a_number():
    assert build({"kind": "process/vp", "tau": 1}).spec()["tau"] == 1
