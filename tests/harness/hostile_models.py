"""Damaged and hostile model files by the hundred, and a child that loads them all."""

from __future__ import annotations

import json
import pickle
import random
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.small import small
from kakusan.app.judge.doctor import memory_peak
from kakusan.checkpoint import load_model, model_hash, save_model
from kakusan.part import KakusanError

CANARY = "executed"


class Bomb:
    """What executes when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return (exec, (f"open({str(self.folder / CANARY)!r}, 'w').close()",))


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header: Any, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def with_about(data: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The file with other metadata; its checksum is left out, as an attacker would."""
    header, body = parts(data)
    about = json.loads(header["__metadata__"]["kakusan"])
    about.pop("sum", None)
    changed = change(about)
    header["__metadata__"]["kakusan"] = changed if isinstance(changed, str) else json.dumps(about)
    return joined(header, body)


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(tree, dict):
        for key, value in tree.items():
            found += places(value, (*path, key))
    return found


VALUES: list[Any] = [
    10**9, -1, 0.5, float("nan"), float("inf"), 1e308, 2**63, "os:system", "os.system", "builtins:eval",
    "__import__('os').system('x')", [1] * 1000, {"a": {"b": {"c": 1}}}, {"kind": "os.system"}, {"kind": "process/ve"},
    {"kind": "kakusan.app.cli:main"}, "../../../etc/passwd", "x" * 100_000, [[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]],
    {"line\nbreak": 1}, {"k" * 100_000: {"kind": "no"}}, ["a"] * 99_000, {"kind": "net/unet", "channels": 10**12},
    {"kind": "process/tabulated", "steps": 10**15}, {"kind": "condition/label", "classes": 10**9},
]  # fmt: skip


def spec_changed(data: bytes, draw: random.Random) -> bytes:
    def change(about: dict[str, Any]) -> None:
        where = draw.choice(places(about["spec"], ("spec",)))
        node: Any = about
        for key in where[:-1]:
            node = node[key]
        value = draw.choice(VALUES)
        if draw.random() < 0.2 and isinstance(node[where[-1]], dict):
            node[where[-1]][draw.choice(["__class__", "evil\n", "x" * 5000])] = value
        else:
            node[where[-1]] = value

    return with_about(data, change)


def header_changed(data: bytes, draw: random.Random) -> bytes:
    header, body = parts(data)
    name = draw.choice([n for n in header if n != "__metadata__"])
    entry = header[name]
    how = draw.randrange(8)
    if how == 0:
        entry["shape"] = [2**62, 2**62]
    elif how == 1:
        entry["data_offsets"] = [-1, 10]
    elif how == 2:
        entry["data_offsets"] = [0, 10**15]
    elif how == 3:
        entry["dtype"] = "OBJECT"
    elif how == 4:
        header["other" + name] = dict(entry)
    elif how == 5:
        del header[name]
    elif how == 6:
        entry["shape"] = [*entry["shape"], 0]
    else:
        header[draw.choice(["../../x", "a\nb", "__metadata__ "])] = header.pop(name)
    return joined(header, body)


def huge_text(data: bytes, draw: random.Random) -> bytes:
    """Metadata or header that is legal JSON and costs memory or depth."""
    deep = "[" * 100_000 + "]" * 100_000
    wide = "[" + ",".join(["[]"] * 1_300_000) + "]"
    how = draw.randrange(6)
    if how == 0:
        return joined(('{"a":' * 50_000 + "1" + "}" * 50_000).encode(), b"")
    if how == 1:
        return joined(json.dumps({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
                                  for i in range(60_000)} | parts(data)[0]).encode(), b"")  # fmt: skip
    if how == 2:
        return joined(b" " * (9 << 20), b"")
    text = {3: deep, 4: wide, 5: '{"spec":' + '{"spec":' * 900 + "1" + "}" * 901}[how]
    return with_about(data, lambda about: text)


