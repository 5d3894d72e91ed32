"""Source: pictures with their labels and captions, wherever they lie, listed compactly and read one at a time."""

from __future__ import annotations

import difflib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kakusan.domains.domain import Record
from kakusan.domains.picture import PictureError, decode, require_finite
from kakusan.part import KakusanError
from kakusan.training import fields as columns
from kakusan.training.arraysets import ArraySet, idx_files, open_idx, open_npy, open_npz
from kakusan.training.folders import FolderStore
from kakusan.training.metadata import LABEL, SHOWN, Gathered, Metadata, Texts, sorted_classes
from kakusan.training.splits import SPLIT_NAMES, chosen_split, split_folders
from kakusan.training.store import Store, find_hashes, short_hash
from kakusan.training.zips import ZipStore

__all__ = ["Source", "Texts", "open_source"]

_LABELS = ("auto", "folders", "metadata", "none")


class Source:
    """A data set's entries: ``name(i)``, ``read(i)``, ``labels`` (int32, -1 = none) with ``classes``, ``texts``.

    ``split`` is the part in use, ``splits`` all there are; ``split_of`` gives each row's index in ``splits`` when
    the split is "all". ``notes`` are lines worth showing: what was taken, what was left out. ``astray``: how many
    captions name no picture, and the first of them.
    """

    def __init__(self, store: Store, rows: np.ndarray | None = None) -> None:
        self.store, self.path = store, store.path
        self._rows = rows
        self.labels: np.ndarray | None = None
        self.classes: list[str] = []
        self.called = "label"  # what the classes are of: "style"
        self.texts: Texts | None = None
        self.fields: dict[str, columns.Column] = {}  # numbers and tags of metadata, those that were asked for
        self.split: str | None = None
        self.splits: list[str] = []
        self.split_of: np.ndarray | None = None
        self.notes: list[str] = []
        self.astray: tuple[int, list[str]] = (0, [])

    def __len__(self) -> int:
        return len(self.store) if self._rows is None else len(self._rows)

    def _at(self, i: int) -> int:
        return int(i) if self._rows is None else int(self._rows[i])

    def name(self, i: int) -> str:
        """The entry's path inside the data set."""
        return self.store.name(self._at(i))

    def read(self, i: int) -> bytes | np.ndarray:
        """A file's bytes, or an array (H, W, C); raises PictureError."""
        return self.store.read(self._at(i))

    def record(self, i: int) -> Record:
        """The decoded entry at its own size, with name, label and text; raises PictureError."""
        data, name = self.read(i), self.name(i)
        if isinstance(data, bytes):
            record = decode(data, name)
        else:
            record = Record(data, {"name": name, "mode": "array", "format": "array", "size": data.shape[:2]})
        require_finite(record.data, name)
        if self.labels is not None and self.labels[i] >= 0:
            record.meta["label"] = self.classes[self.labels[i]]
        if self.texts is not None and (text := self.texts[i]) is not None:
            record.meta["text"] = text
        return record

    def uncaptioned(self) -> tuple[int, list[str]]:
        """How many pictures have no caption where others have one, and the names of the first."""
        if self.texts is None:
            return 0, []
        bare = np.setdiff1d(np.arange(len(self)), self.texts.captioned(), assume_unique=True)
        return len(bare), [self.name(int(i)) for i in bare[:SHOWN]]

    def sample(self, count: int = 512, seed: int = 0) -> Iterator[Record]:
        """Up to ``count`` readable records, drawn at random without repeats; what can not be read is passed over here,
        since the cache reports every one of them."""
        order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(self))
        found = 0
        for i in order:
            try:
                record = self.record(int(i))
            except PictureError:
                continue
            yield record
            found += 1
            if found == count:
                return

    def fingerprint(self) -> str:
        """64 hex digits over every entry's path, size and mtime (zip: checksum and size); taken afresh each time."""
        return self.store.fingerprint(self._rows)

    def describe(self) -> dict[str, Any]:
        """What was found, as plain data."""
        counts = None
        if self.labels is not None:
            found = np.bincount(self.labels[self.labels >= 0], minlength=len(self.classes))
            counts = dict(zip(self.classes, found.tolist(), strict=True))
        return {
            "path": str(self.path),
            "kind": self.store.kind,
            "count": len(self),
            "split": self.split,
            "splits": self.splits,
            "classes": counts,
            "captions": None if self.texts is None else len(self.texts.captioned()),
            "ignored": dict(self.store.ignored),
            "notes": self.notes,
        }


