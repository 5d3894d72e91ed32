"""The models that ship: the files in ``kakusan/models`` by name, and what their cards say in short."""

from __future__ import annotations

from pathlib import Path

from kakusan.part import KakusanError

__all__ = ["called", "named", "own", "shipped", "summary", "upscaler"]

MODELS = Path(__file__).resolve().parents[2] / "models"


def shipped() -> dict[str, Path]:
    """Models that come with the package, by name."""
    return {p.stem: p for p in sorted(MODELS.glob("*.safetensors"), key=lambda p: p.stem)}


def named() -> str:
    """The names as an option's help has them, ": fashion, icons"; empty where nothing ships."""
    return ": " + ", ".join(shipped()) if shipped() else ""


def called(path: str | Path | None) -> str:
    """How a recipe names a model's file: a model that ships by its name, which holds on every machine; any other by its
    path; "" where there is no file."""
    if path is None:
        return ""
    return next((name for name, file in shipped().items() if file == Path(path)), str(path))


def upscaler(model: str, wanted: str) -> str:
    """The model that enlarges samples of ``model``: ``wanted``, or where that is "auto" the one that ships for it (a
    file of that name is ./auto)."""
    if wanted != "auto":
        return wanted
    found = f"{model}-upscale"
    if found not in shipped():
        raise KakusanError(f"--upscale: no model ships that enlarges what {model} draws; give one, --upscale MODEL")
    return found


def summary(path: Path) -> str:
    """The first paragraph of a shipped model's card, on one line; "" for other models."""
    card = path.with_suffix(".md")
    if path.parent != MODELS or not card.is_file():
        return ""
    paragraphs = (" ".join(part.split()) for part in card.read_text("utf-8").split("\n\n"))
    return next((words for words in paragraphs if words and not words.startswith("#")), "")


def own(path: Path, flag: str) -> Path:
    """A file that may be written to; raises KakusanError for one that ships."""
    if path.parent == MODELS:
        raise KakusanError(f"{flag}: {path.stem} ships with kakusan and stays as it is; give a copy: cp {path} .")
    return path
