"""Values and words as HTML: numbers as people read them, everything escaped."""

from __future__ import annotations

import html
import math
import re
from typing import Any

import numpy as np

__all__ = ["number", "plain", "text"]


def number(value: Any) -> str:
    """A value as people read it: 12,345 · 0.0312 · 1.2e-05 · – for None; three digits below a thousand."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return str(value)
    if not math.isfinite(value):
        return str(float(value))
    if isinstance(value, (int, np.integer)) or abs(value) >= 999.5:
        return f"{round(float(value)) if not isinstance(value, int) else value:,}"
    if value == 0:
        return "0"
    return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.3g}"


def plain(value: Any) -> str:
    """Escaped text, for attributes and SVG; control characters are dropped."""
    clean = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", "", str(value))
    return html.escape(clean, quote=True)


def text(value: Any) -> str:
    """Escaped text in which `words between backticks` are set as code."""
    return re.sub(r"`([^`\n]+)`", r"<code>\1</code>", plain(value))