def open_source(
    path: str | Path, labels: str = "auto", split: str | None = None, fields: str | Sequence[str] | None = None
) -> Source:
    """The data set at a path: folder, zip, ``.npz``, ``.npy``, IDX files; ``DATA:SPLIT`` names a split.

    ``labels``: "folders" (each folder is a class), "metadata" (metadata.jsonl), "none", or "auto": metadata where
    it has labels, else folders where pictures lie in at least two of them and classes are few; or the field of
    metadata.jsonl that has them, which gives the condition its name. ``split``: a name,
    "all", or None for the training split. ``fields``: numbers and lists of tags of metadata.jsonl to read too.
    """
    wanted = columns.asked(fields)
    source = _opened(path, labels, split, wanted)
    if labels not in _LABELS and source.labels is None:
        raise _no_labels(source, labels)
    if wanted and not source.fields:
        raise KakusanError(f"data.fields={', '.join(wanted)}: {source.path} has no metadata.jsonl that could have them")
    return source


def _opened(path: str | Path, labels: str, split: str | None, fields: dict[str, str]) -> Source:
    path, split = _located(str(path), split)
    if path.is_dir():
        if idx := idx_files(path):
            return _open_arrays(open_idx(path, idx, labels != "none", split))
        return _open_files(FolderStore(path), labels, split, fields)
    name = path.name.lower()
    if name.endswith(".npz"):
        return _open_arrays(open_npz(path, labels != "none", split))
    if name.endswith(".npy"):
        return _open_arrays(open_npy(path))
    if zipfile.is_zipfile(path) or name.endswith(".zip"):
        return _open_files(ZipStore(path), labels, split, fields)
    if "idx3" in name:
        return _open_arrays(open_idx(path, {"": path}, labels != "none", split))
    raise KakusanError(f"{path} is a single file of no known kind; give a folder, .zip, .npz, .npy or IDX file")


def _located(text: str, split: str | None) -> tuple[Path, str | None]:
    """The path as it exists, ``DATA:SPLIT`` taken apart."""
    path = Path(text).expanduser()
    if path.exists():
        return path, split
    head, colon, tail = text.rpartition(":")
    if colon and Path(head).expanduser().exists():
        return Path(head).expanduser(), split or tail
    parent = path.parent
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    near = difflib.get_close_matches(path.name, [p.name for p in parent.iterdir()], 1) if parent.is_dir() else []
    hint = f"; did you mean {parent / near[0]}?" if near else ""
    raise KakusanError(f"DATA {text!r} does not exist{hint}")


def _open_arrays(found: ArraySet) -> Source:
    source = Source(found.store)
    source.labels, source.classes = found.labels, found.classes
    return _finish(source, found.splits, found.split, found.split_of)


def _open_files(store: FolderStore | ZipStore, labels: str, split: str | None, fields: dict[str, str]) -> Source:
    if not len(store):
        found = ", ".join(f"{n} {suffix}" for suffix, n in store.ignored.most_common(5))
        raise KakusanError(f"{store.path}: no pictures in it" + (f" (found: {found})" if found else "; it is empty"))
    parts = [tuple(f.split("/")) if f else () for f in store.folders]
    while all(parts) and len({p[0] for p in parts}) == 1 and parts[0][0].lower() not in SPLIT_NAMES:
        parts = [p[1:] for p in parts]  # a wrapping folder says nothing
    heads = [p[0] if p else "" for p in parts]
    if splits := split_folders(heads):
        numbers = np.array([splits.index(h) for h in heads])
        parts = [p[1:] for p in parts]
    folder_of = np.frombuffer(store.folder_of, np.uint32)
    rows, chosen, split_of = None, None, None
    if splits:
        chosen = chosen_split(splits, split, store.path)
        split_of = numbers[folder_of].astype(np.int8)
        if chosen != "all":
            rows = np.flatnonzero(split_of == splits.index(chosen))
            split_of = None
    elif split not in (None, "all"):
        raise KakusanError(f"{store.path} has no split {split!r}: it has no train/ and test/ folders")
    source = Source(store, rows)
    if store.side:
        source = _with_metadata(source, labels, fields)
    if len(store.captions) and source.texts is None:
        source.texts = _captions(source)
        source.astray = (0, []) if source.texts is None else _astray(store)
    if labels == "folders" or (labels == "auto" and source.labels is None):
        _label_folders(source, ["/".join(p) for p in parts], labels == "folders")
    if split_of is not None and source._rows is not None:
        split_of = split_of[source._rows]
    return _finish(source, splits, chosen, split_of)


def _finish(source: Source, splits: list[str], split: str | None, split_of: np.ndarray | None) -> Source:
    source.splits, source.split, source.split_of = splits, split, split_of
    if len(splits) > 1 and split != "all":
        others = ", ".join(f"{source.path}:{s}" for s in splits if s != split)
        source.notes.insert(0, f"the split {split!r} is used ({len(source):,} pictures); the others are named {others}")
    if source.store.ignored:
        found = ", ".join(f"{n} {suffix}" for suffix, n in source.store.ignored.most_common(5))
        source.notes.append(f"left out, since they are no pictures: {found}")
    if not len(source):
        raise KakusanError(f"{source.path}: no pictures are left of {len(source.store)} ({'; '.join(source.notes)})")
    return source


