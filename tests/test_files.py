"""Files: all or nothing, nothing left behind, readable by others."""

from __future__ import annotations

import json
import os

import pytest

from kakusan.files import replacing, write_bytes, write_json


@pytest.mark.parametrize("lasting", [False, True])
def test_a_file_takes_its_place_whole(tmp_path, lasting):
    path = tmp_path / "new" / "a.bin"
    assert write_bytes(path, b"old", lasting) == path and path.read_bytes() == b"old"
    with replacing(path, lasting) as temporary:
        temporary.write_bytes(b"half")
        assert path.read_bytes() == b"old"  # readers see the old one until the end
        temporary.write_bytes(b"whole")
    assert path.read_bytes() == b"whole" and list(path.parent.iterdir()) == [path]
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o644


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_bytes(tmp_path / "a.bin", b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_json_is_sorted_and_ends_its_line(tmp_path):
    text = write_json(tmp_path / "a.json", {"b": 1, "a": [2.5, None]}).read_text("utf-8")
    assert (
        json.loads(text) == {"b": 1, "a": [2.5, None]}
        and text.endswith("}\n")
        and text.index('"a"') < text.index('"b"')
    )
