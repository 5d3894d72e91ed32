"""recipes/icons on made packages: pictures without halos, true captions, a split that leaks nothing, clear refusals."""

from __future__ import annotations

import importlib
import json
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kakusan.conditions.words import split as spoken
from kakusan.part import KakusanError
from kakusan.training.source import open_source
from recipes.iconsources import THINGS, encoded, packed, pattern, rasterised

RECIPE = Path(__file__).parents[2] / "recipes" / "icons"


@pytest.fixture(scope="module", autouse=True)
def recipe():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPE))
        yield patch


@pytest.fixture(scope="module")
def sources(recipe, tmp_path_factory) -> Path:
    recipe.setattr(importlib.import_module("iconset.pictures"), "_rasterised", rasterised)
    folder = tmp_path_factory.mktemp("made") / "sources"
    return packed(folder, importlib.import_module("iconset.packages"), recipe)


@pytest.fixture(scope="module")
def icons(sources) -> Path:
    out = sources.parent / "icons"
    prepare(sources, out)
    return out


def prepare(*words: str | int | Path) -> None:
    importlib.import_module("prepare").main([*map(str, words), "--workers", "1"])


def listed(out: Path) -> list[dict]:
    files = sorted(out.glob("*/metadata.jsonl"))
    return [json.loads(line) for f in files for line in f.read_text("utf-8").splitlines()]


# pictures


def test_a_colour_hidden_under_transparency_makes_no_halo():
    from iconset.pictures import drawn

    a = np.zeros((256, 256, 4), np.uint8)
    a[:] = (0, 255, 0, 0)  # clear, but green
    a[:, :130] = (255, 0, 0, 255)
    small = drawn(encoded(a, "PNG"))
    assert small.shape == (64, 64, 4)
    assert (small[:, :32] == (255, 0, 0, 255)).all() and (small[:, 33:] == 0).all()
    assert (small[:, 32] == (255, 0, 0, 128)).all()  # half of its area, in full colour


def test_a_picture_of_the_right_size_is_kept_but_for_what_can_not_be_seen():
    from iconset.pictures import drawn

    a = pattern(3, 64)
    a[0, 0], a[0, 1], a[10, 10, 3], a[10, 11, 3] = (9, 9, 9, 3), (9, 9, 9, 4), 252, 251
    small = drawn(encoded(a, "PNG"))
    expected = a.copy()
    expected[0, 0], expected[10, 10, 3] = 0, 255
    assert np.array_equal(small, expected)


def test_what_is_not_square_is_centred_and_not_stretched():
    from iconset.pictures import drawn

    small = drawn(encoded(np.full((128, 256, 4), 255, np.uint8), "PNG"))
    assert (small[16:48, :, 3] == 255).all() and small[..., 3].sum() == 255 * 32 * 64


def test_svg_without_a_rasteriser_says_what_to_install(monkeypatch):
    from iconset.pictures import drawn

    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(KakusanError, match="pip install resvg-py"):
        drawn(b'<svg xmlns="http://www.w3.org/2000/svg"/>')


@pytest.mark.parametrize("word, rgb", [
    ("red", (230, 30, 40)), ("orange", (255, 120, 20)), ("yellow", (250, 210, 50)), ("green", (40, 160, 60)),
    ("blue", (40, 110, 220)), ("purple", (130, 60, 190)), ("pink", (255, 120, 180)), ("brown", (110, 70, 50)),
    ("black", (20, 20, 22)), ("white", (250, 250, 250)), ("grey", (150, 150, 155)),
])  # fmt: skip
def test_plain_colours_have_their_names(word, rgb):
    from iconset.colours import shares

    a = np.zeros((4, 4, 4), np.uint8)
    a[:2] = (*rgb, 255)
    found = shares(a)
    assert found[word] == pytest.approx(1) and sum(found.values()) == pytest.approx(1)


# captions


def concept(name: str, category: str = "Objects", curated: tuple = (), code: str = "1f600", since: float = 1.0):
    from iconset.material import Concept, Words, slugged

    return Concept(code, slugged(name), category, since, Words(name, curated), Words("品物", ("もの",)))


def plain(*rgb: int) -> np.ndarray:
    return np.full((64, 64, 4), (*rgb, 255), np.uint8)