def _label_folders(source: Source, names: list[str], asked: bool) -> None:
    """Classes from folder names; whole paths, or the first folder where that would be too many."""
    folder_of = np.frombuffer(source.store.folder_of, np.uint32)
    used = folder_of if source._rows is None else folder_of[source._rows]
    for folders in (names, [n.partition("/")[0] for n in names]):
        classes = sorted({folders[i] for i in np.unique(used)} - {""})
        number = {name: i for i, name in enumerate(classes)}
        index = np.array([number.get(name, -1) for name in folders], np.int32)
        found = index[used]
        few = 2 <= len(classes) <= min(1000, len(source) // 2) and (found >= 0).mean() > 0.95
        if few or (asked and classes):
            source.labels, source.classes = found, classes
            return
    if asked:
        raise KakusanError(
            f'{source.path}: labels="folders", but its pictures do not lie in folders; use labels="none"'
        )


def _with_metadata(source: Source, labels: str, fields: dict[str, str]) -> Source:
    """Rows, labels, fields and captions from ``metadata.jsonl`` files (the Hugging Face imagefolder convention)."""
    table = np.fromiter((short_hash(source.name(i)) for i in range(len(source))), np.uint64, len(source))
    order = np.argsort(table)
    keys = LABEL if labels in _LABELS else (labels,)
    found = Metadata(table, order, columns.Gather(fields), keys)
    for name in _beside(source):
        text = source.store.read_side(name)
        if text is not None:
            found.read(text, name, source.store.path)
    if not found.rows:
        return source
    listed, where = np.unique(np.array(found.rows, np.int64), return_index=True)
    kept = Source(source.store, listed if source._rows is None else source._rows[listed])
    if len(listed) < len(source):
        kept.notes.append(f"{len(source) - len(listed):,} pictures are left out: metadata.jsonl does not list them")
    if found.missing:
        kept.notes.append(
            f"{found.missing:,} entries of metadata.jsonl name no picture here, first {found.first_missing[0]!r}"
        )
    if (texts := found.texts.texts()) is not None:
        kept.texts, kept.astray = texts.subset(where), (found.missing, found.first_missing)
    kept.fields = found.fields.columns(where, f"{source.path}'s metadata.jsonl")
    values = np.array(found.label_at, np.int32)[where]
    if labels not in ("folders", "none") and (values >= 0).any():
        kept.labels, kept.classes = sorted_classes(values, list(found.labels))
        kept.called = keys[0]
    elif labels not in ("auto", "folders", "none"):
        raise _no_labels(source, labels)
    return kept


def _no_labels(source: Source, asked: str) -> KakusanError:
    if asked == "metadata":
        return KakusanError(f'{source.path}: labels="metadata", but metadata.jsonl has no "label"')
    near = difflib.get_close_matches(asked, _LABELS, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    known = ", ".join(_LABELS)
    return KakusanError(f"labels is {asked!r}: neither one of {known}, nor a field of {source.path}'s metadata{hint}")


def _beside(source: Source) -> list[str]:
    """The metadata files that may speak of the source's pictures: not those of other splits."""
    if source._rows is None:
        return source.store.side
    used = np.unique(np.frombuffer(source.store.folder_of, np.uint32)[source._rows])
    folders = [f"{source.store.folders[i]}/" for i in used]
    homes = {name: name[: name.rfind("/") + 1] for name in source.store.side}
    return [name for name, home in homes.items() if any(f.startswith(home) for f in folders)]


def _captions(source: Source) -> Texts | None:
    """Captions from the .txt files of the same stem beside pictures, one a line."""
    found = Gathered()
    for i in range(len(source)):
        data = source.store.read_side(_stem(source.name(i)) + ".txt")
        found.add([] if data is None else data.decode("utf-8-sig", "replace").splitlines())
    return found.texts()


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _astray(store: Store) -> tuple[int, list[str]]:
    """The .txt files without a picture of their stem: how many, and the first."""
    pictures = np.fromiter((short_hash(_stem(store.name(i))) for i in range(len(store))), np.uint64, len(store))
    names = (store.captions[i] for i in range(len(store.captions)))
    wanted = np.fromiter((short_hash(_stem(name)) for name in names), np.uint64, len(store.captions))
    lost = np.flatnonzero(find_hashes(pictures, np.argsort(pictures), wanted) < 0)
    return len(lost), [store.captions[int(i)] for i in lost[:SHOWN]]
