"""The report page: self-contained, escaped, accessible, written in one move."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kakusan import plot
from kakusan import report as module
from kakusan.part import KakusanError
from kakusan.report import Report, Series, number, picture

VOID = {"meta", "img"}


class Strict(HTMLParser):
    """Fails on tags that do not nest; collects what pages must not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def parsed(report: Report) -> Strict:
    page = Strict()
    page.feed(report.html())
    assert page.open == []
    return page


EVIL = "<script>alert(1)</script>\" onload='x' & `<b>`"


def full(words: str = EVIL) -> Report:
    r = Report(words, words, footer=words)
    r.top.figures({words: words}).figures([(words, 1, words)]).note(words, "problem", words, fix=words)
    s = r.section(words, words).text(words).table([words, "b"], [[words, 1]], words)
    s.plot({words: ([1, 2], [3, 4])}, words, words, words, marks=[(1.5, words)], note=words)
    s.pictures([np.zeros((4, 4), np.uint8)], [words], words, words)
    s.strip([np.zeros((4, 4, 3), np.uint8)] * 2, [words] * 2, words)
    s.details(words, words).details(words, {words: words})
    return r


def test_everything_is_escaped():
    page = parsed(full())
    tags = {name for name, _ in page.tags}
    assert not tags & {"script", "b", "link", "iframe", "object"}
    assert not any(k.startswith("on") for _, attrs in page.tags for k in attrs)
    assert page.words.count("alert(1)") > 10  # said, not run


def test_nothing_is_loaded_from_elsewhere():
    html = full("words").html()
    assert not re.search(r"(src|href)=\"(?!data:|#)", html)
    assert "url(" not in html and "@import" not in html and "http" not in html.replace("http-equiv", "")
    assert "default-src 'none'" in html


def test_pictures_have_words_and_svgs_are_well_formed():
    page = parsed(full("words"))
    images = [attrs for name, attrs in page.tags if name == "img"]
    assert len(images) == 4 and all(a["alt"] for a in images[1:]) and images[0]["alt"] == ""  # the ornament is silent
    for svg in re.findall(r"<svg.*?</svg>", full().html(), re.S):
        assert ET.fromstring(svg).attrib["aria-label"].startswith("Line plot")


def test_embedded_picture_is_the_picture():
    data = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    r = Report("t")
    r.section("s").pictures([data])
    tag = re.search(r'<img class="px alpha"[^>]*src="data:image/png;base64,([^"]+)"', r.html())
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(tag[1])))), data)


@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4, 6])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool])
def test_any_picture_shape(channels, dtype):
    data = np.ones((6, 5) if channels is None else (6, 5, channels), dtype)
    assert picture(data).size == (5, 6)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "F"])
def test_a_pillow_picture_of_any_mode_is_embedded(mode):
    r = Report("t")
    r.section("s").pictures([Image.new(mode, (3, 2))])
    assert "data:image/png" in r.html()


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.float32), np.zeros(4, np.uint8), np.zeros((0, 4), np.uint8)])
def test_bad_pictures_are_refused(bad):
    with pytest.raises(KakusanError, match="pass"):
        picture(bad)


def curves(html: str) -> list[np.ndarray]:
    """Points of each drawn line; NaN rows where the pen is lifted."""
    found = []
    for d in re.findall(r'<g class="c\d"><path d="([^"]*)"', html):
        points = []
        for pen, a, b in re.findall(r"([ML])([\d.-]+) ([\d.-]+)", d):
            points += [[np.nan, np.nan]] * (pen == "M" and bool(points)) + [[float(a), float(b)]]
        found.append(np.array(points))
    return found


def test_plot_maps_values_to_places():
    r = Report("t")
    r.section("s").plot({"a": ([0, 5, 10], [0.0, 1.0, 4.0])}, "linear")
    x, y = curves(r.html())[0].T
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)
    assert (y[0] - y[1]) * 3 == pytest.approx(y[1] - y[2], abs=0.5) and y[0] > y[1] > y[2]
    r = Report("t")
    r.section("s").plot({"a": ([1, 10, 100], [1.0, 10.0, 1000.0])}, "log", log_x=True, log_y=True)
    x, y = curves(r.html())[0].T
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2) and (y[0] - y[1]) * 2 == pytest.approx(
        y[1] - y[2], abs=0.5
    )


def test_gaps_extremes_and_emptiness():
    r = Report("t")
    s = r.section("s")
    s.plot({"a": ([0, 1, 2, 3], [1, float("nan"), -1, 2])}, "gap", log_y=True)
    s.plot({"a": ([], [])}, "nothing").plot({"a": ([0], [float("inf")])}, "nothing").plot({"a": ([3], [3])}, "one")
    s.plot({"a": ([0, 1], [5, 5])}, "flat").plot({"a": (range(99999), range(99999))}, "long")
    html = r.html()
    assert "Left out: 2 values" in html and html.count("Nothing to draw yet") == 2 and "nan" not in html
    assert np.isnan(curves(html)[0]).any()
    assert len(curves(html)[-1]) <= plot.POINTS + 2 and len(html) < 120_000


