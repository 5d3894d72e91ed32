"""A plot of kakusan.plot as an SVG file of its own: with the colours its page would give it, a title and a legend."""

from __future__ import annotations

import re
from html import unescape

from kakusan.markup import plain
from kakusan.part import KakusanError

__all__ = ["standalone"]

COLOURS = ("#3a5ba9", "#c2571a", "#2a8060", "#a4468e", "#8a6d0b", "#56788c")
HEAD = 30  # pixels above the plot for the title, and as many under it for the legend
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#777}.title{font-size:15px}.grid{stroke:#8886;stroke-width:.6}"
    ".axis,.tick,.mark{stroke:#888}path{fill:none;stroke:currentColor;stroke-width:1.9;stroke-linejoin:round}"
    ".hit{fill:none}.dot{fill:currentColor}" + "".join(f".c{i}{{color:{colour}}}" for i, colour in enumerate(COLOURS))
)


def standalone(figure: str) -> str:
    """``figure`` as kakusan.plot gives it (a caption, keys, inline SVG) to one SVG document."""
    title = re.search(r'<figcaption class="title">(.*?)</figcaption>', figure, re.S)
    inner = re.search(r'<svg viewBox="0 0 ([\d.]+) ([\d.]+)" role="img" aria-label="(.*?)">(.*)</svg>', figure, re.S)
    if inner is None or title is None:
        raise KakusanError("nothing was drawn: the plot has no points")
    wide, high, label, body = float(inner[1]), float(inner[2]), inner[3], inner[4]
    keys = re.findall(r'<span class="key (c\d)[^"]*">(.*?)</span>', figure)
    legend, x = [], 58.0
    for colour, words in keys:
        legend.append(f'<path class="{colour}" d="M{x:g} {HEAD + high + 12:g}h18"/>')
        legend.append(f'<text x="{x + 24:g}" y="{HEAD + high + 16:g}">{words}</text>')
        x += 24 + 8 * len(unescape(words)) + 16
    total = high + HEAD + (HEAD if keys else 0)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:g} {total:g}" width="{wide:g}" height="{total:g}" '
        f'role="img" aria-label="{label}"><style>{STYLE}</style>'
        f'<text class="title" x="58" y="20">{plain(unescape(title[1]))}</text>'
        f'<g transform="translate(0 {HEAD})">{body}</g>{"".join(legend)}</svg>\n'
    )
