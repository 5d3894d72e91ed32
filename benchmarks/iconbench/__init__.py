"""The parts of icons.py. What belongs to the recipe (``judging``, ``prompts``) is imported from recipes/icons."""

from __future__ import annotations

import sys
from pathlib import Path

RECIPE = Path(__file__).parents[2] / "recipes" / "icons"
if str(RECIPE) not in sys.path:
    sys.path.append(str(RECIPE))