def test_thinning_keeps_spikes():
    y = np.zeros(50_000)
    y[31_234] = 9
    x, kept = plot._thin(np.arange(50_000.0), y)
    assert kept.max() == 9 and x[kept.argmax()] == 31_234


def test_values_left_out_are_counted_before_lines_are_thinned():
    y = np.ones(50_000)
    y[:20_000] = np.nan
    r = Report("t")
    r.section("s").plot({"a": (np.arange(50_000.0), y)}, "long")
    assert "Left out: 20,000 values" in r.html()


@pytest.mark.parametrize(
    ("low", "high", "log", "words"),
    [
        (0, 1e-3, False, ["0", "2e-4", "4e-4", "6e-4", "8e-4", "0.001"]),
        (0, 1.25e-3, False, ["0", "2.5e-4", "5e-4", "7.5e-4", "0.001", "0.00125"]),
        (0, 20_000, False, ["0", "5k", "10k", "15k", "20k"]),
        (0, 1e6, False, ["0", "200k", "400k", "600k", "800k", "1M"]),
        (1e-6, 1e4, True, ["1e-6", "1e-4", "0.01", "1", "100", "10k"]),
    ],
)
def test_ticks_say_their_values(low, high, log, words):
    ticks = plot._ticks(low, high, log)
    assert [plot._tick(v, ticks) for v in ticks] == words


def test_running_mean_of_a_line_is_the_line():
    values = np.linspace(3, 8, 300)
    assert np.allclose(plot._running(values, np.ones(300, bool)), values)


def test_wrong_numbers_of_things_are_named():
    s = Report("t").section("s")
    with pytest.raises(KakusanError, match="2 cells for 1 columns"):
        s.table(["a"], [[1, 2]])
    with pytest.raises(KakusanError, match="1 labels for 2 pictures"):
        s.pictures([np.zeros((2, 2), np.uint8)] * 2, ["a"])
    with pytest.raises(KakusanError, match="2 x values and 1 y"):
        s.plot([Series("a", [1, 2], [1])], "t")
    with pytest.raises(KakusanError, match="kind of note"):
        s.note("a", "bad")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        *[(12345, "12,345"), (0.03123, "0.0312"), (1.2e-5, "1.2e-05"), (None, "–"), (True, "True"), ("x", "x")],
        *[(1234.6, "1,235"), (np.float32(0.5), "0.5"), (np.int64(7000), "7,000"), (float("nan"), "nan"), (0.0, "0")],
        *[(999.4, "999"), (999.7, "1,000"), (-999.6, "-1,000")],
    ],
)
def test_numbers_as_people_read_them(value, words):
    assert number(value) == words


def test_saving_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = Report("first").save(tmp_path / "sub" / "report.html")
    monkeypatch.setattr(Report, "html", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Report("second").save(path)
    assert "first" in path.read_text("utf-8") and [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_text_colours_have_contrast():
    """WCAG AA: 4.5 : 1 for text and accents on both backgrounds, light and dark."""
    css = Path(module.__file__).with_suffix(".css").read_text("utf-8")
    for block in re.findall(r":root \{(.*?)\}", css, re.S):
        colours = dict(re.findall(r"--(\w+):(#[0-9a-f]+)", block))
        for ink in ("ink", "soft", "accent", "note", "good", "warning", "problem"):
            for ground in ("bg", "card"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground, colours[ink])
        for line in ("c0", "c1", "c2", "c3", "c4", "c5"):
            assert contrast(colours[line], colours["card"]) >= 3, line


def contrast(a: str, b: str) -> float:
    def light(c: str) -> float:
        c = c[1:] if len(c) == 7 else "".join(x * 2 for x in c[1:])
        v = [int(c[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        r, g, b = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in v]
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted([light(a), light(b)], reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_a_picture_may_be_a_file(tmp_path: Path):
    for name, data in (("a", np.full((3, 4), 7, np.uint8)), ("b", np.full((3, 4), 7 * 257, np.uint16))):
        Image.fromarray(data).save(tmp_path / f"{name}.png")
        assert np.asarray(picture(tmp_path / f"{name}.png")).max() == 7


@pytest.mark.parametrize(
    ("low", "high", "log"), [(0.45, 1.0, True), (0.02, 0.3, True), (1e-6, 1e4, True), (-3.2, 7.9, False)]
)
def test_axes_have_a_few_round_ticks(low, high, log):
    ticks = plot._ticks(low, high, log)
    assert 3 <= len(ticks) <= 12 and low * 0.999 <= min(ticks) + (low < 0) and max(ticks) <= high * 1.001
