"""A model's conditions as options of the command line."""

from __future__ import annotations

import pytest

from kakusan.app.cli import app
from kakusan.app.command.aliases import spelled_out


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("sample icons apple --style 3d -n 4", "sample icons apple --cond style=3d -n 4"),
        ("sample icons --style=3d --seed 2", "sample icons --cond style=3d --seed 2"),
        ("edit m a.png --mood happy", "edit m a.png --cond mood=happy"),
        ("vary a.png --style 3d --strong", "vary a.png --cond style=3d --strong"),
        ("sample icons --label cat --cond style=3d", "sample icons --label cat --cond style=3d"),
        ("sample icons --stepz 3", "sample icons --stepz 3"),  # an option misspelled is the parser's to refuse
        ("sample icons --style", "sample icons --style"),
        ("sample icons --style --film", "sample icons --style --film"),
        ("sample icons apple --upscale", "sample icons apple --upscale auto"),
        ("sample icons apple --upscale -n 4", "sample icons apple --upscale auto -n 4"),
        ("sample icons apple --upscale x4 --film", "sample icons apple --upscale x4 --film"),
        ("train photos --upscale", "train photos --upscale"),
        ("sample icons -- --style 3d", "sample icons -- --style 3d"),
        ("train data --style 3d", "train data --style 3d"),  # takes no conditions
        ("nothing --style 3d", "nothing --style 3d"),
        ("--help", "--help"),
        ("", ""),
    ],
)
def test_an_option_that_the_verb_lacks_is_a_condition(typed, meant):
    assert spelled_out(app, typed.split()) == meant.split()