@pytest.mark.parametrize("name, said", [
    ("red apple", "a red apple"), ("eye", "an eye"), ("unicorn", "a unicorn"), ("hourglass", "an hourglass"),
    ("x-ray", "an x-ray"), ("scissors", "scissors"), ("bus", "a bus"), ("glasses", "glasses"), ("milk", "milk"),
    ("glass of milk", "a glass of milk"), ("bacon", "bacon"), ("two hearts", "two hearts"), ("Aries", "Aries"),
    ("OK button", "an OK button"), ("NEW button", "a NEW button"), ("UP! button", "an UP! button"),
    ("one-piece swimsuit", "a one-piece swimsuit"), ("one o'clock", "one o'clock"), ("no entry", "no entry"),
    ("man lifting weights", "a man lifting weights"), ("face with tears of joy", "a face with tears of joy"),
    ("men wrestling", "men wrestling"), ("flag of Japan", "the flag of Japan"),
])  # fmt: skip
def test_names_take_their_articles(name, said):
    from iconset.captions import phrase

    assert phrase(name) == said


@pytest.mark.parametrize("name, said", [
    ("flag: Côte d’Ivoire", "flag of Côte d'Ivoire"), ("family: man, woman, boy", "family of man, woman and boy"),
    ("kiss: woman, man", "kiss, woman and man"), ("man: bald", "bald man"), ("woman: beard", "woman with a beard"),
    ("person: red hair", "person with red hair"), ("man running: facing right", "man running facing right"),
    ("keycap: 7", "keycap 7"), ("Japanese “secret” button", "Japanese secret button"),
])  # fmt: skip
def test_names_are_said_as_people_say_them(name, said):
    from iconset.captions import named

    assert named(name) == said


def test_file_names_are_portable():
    from iconset.material import plain as code_of
    from iconset.material import slugged

    assert [slugged(n) for n in ("keycap: *", "keycap: #", "piñata", "woman’s hat", "flag: Côte d’Ivoire")] == [
        "keycap-asterisk",
        "keycap-hashtag",
        "pinata",
        "womans-hat",
        "flag-cote-divoire",
    ]
    assert [code_of(n) for n in ("0023-FE0F-20E3", "1f3f4-e0067_e0062")] == ["23-20e3", "1f3f4-e0067-e0062"]


def test_colour_words_stand_only_where_the_picture_bears_them_out():
    from iconset.captions import english
    from iconset.colours import mentioned

    apple = concept("red apple", "Food & Drink", ("green fruit", "red thing", "fruit"))
    red, green = english(apple, "3d", plain(230, 30, 40)), english(apple, "3d", plain(40, 160, 60))
    assert red[0] == "red apple" and all(mentioned(c) <= {"red"} for c in red)
    assert green[0] == "apple" and all(mentioned(c) <= {"green"} for c in green)
    assert english(concept("person with red hair", "People & Body"), "noto", plain(250, 210, 50))[0].endswith(
        "red hair"
    )


def test_a_thing_in_one_colour_is_said_to_be_so_in_both_languages():
    from iconset.captions import english, japanese

    kettle = concept("kettle")
    assert {"blue kettle", "a blue kettle"} <= set(english(kettle, "flat", plain(40, 110, 220)))
    assert "青い品物" in japanese(kettle, "flat", plain(40, 110, 220))
    half = plain(40, 110, 220)
    half[:30] = (250, 210, 50, 255)
    assert "kettle in blue and yellow" in english(kettle, "flat", half)
    behind = english(concept("sun behind cloud"), "flat", plain(250, 250, 250))
    assert not any("white sun" in c for c in behind)  # the picture is white, the sun is not


def test_styles_are_named_only_when_asked_for():
    from iconset.captions import english

    kettle = concept("kettle")
    with_words = english(kettle, "flat", plain(0, 0, 0), style_words=True)
    assert "kettle, flat design" in with_words
    assert not any("flat" in c for c in english(kettle, "flat", plain(0, 0, 0)))


# the split