def foreign(data: bytes, draw: random.Random, folder: Path) -> bytes:
    """Something else under the name of a model."""
    how = draw.randrange(9)
    bomb = pickle.dumps(Bomb(folder), protocol=draw.choice([0, 2, 4]))
    if how == 0:
        return bomb
    if how == 1:
        return struct.pack("<Q", len(bomb)) + bomb
    if how == 2:
        path = folder / "zip"
        with zipfile.ZipFile(path, "w") as z:  # as torch.save writes
            z.writestr("archive/data.pkl", bomb)
            z.writestr("archive/version", "3")
        return path.read_bytes()
    if how == 3:
        return draw.randbytes(draw.randrange(5000))
    if how == 4:
        return b"\0" * draw.randrange(5000)
    if how == 5:
        return struct.pack("<Q", draw.choice([10**9, 2**63, 2**64 - 1, len(data)])) + data[8:]
    if how == 6:
        return b"import os\nos.system('x')\n" * 20
    if how == 7:
        return b"<html><body>404 Not Found</body></html>"
    return joined({"__metadata__": {"kakusan": "x" * (5 << 20)}}, b"")


def write_files(folder: Path, count: int) -> None:
    """``count`` files, one in nine of each kind, and a whole one."""
    draw = random.Random(0)
    save_model(folder / "whole.safetensors", small(), {"licence": "CC0-1.0", "classes": ["a", "b"]})
    data = (folder / "whole.safetensors").read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    for i in range(count):
        path = folder / f"{i:03d}{draw.choice(['.safetensors', '.safetensors', '.pt', '.ckpt', '.pkl'])}"
        kind = i % 9
        if kind == 0:
            path.write_bytes(data[: draw.randrange(len(data))])
        elif kind in (1, 2):
            at = draw.randrange(header) if kind == 1 else draw.randrange(header, len(data))
            changed = bytearray(data)
            changed[at] ^= 1 << draw.randrange(8)
            path.write_bytes(changed)
        elif kind == 3:
            path.write_bytes(foreign(data, draw, folder))
        elif kind == 4:
            path.write_bytes(header_changed(data, draw))
        elif kind == 5 and i % 2:
            path.write_bytes(huge_text(data, draw))
        elif kind == 6 and i % 4 == 0:
            odd(path, data, draw)
        else:
            path.write_bytes(spec_changed(data, draw))


def odd(path: Path, data: bytes, draw: random.Random) -> None:
    """No plain file, or one whose size is a lie."""
    how = draw.randrange(5)
    if how == 0:
        path.mkdir()
    elif how == 1:
        path.symlink_to(path)
    elif how == 2:
        path.symlink_to("/dev/zero")
    elif how == 3:
        with path.open("wb") as file:
            file.write(data)
            file.truncate(50 << 30)
    else:
        path.symlink_to("nowhere")


def peak() -> float:
    """The most memory this process has had, in MB."""
    return memory_peak() / 1e6


def load_all(folder: str) -> dict[str, Any]:
    """In a child: load every file; errors by name, files that loaded as what they were, memory and time."""
    load_model(Path(folder) / "whole.safetensors")  # imports what loading imports
    start = peak()
    known, modules = model_hash(small()), set(sys.modules)
    said: dict[str, str] = {}
    same, slowest, most, hungriest = [], 0.0, start, ""
    for path in sorted(Path(folder).iterdir()):
        if not path.stem.isdigit():
            continue
        begun = time.monotonic()
        try:
            model, info = load_model(path)
        except KakusanError as error:
            said[path.name] = str(error)
        else:
            assert model_hash(model) == known and info["licence"] == "CC0-1.0", f"{path} loaded as something else"
            same.append(path.name)
        slowest = max(slowest, time.monotonic() - begun)
        if peak() > most + 5:
            most, hungriest = peak(), path.name
    added = sorted(m for m in set(sys.modules) - modules if not m.startswith(("kakusan", "torch", "numpy")))
    facts = {"megabytes": peak() - start, "baseline": start, "slowest": slowest, "hungriest": hungriest}
    return facts | {"said": said, "same": same, "modules": added}
