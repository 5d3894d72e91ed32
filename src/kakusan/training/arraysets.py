"""Data sets of arrays: IDX files, ``.npz`` and ``.npy``, with the labels and splits that stand beside the pictures."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kakusan.part import KakusanError
from kakusan.training.arrays import ArrayStore, idx_array, npz_array, pictures_of
from kakusan.training.splits import chosen_split

__all__ = ["ArraySet", "idx_files", "open_idx", "open_npy", "open_npz"]

CLASSES = "classes.txt"  # beside IDX files: the names of the classes, one a line
_IDX = re.compile(r"^(.*?)[-_.]?images[-.]idx3-ubyte(\.gz)?$")
_PIXEL_KEYS = {"train": ("images", "x", "x_train", "train_images", "data", "arr_0"), "test": ("x_test", "test_images")}
_LABEL_KEYS = {
    "train": ("labels", "y", "y_train", "train_labels", "label", "targets", "arr_1"),
    "test": ("y_test", "test_labels"),
}


@dataclass(frozen=True)
class ArraySet:
    """What was found: pictures, labels (N,) int32 with their classes, the splits there are and the one in use."""

    store: ArrayStore
    labels: np.ndarray | None = None
    classes: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    split: str | None = None
    split_of: np.ndarray | None = None  # (N,) index into ``splits`` where all are in use


def idx_files(folder: Path) -> dict[str, Path]:
    """Prefix ("train", "t10k") -> images file of a folder in MNIST's format; unpacked files are preferred."""
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir(), reverse=True):
        if match := _IDX.match(file.name):
            found[match[1]] = file
    return found


def open_idx(path: Path, files: dict[str, Path], labelled: bool, split: str | None) -> ArraySet:
    """Images files by prefix ("" = a lone file) with the label files beside them."""
    names = sorted(files, key=lambda n: (not n.endswith("train"), n))
    chosen = chosen_split(names, split, path)
    parts, values = [], []
    for name in names if chosen == "all" else [chosen]:
        images = idx_array(files[name])
        parts.append((files[name].name, files[name], pictures_of(images, str(files[name]))))
        if (found := _idx_labels(files[name], len(images))) is not None:
            values.append(found)
    labels, classes = None, list[str]()
    if labelled and len(values) == len(parts):
        labels = np.concatenate(values).astype(np.int32)
        classes = _idx_classes(files[names[0]].with_name(CLASSES), int(labels.max()) + 1)
    splits = names if names != [""] else []
    return ArraySet(ArrayStore(path, parts), labels, classes, splits, chosen or None, _split_of(parts, chosen))


def open_npy(path: Path) -> ArraySet:
    """One array of pictures."""
    return ArraySet(ArrayStore(path, [(path.name, path, pictures_of(npz_array(path, None), str(path)))]))


def open_npz(path: Path, labelled: bool, split: str | None) -> ArraySet:
    """Arrays by their usual names: images or x, labels or y, x_train, x_test, ..."""
    try:
        with zipfile.ZipFile(path) as z:
            keys = [n.removesuffix(".npy") for n in z.namelist()]
    except (zipfile.BadZipFile, OSError) as error:
        raise KakusanError(f"{path}: damaged .npz: {error}") from None
    by_name = {k.lower(): k for k in reversed(keys)}
    pixels = {s: next((by_name[k] for k in names if k in by_name), None) for s, names in _PIXEL_KEYS.items()}
    pixels = {s: k for s, k in pixels.items() if k}
    if not pixels and len(keys) == 1:
        pixels = {"train": keys[0]}
    if not pixels:
        raise KakusanError(f'{path}: no array called "images" or "x"; it holds: {", ".join(keys)}')
    chosen = chosen_split(list(pixels), split, path)
    used = list(pixels) if chosen == "all" else [chosen]
    parts = [
        (f"{path.name}:{pixels[s]}", path, pictures_of(npz_array(path, pixels[s]), f"{path}:{pixels[s]}")) for s in used
    ]
    labels, classes = _npz_labels(path, by_name, used, [len(a) for _, _, a in parts]) if labelled else (None, [])
    splits = list(pixels) if len(pixels) > 1 else []
    split_of = _split_of(parts, chosen)
    return ArraySet(ArrayStore(path, parts), labels, classes, splits, chosen if splits else None, split_of)


def _split_of(parts: list[tuple[str, Path, np.ndarray]], chosen: str) -> np.ndarray | None:
    if chosen != "all":
        return None
    return np.repeat(np.arange(len(parts), dtype=np.int8), [len(a) for _, _, a in parts])


def _idx_labels(images: Path, count: int) -> np.ndarray | None:
    stem = images.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    for file in (images.with_name(stem), images.with_name(stem + ".gz")):
        if file.exists():
            labels = idx_array(file)
            if labels.shape != (count,):
                raise KakusanError(f"{file}: {labels.shape[0]} labels for {count} pictures in {images.name}")
            return np.array(labels)
    return None


def _idx_classes(file: Path, count: int) -> list[str]:
    """The names in the file, where there is one; else "0", "1", ..."""
    if not file.is_file():
        return [str(i) for i in range(count)]
    names = [line.strip() for line in file.read_text("utf-8", "replace").splitlines() if line.strip()]
    if len(names) < count or len(set(names)) < len(names):
        raise KakusanError(
            f"{file}: {len(names)} names ({len(set(names))} different) for {count} classes; "
            "give each a name of its own, one a line"
        )
    return names


def _npz_labels(
    path: Path, by_name: dict[str, str], used: list[str], counts: list[int]
) -> tuple[np.ndarray | None, list[str]]:
    keys = [next((by_name[k] for k in _LABEL_KEYS[s] if k in by_name), None) for s in used]
    if not all(keys):
        return None, []
    values = []
    for key, count in zip(keys, counts, strict=True):
        a = np.asarray(npz_array(path, key)).squeeze()
        a = a.argmax(1) if a.ndim == 2 else a  # one-hot
        if a.shape != (count,) or a.dtype.kind not in "biuUS":
            raise KakusanError(
                f"{path}: {key} is {a.shape} of {a.dtype}; one number or word for each of {count} needed"
            )
        values.append(a)
    joined = np.concatenate(values)
    if joined.dtype.kind in "US":
        names, index = np.unique(joined.astype(str), return_inverse=True)
        return index.astype(np.int32), names.tolist()
    labels = joined.astype(np.int32)
    count = int(labels.max()) + 1
    given = next((by_name[k] for k in ("classes", "class_names", "label_names") if k in by_name), None)
    named = np.asarray(npz_array(path, given)).astype(str).tolist() if given else []
    return labels, named if len(named) >= count else [str(i) for i in range(count)]
