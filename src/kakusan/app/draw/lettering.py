"""The font that labels are written in: Pillow's own, or one of the system's where labels need letters it has not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from PIL.ImageFont import load_default, truetype

__all__ = ["font_for"]

FONTS = (  # with the letters of Chinese, Japanese and Korean, as Linux, macOS and Windows have them
    "NotoSansCJK-Regular.ttc", "NotoSansCJKjp-Regular.otf", "NotoSansJP-Regular.otf", "ipaexg.ttf", "ipag.ttf",
    "TakaoPGothic.ttf", "VL-Gothic-Regular.ttf", "DroidSansFallbackFull.ttf", "wqy-zenhei.ttc", "Arial Unicode.ttf",
    "YuGothM.ttc", "meiryo.ttc", "msgothic.ttc", "malgun.ttf", "msyh.ttc",
)  # fmt: skip
NOBODY = "\U0010ffff"  # no font has this letter: what is drawn for it is drawn for all that are lacking


def font_for(labels: Iterable[str], size: int) -> Any:
    """The first font that has all letters of the labels; Pillow's own, with boxes for some, where there is none."""
    letters = {c for label in labels for c in label if not c.isspace()}
    own = load_default(size=size)
    if _has(own, letters):
        return own
    for name in FONTS:
        try:
            found = truetype(name, size)
        except OSError:
            continue
        if _has(found, letters):
            return found
    return own


def _has(font: Any, letters: Iterable[str]) -> bool:
    box = _drawn(font, NOBODY)
    return all(_drawn(font, letter) != box for letter in letters)


def _drawn(font: Any, letter: str) -> tuple[Any, bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)
