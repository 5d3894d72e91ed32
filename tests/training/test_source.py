"""Sources: every layout that data come in, labels and captions, and what is no picture."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from kakusan.domains.picture import PictureError, encode_png
from kakusan.part import KakusanError
from kakusan.training.source import open_source


def png(value: int, side: int = 4) -> bytes:
    return encode_png(np.full((side, side, 1), value, np.uint8))


def put(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def pack(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as z:
        for name, data in files.items():
            z.writestr(name, data)
    return path


def either(tmp_path: Path, files: dict[str, bytes], kind: str) -> Path:
    return put(tmp_path / "data", files) if kind == "folder" else pack(tmp_path / "data.zip", files)


def values(source) -> dict[str, int]:
    return {source.name(i): int(source.record(i).data[0, 0, 0]) for i in range(len(source))}


both = pytest.mark.parametrize("kind", ["folder", "zip"])


@both
def test_plain_files_read_back_and_others_are_counted(tmp_path, kind):
    files = {
        "a.png": png(1),
        "b.PNG": png(2),
        "README.md": b"x",
        "._a.png": b"x",
        "__MACOSX/a.png": b"x",
        ".hid/c.png": b"x",
    }
    source = open_source(either(tmp_path, files, kind))
    assert values(source) == {"a.png": 1, "b.PNG": 2}
    assert source.labels is None and source.describe()["ignored"] == {".md": 1}
    assert "1 .md" in source.notes[-1]


@both
def test_folders_are_classes(tmp_path, kind):
    files = {f"wrap/{c}/{i}.png": png(i) for c in ("cat", "dog") for i in range(3)}
    source = open_source(either(tmp_path, files, kind))
    assert source.classes == ["cat", "dog"]
    for i in range(6):
        assert source.classes[source.labels[i]] in source.name(i)
        assert source.record(i).meta["label"] == source.classes[source.labels[i]]
    assert open_source(source.path, "none").labels is None
    deep = {f"x/{c}/{i}.png": png(i) for c in ("cat/tom", "dog/rex") for i in range(3)}
    assert open_source(either(tmp_path / "deep", deep, "folder"), "folders").classes == ["cat/tom", "dog/rex"]


def test_auto_does_not_take_one_folder_or_too_many_for_classes(tmp_path):
    one = {f"photos/{i}.png": png(i) for i in range(4)}
    assert open_source(put(tmp_path / "one", one)).labels is None
    many = {f"day{i}/{i}.png": png(i) for i in range(6)}
    assert open_source(put(tmp_path / "many", many)).labels is None
    assert len(open_source(tmp_path / "many", "folders").classes) == 6
    with pytest.raises(KakusanError, match="none"):
        open_source(tmp_path / "one", "folders")


@both
def test_train_is_used_where_there_are_splits(tmp_path, kind):
    files = {f"{s}/{c}/{i}.png": png(i) for s, n in (("train", 4), ("test", 2)) for c in "ab" for i in range(n)}
    path = either(tmp_path, files, kind)
    source = open_source(path)
    assert (source.split, len(source), source.classes) == ("train", 8, ["a", "b"])
    assert f"{path}:test" in source.notes[0]
    for other in (open_source(f"{path}:test"), open_source(path, split="test")):
        assert (other.split, len(other), other.classes) == ("test", 4, ["a", "b"])
        assert all(other.name(i).startswith("test/") for i in range(4))
    whole = open_source(path, split="all")
    assert len(whole) == 12 and [whole.splits[s] for s in whole.split_of] == [
        whole.name(i).split("/")[0] for i in range(12)
    ]
    assert source.fingerprint() != open_source(path, split="test").fingerprint()
    with pytest.raises(KakusanError, match="it has: train, test"):
        open_source(path, split="dev")


@both
def test_several_tests_beside_a_training_folder_are_splits(tmp_path, kind):
    counts = {"train": 4, "test-concepts": 3, "test-styles": 2}
    files = {f"{s}/{c}/{i}.png": png(i) for s, n in counts.items() for c in "ab" for i in range(n)}
    for split in counts:
        lines = [{"file_name": name.partition("/")[2], "text": name} for name in files if name.startswith(f"{split}/")]
        files[f"{split}/metadata.jsonl"] = "\n".join(map(json.dumps, lines)).encode()
    path = either(tmp_path, files, kind)
    for split, count in counts.items():
        source = open_source(path, split=split)
        assert source.splits == ["train", "test-concepts", "test-styles"] and len(source) == 2 * count
        assert [source.texts[i] for i in range(len(source))] == [source.name(i) for i in range(len(source))]
        assert source.classes == ["a", "b"]
        assert not any("name no picture" in n for n in source.notes)  # those of other splits are none of its own
    assert open_source(path).split == "train"
    whole = open_source(path, split="all")
    assert [whole.splits[s] for s in whole.split_of] == [whole.name(i).partition("/")[0] for i in range(18)]


def test_names_that_begin_like_splits_are_classes_where_no_training_folder_is(tmp_path):
    files = {f"{c}/{i}.png": png(i) for c in ("train-station", "test-tube") for i in range(3)}
    source = open_source(put(tmp_path / "no", files))
    assert not source.splits and source.classes == ["test-tube", "train-station"]
    more = files | {f"{c}/{i}.png": png(i) for c in ("train", "house") for i in range(3)}
    assert not open_source(put(tmp_path / "mixed", more)).splits


@both
def test_metadata_jsonl_gives_texts_and_labels(tmp_path, kind):
    lines = [
        {"file_name": "b.png", "text": "ein Bär", "label": 10},
        {"file_name": "sub/a.png", "text": "an ape", "label": 2},
        {"file_name": "gone.png"},
    ]
    files = {
        "sub/a.png": png(1),
        "b.png": png(2),
        "c.png": png(3),
        "metadata.jsonl": "\n".join(map(json.dumps, lines)).encode(),
    }
    source = open_source(either(tmp_path, files, kind))
    found = {source.name(i): (source.texts[i], source.classes[source.labels[i]]) for i in range(len(source))}
    assert found == {"b.png": ("ein Bär", "10"), "sub/a.png": ("an ape", "2")}
    assert source.classes == ["2", "10"]  # numbers in order of their value
    assert any("1 pictures are left out" in n for n in source.notes) and any("gone.png" in n for n in source.notes)


def test_bad_metadata_names_its_line(tmp_path):
    put(tmp_path, {"a.png": png(1), "metadata.jsonl": b'{"file_name": "a.png"}\n{"name": 3}\n'})
    with pytest.raises(KakusanError, match="line 2"):
        open_source(tmp_path)


@both
def test_caption_files(tmp_path, kind):
    files = {
        "a/1.png": png(1),
        "a/1.txt": b"eine Katze\n",
        "a/2.png": png(2),
        "b/3.png": png(3),
        "b/3.txt": b"dog",
    }
    source = open_source(either(tmp_path, files, kind))
    assert {source.name(i): source.texts[i] for i in range(3)} == {
        "a/1.png": "eine Katze",
        "a/2.png": None,
        "b/3.png": "dog",
    }
    assert source.describe()["captions"] == 2 and source.record(0).meta.get("text") == source.texts[0]


def idx(a: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{a.ndim}I", 0, 0, 8, a.ndim, *a.shape) + a.tobytes()


def test_idx_files_and_folders(tmp_path):
    rng = np.random.default_rng(0)
    train, test = rng.integers(0, 256, (6, 5, 4), np.uint8), rng.integers(0, 256, (3, 5, 4), np.uint8)
    labels = np.array([0, 1, 2, 2, 1, 0], np.uint8)
    put(tmp_path, {
        "train-images-idx3-ubyte.gz": gzip.compress(idx(train)),
        "train-labels-idx1-ubyte.gz": gzip.compress(idx(labels)),
        "t10k-images-idx3-ubyte": idx(test),
        "t10k-labels-idx1-ubyte": idx(labels[:3]),
    })  # fmt: skip
    source = open_source(tmp_path)
    assert len(source) == 6 and source.labels.tolist() == labels.tolist() and source.classes == ["0", "1", "2"]
    assert np.array_equal(source.read(4)[..., 0], train[4])
    for other in (open_source(f"{tmp_path}:test"), open_source(tmp_path / "t10k-images-idx3-ubyte")):
        assert np.array_equal(other.read(2)[..., 0], test[2]) and other.labels.tolist() == [0, 1, 2]
    whole = open_source(tmp_path, split="all")
    assert whole.split_of.tolist() == [0] * 6 + [1] * 3 and np.array_equal(whole.read(8)[..., 0], test[2])


def test_idx_classes_are_named_by_a_file_beside_them(tmp_path):
    labels = np.array([0, 1, 2, 1], np.uint8)
    put(tmp_path, {
        "train-images-idx3-ubyte": idx(np.zeros((4, 5, 4), np.uint8)),
        "train-labels-idx1-ubyte": idx(labels),
        "classes.txt": "shoe\n\nÄrmel\r\nankle boot\n".encode(),
    })  # fmt: skip
    source = open_source(tmp_path)
    assert source.classes == ["shoe", "Ärmel", "ankle boot"] and source.labels.tolist() == labels.tolist()
    assert open_source(tmp_path / "train-images-idx3-ubyte").classes == source.classes
    for wrong in ("shoe\nboot", "a\na\nb\nc"):
        (tmp_path / "classes.txt").write_text(wrong)
        with pytest.raises(KakusanError, match=r"classes\.txt: \d names \(\d different\) for 3 classes"):
            open_source(tmp_path)


def test_one_part_of_idx_files_is_that_part_only(tmp_path):
    put(
        tmp_path, {f"{s}-images-idx3-ubyte": idx(np.zeros((n, 5, 4), np.uint8)) for s, n in (("train", 6), ("t10k", 3))}
    )
    test = open_source(f"{tmp_path}:test")
    assert test.split == "t10k" and test.splits == ["train", "t10k"] and test.split_of is None
    with pytest.raises(KakusanError, match="it is one file"):
        open_source(tmp_path / "t10k-images-idx3-ubyte", split="test")


def test_damaged_idx_is_refused(tmp_path):
    a = np.zeros((6, 5, 4), np.uint8)
    for name, data in {"short": idx(a)[:-3], "long": idx(a) + b"x", "other": b"PNG" * 9}.items():
        path = tmp_path / f"{name}-images-idx3-ubyte"
        path.write_bytes(data)
        with pytest.raises(KakusanError, match=name):
            open_source(path)
    bomb = tmp_path / "bomb-images-idx3-ubyte.gz"
    bomb.write_bytes(gzip.compress(idx(a) + bytes(10**7)))
    with pytest.raises(KakusanError, match="expands past"):
        open_source(bomb)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_and_npy(tmp_path, save):
    rng = np.random.default_rng(0)
    a = rng.integers(0, 60000, (7, 3, 6, 5), np.uint16)
    save(tmp_path / "a.npz", images=a, labels=np.arange(7)[:, None] % 3)
    source = open_source(tmp_path / "a.npz")
    assert np.array_equal(source.read(3), a[3].transpose(1, 2, 0)) and source.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    save(tmp_path / "b.npz", x_train=a[:5], x_test=a[5:], y_train=np.array(list("aabbc")), y_test=np.array(["b", "c"]))
    assert len(open_source(tmp_path / "b.npz")) == 5 and open_source(tmp_path / "b.npz").classes == ["a", "b", "c"]
    assert len(open_source(f"{tmp_path / 'b.npz'}:test")) == 2
    np.save(tmp_path / "c.npy", np.full((4, 6, 5), 9, np.int64))
    assert open_source(tmp_path / "c.npy").read(0).dtype == np.uint8
    np.save(tmp_path / "d.npy", np.array([{"x": 1}], object), allow_pickle=True)
    with pytest.raises(KakusanError, match="can not be read"):
        open_source(tmp_path / "d.npy")
    np.savez(tmp_path / "e.npz", weights=np.zeros(3), bias=np.zeros(3))
    with pytest.raises(KakusanError, match="weights, bias"):
        open_source(tmp_path / "e.npz")


def test_what_does_not_exist_or_is_empty(tmp_path):
    put(tmp_path, {"photos/a.png": png(1), "words/a.doc": b"x"})
    (tmp_path / "nothing").mkdir()
    with pytest.raises(KakusanError, match=r"did you mean .*photos"):
        open_source(tmp_path / "fotos")
    with pytest.raises(KakusanError, match=r"found: 1 \.doc"):
        open_source(tmp_path / "words")
    with pytest.raises(KakusanError, match="it is empty"):
        open_source(tmp_path / "nothing")
    with pytest.raises(KakusanError, match="single file"):
        open_source(tmp_path / "photos/a.png")
    with pytest.raises(KakusanError, match="folders"):
        open_source(tmp_path / "photos", "folder")


def test_links_are_followed_and_loops_are_not(tmp_path):
    put(tmp_path, {"data/a/1.png": png(1), "elsewhere/2.png": png(2)})
    (tmp_path / "data/a/loop").symlink_to(tmp_path / "data")
    (tmp_path / "data/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/gone.png").symlink_to(tmp_path / "gone.png")
    source = open_source(tmp_path / "data")
    assert sorted(values(source).values()) == [1, 2]
    assert source.describe()["ignored"]["(a broken link or no plain file)"] == 1


def test_zip_members_damaged_hidden_in_size_or_encrypted(tmp_path):
    path = pack(
        tmp_path / "a.zip", {"good.png": png(5), "bomb.png": bytes(3 * 10**6), "crc.png": png(6)}, zipfile.ZIP_DEFLATED
    )
    data = bytearray(path.read_bytes())
    names = [data.find(b"PK\1\2", 0)]
    while (at := data.find(b"PK\1\2", names[-1] + 4)) >= 0:
        names.append(at)
    struct.pack_into("<I", data, names[1] + 24, 1000)  # declares 1000 bytes, holds three million
    struct.pack_into("<I", data, names[2] + 16, 12345)
    path.write_bytes(data)
    source = open_source(path)
    assert source.record(0).data[0, 0, 0] == 5
    with pytest.raises(PictureError, match="expands past") as caught:
        source.read(1)
    assert caught.value.reason == "oversized"
    with pytest.raises(PictureError, match="checksum"):
        source.read(2)
    struct.pack_into("<H", data, names[0] + 8, 1)
    path.write_bytes(data)
    with pytest.raises(PictureError, match="encrypted"):
        open_source(path).read(0)
    path.write_bytes(bytes(data[: len(data) // 2]))
    with pytest.raises(KakusanError, match="its end is missing"):
        open_source(path)


def test_zip64_and_a_zip_behind_other_bytes(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for i in range(70_000):
            z.writestr(f"n{i:05}.txt" if i else "first.png", png(9) if not i else b"")
        with z.open("last.png", "w", force_zip64=True) as f:
            f.write(png(7))
    (tmp_path / "big.zip").write_bytes(b"#!/bin/sh\n" + out.getvalue())
    source = open_source(tmp_path / "big.zip")
    assert values(source) == {"first.png": 9, "last.png": 7}


def test_fingerprint_sees_time_size_and_name(tmp_path):
    put(tmp_path, {"a.png": png(1), "b.png": png(2)})
    seen = {open_source(tmp_path).fingerprint()}
    assert open_source(tmp_path).fingerprint() in seen
    os.utime(tmp_path / "a.png", ns=(1, 1_700_000_000_000_000_001))
    seen.add(open_source(tmp_path).fingerprint())
    os.utime(tmp_path / "a.png", ns=(1, 1_700_000_000_000_000_002))
    seen.add(open_source(tmp_path).fingerprint())
    (tmp_path / "a.png").rename(tmp_path / "c.png")
    seen.add(open_source(tmp_path).fingerprint())
    assert len(seen) == 4


def test_sample_draws_without_repeats_and_passes_over_broken_ones(tmp_path):
    put(tmp_path, {f"{i}.png": png(i) for i in range(20)} | {"bad.png": b"no"})
    records = list(open_source(tmp_path).sample(12))
    assert len({r.meta["name"] for r in records}) == 12
    assert len(list(open_source(tmp_path).sample(99))) == 20
    again = [r.meta["name"] for r in open_source(tmp_path).sample(12)]
    assert again == [r.meta["name"] for r in records]


def test_a_hundred_thousand_entries_are_listed_in_few_bytes(tmp_path):
    from kakusan.training.zips import ZipStore

    out = zipfile.ZipFile(tmp_path / "a.zip", "w")
    with out:
        for i in range(20_000):
            out.writestr(f"class/{i:06}.png", b"")
    store = ZipStore(tmp_path / "a.zip")
    held = len(store.names._blob) + 8 * len(store.names._ends) + 4 * len(store.folder_of) + 29 * len(store)
    assert held / len(store) < 60 and store.name(19_999) == "class/019999.png"


def test_a_field_of_the_metadata_gives_the_classes_and_their_name(tmp_path):
    lines = [{"file_name": f"{i}.png", "style": ("flat", "3d")[i % 2], "label": "x"} for i in range(4)]
    files = {f"{i}.png": png(i) for i in range(4)}
    put(tmp_path, {**files, "metadata.jsonl": "\n".join(map(json.dumps, lines)).encode()})
    found = open_source(tmp_path, labels="style")
    assert (found.called, found.classes, found.labels.tolist()) == ("style", ["3d", "flat"], [1, 0, 1, 0])
    assert open_source(tmp_path).called == "label"
    with pytest.raises(KakusanError, match=r"labels is 'folder': neither .* did you mean 'folders'\?"):
        open_source(tmp_path, labels="folder")
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(KakusanError, match="labels is 'style': neither one of auto, folders, metadata, none, nor"):
        open_source(tmp_path / "a.npy", labels="style")