def test_variants_go_together():
    from iconset.split import variant

    same = [
        ("man running", "woman running: facing right", "person running"),
        ("left arrow", "up-right arrow", "right arrow curving down"),
        ("twelve o’clock", "two-thirty"),
        ("Santa Claus", "Mrs. Claus", "Mx Claus"),
        ("prince", "person with crown"),
        ("family", "family: man, boy"),
        ("men holding hands", "woman and man holding hands"),
        ("black large square", "black small square"),
        ("boy", "older person", "woman"),
    ]
    found = [{variant(name) for name in names} for names in same]
    assert all(len(names) == 1 for names in found) and len(set.union(*found)) == len(same)
    apart = (
        "green heart",
        "red heart",
        "kiss mark",
        "kiss",
        "flag: Isle of Man",
        "flag: Oman",
        "keycap: 1",
        "keycap: 2",
    )
    assert len({variant(name) for name in apart}) == len(apart)


def test_a_tenth_of_the_groups_is_held_out_in_all_styles_and_a_tenth_in_one():
    from iconset.split import side

    styles = [["noto", "3d", "flat", "modern"], ["noto", "flat", "modern"]]
    found = [side(f"{i:x}", styles) for i in range(4000)]
    assert found == [side(f"{i:x}", styles) for i in range(4000)]
    for split in ("test-concepts", "test-styles"):
        assert 330 < sum(s == split for s, _ in found) < 470  # 400, and 3.7 deviations
    held = [style for split, style in found if split == "test-styles"]
    assert {s for s, style in found if style} == {"test-styles"}
    assert set(held) == {"noto", "flat", "modern"} and min(map(held.count, set(held))) > len(held) / 5
    alone = {side(f"{i:x}", [["noto", "3d"], ["noto"]])[0] for i in range(400)}
    assert alone == {"train", "test-concepts"}  # a concept with one style would vanish from training


def test_of_equal_pictures_the_older_emoji_stays():
    from iconset.split import alike, grouped, same_picture

    france = concept("flag: France", "Flags", code="b", since=0.6)
    island = concept("flag: Clipperton Island", "Flags", code="a", since=2.0)
    other = concept("kettle", code="c")
    pictures = {("noto", "a"): pattern(1, 64), ("noto", "b"): pattern(1, 64), ("noto", "c"): pattern(2, 64)}
    assert same_picture([island, france, other], pictures) == {("noto", "a"): ("noto", "b")}
    assert alike(pictures) == [("a", "b")]
    groups = grouped([island, france, other], [("a", "b")])
    assert groups == {"a": "a", "b": "a", "c": "c"}


# the whole


def test_the_set_is_what_kakusan_reads(icons):
    lines, out = listed(icons), icons
    pictures = 4 * len(THINGS) - 3 + 1  # the crane is in Noto alone, as is the flag, whatever Fluent 3D holds
    assert len(lines) == pictures == len(list(out.glob("*/*/*.png")))
    parts = {}
    for split in ("train", "test-concepts", "test-styles"):
        mine = [x for x in lines if x["split"] == split]
        source = open_source(out, split=split)
        parts[split] = {(x["code"], x["style"]) for x in mine}
        assert len(source) == len(mine) and source.classes == sorted({x["style"] for x in mine})
        by_file = {f"{split}/{x['file_name']}": x for x in mine}
        for i in range(len(source)):
            record, line = source.record(i), by_file[source.name(i)]
            assert record.meta["label"] == line["style"] and record.meta["text"] == line["text"][0]
            assert record.data.shape == (64, 64, 4) and len(line["text"]) >= 5 and len(line["text_ja"]) >= 3
    assert open_source(out).split == "train"
    codes = {split: {c for c, _ in found} for split, found in parts.items()}
    assert not codes["test-concepts"] & (codes["train"] | codes["test-styles"])
    assert codes["test-styles"] <= codes["train"] and not parts["test-styles"] & parts["train"]
    assert len({x["group"] for x in lines if "juggler" in x["concept"]}) == 1


def test_captions_are_clean_and_sorted_by_language(icons):
    for line in listed(icons):
        english, japanese = line["text"], line["text_ja"]
        assert all(c.strip() == c and c for c in english + japanese)
        assert len(set(english)) == len(english) and len(set(japanese)) == len(japanese)
        assert not any("skin" in c or ":" in c or "_" in c for c in english) and not any("肌" in c for c in japanese)
        assert all(c.isascii() for c in english) and not any(c.isascii() for c in japanese)


