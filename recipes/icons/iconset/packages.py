"""Packages: the npm packages that the icons are made of, pinned by version and digest."""

from __future__ import annotations

import base64
import hashlib
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kakusan.part import KakusanError

__all__ = ["PACKAGES", "Package", "document", "files"]


@dataclass(frozen=True)
class Package:
    """One archive of ``npm pack``; ``digest`` is its SHA-512 in base64, as the registry states it."""

    name: str
    version: str
    digest: str
    gives: str

    @property
    def file(self) -> str:
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def command(self) -> str:
        return f"npm pack {self.name}@{self.version}"


NOTO = Package(
    "emoji-datasource-google",
    "16.0.0",
    "ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
    "Noto pictures (Apache-2.0)",
)
FLUENT_3D = Package(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    "Fluent 3D pictures (MIT)",
)
FLUENT = Package(
    "fluentui-emoji",
    "1.3.0",
    "JTXXwqIie2rWTgOkIJDJxr0WtwTz2WU4kdOq8buLVThYwQ264aFR2jdTyuon2oEbLqqGMT64zI4btyn1saB2xw==",
    "Fluent flat and modern drawings (MIT)",
)
CLDR = Package(
    "cldr-annotations-full",
    "48.2.0",
    "DV7A+rEcgUSNTRsVGNGqBZRmAkGfwhGHO5Q1dRwzBoBnVrHWp804JP7/QJdEc66iHmx3+zLWVIMCFLm0lW7PUQ==",
    "names and keywords (Unicode-3.0)",
)
CLDR_DERIVED = Package(
    "cldr-annotations-derived-full",
    "48.2.0",
    "log62km+AOzI7n/NEuNNFV0mg9DWnt67EYCh1RwxZq9dyRuyteB586LT83Ke8TchEfnwI9cIk2P31zO4nTvZmw==",
    "names and keywords of sequences (Unicode-3.0)",
)
WORDS = Package(
    "emojilib",
    "4.0.3",
    "KbWiYre9aRSaPbHrHZIz9zmoM+21LAsK1VFJtnTh1VCtWE/rNMDviGhQTmselFl95dhqtGlY22iH0leG5BuW0g==",
    "more keywords (MIT)",
)
NOTO_SVG = Package(
    "@iconify-json/noto",
    "1.2.9",
    "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    "Noto drawings, for pictures of more than 64 pixels (Apache-2.0)",
)
LIST = Package(
    "unicode-emoji-json",
    "0.9.0",
    "HdrQW/7SdbXUsTd8uTATv7LvQJkCSgbAgRCDCtOhQ6xn3EAx+xZHQtRniOXWJK3ywIqPegkNhP4U4EbuFsiQng==",
    "the list of emoji and their groups (MIT)",
)
PACKAGES = [NOTO, NOTO_SVG, FLUENT_3D, FLUENT, CLDR, CLDR_DERIVED, WORDS, LIST]


def files(sources: Path, package: Package, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The package's files whose path inside it is wanted, in the archive's order; the archive's digest is checked."""
    path = sources / package.file
    if not path.is_file():
        raise KakusanError(f"SOURCES {sources} lacks {package.file}; fetch it there with: {package.command}")
    with path.open("rb") as opened:
        digest = base64.b64encode(hashlib.file_digest(opened, "sha512").digest()).decode()
    if digest != package.digest:
        raise KakusanError(
            f"{path} is damaged or another build (its SHA-512 differs); fetch it again: {package.command}"
        )
    found: dict[str, bytes] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.partition("/")[2]  # everything lies in package/
            if member.isfile() and wanted(name) and (data := archive.extractfile(member)) is not None:
                found[name] = data.read()
    return found


def document(sources: Path, package: Package, name: str) -> Any:
    """One JSON file of a package."""
    found = files(sources, package, lambda n: n == name)
    if name not in found:
        raise KakusanError(f"{sources / package.file} holds no {name}")
    return json.loads(found[name])
