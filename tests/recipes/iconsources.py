"""Small made packages of the kind that the icons are prepared from: some twenty things drawn in four styles."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

THINGS = [
    f"{kind} {thing}" for kind in ("red", "brass", "paper", "silk") for thing in ("kettle", "horn", "crane", "gate")
]
THINGS += ["man juggler", "woman juggler", "person juggler"]
TONED = "woman juggler"


def emoji(i: int) -> str:
    return chr(0x1F900 + i)


def code(i: int) -> str:
    return f"{0x1F900 + i:x}"


def pattern(seed: int, side: int) -> np.ndarray:
    """A pattern of 8 x 8 coloured fields, clear at its border, that no other seed is near."""
    rng = np.random.default_rng(seed)
    a = np.zeros((8, 8, 4), np.uint8)
    a[1:-1, 1:-1, :3] = rng.integers(0, 256, (6, 6, 3))
    a[1:-1, 1:-1, 3] = 255
    return np.kron(a, np.ones((side // 8, side // 8, 1), np.uint8))


def encoded(a: np.ndarray, kind: str) -> bytes:
    data = io.BytesIO()
    Image.fromarray(a).save(data, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return data.getvalue()


def rasterised(svg: bytes) -> bytes:
    """Stands in for the rasteriser: the pattern of the seed that the drawing names."""
    found = re.search(rb'id="(\d+)"', svg)
    assert found is not None
    return encoded(pattern(int(found[1]), 256), "PNG")


def contents() -> dict[str, dict[str, bytes]]:
    """Every package's files by the name of its constant in iconset.packages."""
    files: dict[str, dict[str, Any]] = {n: {} for n in ("NOTO", "FLUENT_3D", "FLUENT")}
    listed, annotations, words, noto = {}, ({}, {}), {}, []
    for i, name in enumerate(THINGS):
        listed[emoji(i)] = {
            "name": name,
            "group": "People & Body" if "juggler" in name else "Objects",
            "emoji_version": "1.0",
        }
        annotations[0][emoji(i)] = {"default": ["made", f"{name.split()[0]} ware"], "tts": [name]}
        annotations[1][emoji(i)] = {"default": ["もの", "肌色"], "tts": [f"品物: {i}"]}
        words[emoji(i)] = [name.replace(" ", "_"), "thing", ":D", "skin_tone"]
        noto.append({"unified": code(i).upper(), "short_names": [name.split()[-1]]})
        files["NOTO"][f"img/google/64/{code(i)}.png"] = encoded(pattern(i, 64), "PNG")
        if name != "paper crane":
            slug = name.replace(" ", "-") + ("-default" if name == TONED else "")
            files["FLUENT_3D"][f"assets/{code(i)}.webp"] = encoded(pattern(100 + i, 256), "WEBP")
            for k, style in enumerate(("flat", "modern")):
                files["FLUENT"][f"icons/{style}/{slug}.svg"] = f'<svg id="{200 + 100 * k + i}"/>'.encode()
    at = THINGS.index(TONED)
    files["NOTO"][f"img/google/64/{code(at)}-1f3fb.png"] = encoded(pattern(900, 64), "PNG")
    for style in ("flat", "modern"):
        files["FLUENT"][f"icons/{style}/{TONED.replace(' ', '-')}-light.svg"] = b'<svg id="901"/>'
    names = {code(i): thing for i, thing in enumerate(THINGS) if thing != "silk gate"}
    bodies = {thing: {"body": f'<g id="{i}"/>'} for i, thing in enumerate(THINGS)}
    files["NOTO_SVG"] = {
        "chars.json": json.dumps(names).encode(),
        "icons.json": json.dumps({"width": 128, "height": 128, "icons": bodies}).encode(),
    }
    odd = "1f1ef-1f1f5"  # a flag that Fluent's own drawings lack
    listed["\U0001f1ef\U0001f1f5"] = {"name": "flag Japan", "group": "Flags", "emoji_version": "1.0"}
    derived = {"\U0001f1ef\U0001f1f5": {"default": ["flag"], "tts": ["flag: Japan"]}}
    derived_ja = {"\U0001f1ef\U0001f1f5": {"default": ["旗"], "tts": ["旗: 日本"]}}
    files["NOTO"][f"img/google/64/{odd}.png"] = encoded(pattern(950, 64), "PNG")
    files["FLUENT_3D"][f"assets/{odd}.webp"] = encoded(pattern(951, 256), "WEBP")
    files["NOTO"]["emoji.json"] = json.dumps(noto).encode()
    trees = {"CLDR": ("annotations", annotations), "CLDR_DERIVED": ("annotationsDerived", (derived, derived_ja))}
    for package, (folder, both) in trees.items():
        files[package] = {
            f"{folder}/{language}/annotations.json": json.dumps({folder: {"annotations": tree}}).encode()
            for language, tree in zip(("en", "ja"), both, strict=True)
        }
    files["WORDS"] = {"dist/emoji-en-US.json": json.dumps(words).encode()}
    files["LIST"] = {"data-by-emoji.json": json.dumps(listed).encode()}
    return files


def packed(folder: Path, packages: Any, monkeypatch: Any) -> Path:
    """The archives in a folder, with the module's digests replaced by theirs."""
    folder.mkdir()
    for constant, files in contents().items():
        package = getattr(packages, constant)
        with tarfile.open(folder / package.file, "w:gz") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(f"package/{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        digest = base64.b64encode(hashlib.sha512((folder / package.file).read_bytes()).digest()).decode()
        monkeypatch.setattr(packages, constant, dataclasses.replace(package, digest=digest))
    return folder