def test_the_same_sources_give_the_same_files_and_a_count(icons, sources, tmp_path, capsys):
    prepare(sources, tmp_path / "again")
    found = [
        {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}
        for out in (icons, tmp_path / "again")
    ]
    assert found[0] == found[1]
    assert f"{len(listed(icons))} pictures" in capsys.readouterr().out


def test_the_large_set_is_the_small_one_but_for_what_is_not_drawn_large(icons, sources, tmp_path):
    prepare(sources, tmp_path / "large", "--pixels", 256)
    small, large = ({line["style"] + line["code"]: line for line in listed(out)} for out in (icons, tmp_path / "large"))
    gone = {name for name in small if name[:4] == "noto" and small[name]["concept"] in ("silk gate", "flag of Japan")}
    assert small.keys() - large.keys() == gone and len(gone) == 2
    for name, line in large.items():
        assert line == small[name]
        file = Path(line["split"], line["file_name"])
        fine = np.asarray(Image.open(tmp_path / "large" / file)).astype(float)
        assert fine.shape == (256, 256, 4)
        assert np.abs(fine.reshape(64, 4, 64, 4, 4).mean((1, 3)) - np.asarray(Image.open(icons / file))).max() <= 1


def test_bad_sources_are_refused_in_a_line(sources, tmp_path):
    out = tmp_path / "icons"
    noto = sources / "emoji-datasource-google-16.0.0.tgz"
    held = noto.read_bytes()
    noto.write_bytes(held[:-1])
    with pytest.raises(SystemExit, match=r"SHA-512 differs.*npm pack emoji-datasource-google@16\.0\.0"):
        prepare(sources, out)
    noto.unlink()
    with pytest.raises(SystemExit, match=r"lacks emoji-datasource-google-16\.0\.0\.tgz.*npm pack emoji"):
        prepare(sources, out)
    noto.write_bytes(held)
    out.mkdir()
    with pytest.raises(SystemExit, match="exists; name a new folder"):
        prepare(sources, out)
    assert not list(tmp_path.glob("*.partial"))


def test_prompts_are_of_the_part_they_are_said_to_be_of(icons, tmp_path):
    prompts = importlib.import_module("prompts")
    prompts.main([str(icons), str(tmp_path / "prompts.toml")])
    found = tomllib.loads((tmp_path / "prompts.toml").read_text("utf-8"))
    lines = listed(icons)
    for kind, split in (("seen", "train"), ("held_concepts", "test-concepts"), ("held_styles", "test-styles")):
        having = {(x["code"], x["style"]) for x in lines if x["split"] == split}
        groups = {x["group"] for x in lines if x["split"] == split and x["category"] != "Flags"}
        assert len(found[kind]) == len(groups)
        for prompt in found[kind]:
            assert any(prompt["code"] == c and prompt.get("style", s) == s for c, s in having)
    with pytest.raises(SystemExit, match="no folder that prepare"):
        prompts.main([str(tmp_path), str(tmp_path / "prompts.toml")])


def test_the_written_prompts_are_whole():
    found = tomllib.loads((RECIPE / "prompts.toml").read_text("utf-8"))
    assert {kind: len(prompts) for kind, prompts in found.items()} == dict.fromkeys(
        ("seen", "held_concepts", "held_styles", "colour"), 100
    )
    for prompts in found.values():
        assert len({(p["prompt"], p.get("style")) for p in prompts}) == 100
    held = {p["code"] for p in found["held_concepts"]}
    assert not held & {p["code"] for kind in ("seen", "held_styles", "colour") for p in found[kind]}
    assert {p["thing"] for p in found["colour"]} > {"heart", "apple"}


# pairs for editing


