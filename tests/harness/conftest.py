"""Fixtures of the harnesses."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch

from harness.nursery import Nursery, nursery

collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]  # signals, fork, tmpfs, /proc


@pytest.fixture(scope="session")
def children(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Processes to be killed."""
    folder = tmp_path_factory.mktemp("nursery")
    with nursery(folder, KAKUSAN_CACHE=str(folder / "cache")) as made:
        yield made


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Operations this small only lose by sharing."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