def test_edits_follow_from_names():
    from iconset.edits import between_concepts

    names = ["man: red hair", "man", "woman", "judge", "man judge", "up arrow", "down arrow", "red heart", "blue heart"]
    names += ["person running", "person running: facing right", "umbrella", "umbrella with rain drops", "blue book"]
    people = {"man: red hair", "man", "woman", "judge", "man judge", "person running", "person running: facing right"}
    made = [concept(n, "People & Body" if n in people else "Objects", code=str(i)) for i, n in enumerate(names)]
    styles = {c.code: ["noto"] if c.english.name != "down arrow" else ["noto", "flat"] for c in made}
    said = {c.code: c.english.name for c in made}
    edits = list(between_concepts(made, styles))
    found = {(e.kind, said[e.source[1]], said[e.target[1]], e.orders[0]) for e in edits}
    assert found == {
        ("hair", "man", "man: red hair", "give it red hair"),
        ("gender", "man", "woman", "make it a woman"),
        ("gender", "woman", "man", "make it a man"),
        ("gender", "judge", "man judge", "make it a man"),
        ("gender", "man judge", "judge", "leave the gender open"),
        ("direction", "up arrow", "down arrow", "point it down"),
        ("direction", "down arrow", "up arrow", "point it up"),
        ("direction", "person running", "person running: facing right", "turn it to the right"),
        ("direction", "person running: facing right", "person running", "turn it to the left"),
        ("colour", "red heart", "blue heart", "make it blue"),
        ("colour", "blue heart", "red heart", "make it red"),
        ("addition", "umbrella", "umbrella with rain drops", "add rain drops"),
        ("removal", "umbrella with rain drops", "umbrella", "remove the rain drops"),
    }
    assert all(e.source[0] == e.target[0] == "noto" for e in edits)  # only where both are drawn


def test_pairs_stay_on_their_side_of_the_split(icons, sources, tmp_path, capsys):
    pairs, out = importlib.import_module("pairs"), tmp_path / "pairs"
    pairs.main([str(sources), str(icons), str(out), "--tones", "1"])
    part = {x["file_name"]: x["split"] for x in listed(icons)}
    kinds, pictures = set(), set()
    for split in ("train", "test-concepts", "test-styles"):
        for line in (out / f"{split}.jsonl").read_text("utf-8").splitlines():
            pair = json.loads(line)
            both = [pair["source"], pair["target"]]
            assert both[0] != both[1] and all((out / file).is_file() for file in both) and pair["text"]
            sides = {part[f.removeprefix("pictures/").replace("-light.png", ".png")] for f in both}
            worst = next(s for s in ("test-concepts", "test-styles", "train") if s in sides)
            assert worst == split
            kinds.add(pair["kind"])
            pictures.update(both)
    assert kinds == {"style", "gender", "skin tone"}
    light = [f for f in pictures if f.endswith("-light.png")]
    assert sorted(light) == [f"pictures/{s}/woman-juggler-light.png" for s in ("flat", "modern", "noto")]
    with pytest.raises(SystemExit, match="exists; name a new folder"):
        pairs.main([str(sources), str(icons), str(out)])
    with pytest.raises(SystemExit, match="a share from 0"):
        pairs.main([str(sources), str(icons), str(tmp_path / "none"), "--tones", "5"])
    pairs.main([str(sources), str(icons), str(tmp_path / "none"), "--tones", "0"])
    for split, same in (("train", False), ("test-concepts", True), ("test-styles", True)):
        all_of, thin = ((folder / f"{split}.jsonl").read_text("utf-8") for folder in (out, tmp_path / "none"))
        assert (all_of == thin) == same, "only what is trained on is thinned"
        assert same or thin == "".join(x for x in all_of.splitlines(True) if "skin tone" not in x)


def test_a_sheet_shows_the_style_asked_for_over_its_ground(icons, tmp_path):
    sheet = importlib.import_module("sheet")
    made = sheet.sheet(icons / "train", 4, "3d", "dark", 0)
    assert made.size == sheet.sheet(icons / "train", 4, "flat", "white", 0).size
    corner = (3, 3)  # inside the first picture, where it is clear
    assert made.getpixel(corner) == (30, 33, 40)
    assert sheet.sheet(icons / "train", 4, "3d", "white", 0).getpixel(corner) == (255, 255, 255)
    with pytest.raises(KakusanError, match="holds no metadata"):
        sheet.sheet(tmp_path, 4, None, "white", 0)


def test_words_are_those_of_all_parts_as_the_model_reads_them(icons):
    listed = importlib.import_module("words").words(icons)
    assert listed == sorted(set(listed)) and "" not in listed
    for part in ("train", "test-concepts"):
        captions = [t for line in (icons / part / "metadata.jsonl").open() for t in json.loads(line)["text"]]
        assert {w.strip("_ ") for caption in captions for w in spoken(caption)} <= set(listed)
