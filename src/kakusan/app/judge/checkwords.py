"""What a data check found, in words: a table, and advice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["advice", "print_check"]


def advice(result: dict[str, Any]) -> list[str]:
    """What to do about what was found, in plain words."""
    lines = []
    faulty = sum(result["faults"].values())
    if faulty:
        lines.append(f"{faulty:,} files can not be read; training leaves them out and says so")
    if result["exact"]["extra"]:
        extra = result["exact"]["extra"]
        lines.append(f"{extra:,} pictures are exact copies of others; copies are learned by heart first: delete them")
    if result["exact"]["labels_differ"]:
        lines.append(
            f"{result['exact']['labels_differ']:,} groups of exact copies carry different labels: one is wrong"
        )
    leaks = result["leaks"]
    if leaks and leaks["exact"]["pictures"] + leaks["near"]["pictures"]:
        total = leaks["exact"]["pictures"] + leaks["near"]["pictures"]
        lines.append(
            f"{total:,} pictures occur in more than one of {', '.join(leaks['between'])}: scores would flatter"
        )
    if result["grey_as_colour"] and result["grey_as_colour"] == result["readable"]:
        lines.append("every picture is grey; it is trained in one channel")
    if 0 < result["transparent"] < result["readable"]:
        lines.append(f"{result['transparent']:,} of {result['readable']:,} pictures are transparent; all train as RGBA")
    if result["readable"] < 5000:
        lines.append("fewer than 5,000 pictures: augmentation and a held-out part are used by default")
    for key, words in (
        ("uncaptioned", "pictures have no caption: they teach what is drawn without a prompt"),
        ("astray", "captions belong to no picture"),
    ):
        if result[key]["count"]:
            first = result[key]["first"]
            more = ", ..." if result[key]["count"] > len(first) else ""
            lines.append(f"{result[key]['count']:,} {words}: {', '.join(first)}{more}")
    classes = result["classes"]
    if classes and min(classes.values()) * 20 < max(classes.values()):
        rare = min(classes, key=lambda name: classes[name])
        lines.append(f"class {rare!r} has {classes[rare]:,} pictures, the largest class {max(classes.values()):,}")
    return lines


def print_check(result: dict[str, Any], console: Console | None = None) -> None:
    """The result of ``check`` as a table and lines of advice."""
    console = console or Console()
    table = Table(title=f"data check: {result['path']}", show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _table(result):
        table.add_row(name, value)
    console.print(table)
    for fault in result["faulty"][:10]:
        console.print(
            f"  {fault['reason']}: {fault['name']}: {fault['detail']}", markup=False, highlight=False, soft_wrap=True
        )
    for kind in ("exact", "near"):
        for names in result[kind]["examples"][:5]:
            console.print(f"  {kind} copies: {', '.join(names[:4])}", markup=False, highlight=False, soft_wrap=True)
    for line in (*result["notes"], *result["advice"]):
        console.print(f"- {line}", markup=False, highlight=False, soft_wrap=True)


def _table(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    def counted(found: dict[str, int], most: int = 12) -> str:
        items = list(found.items())
        text = ", ".join(f"{k} {v:,}" for k, v in items[:most])
        return text + (f" and {len(items) - most} more" if len(items) > most else "")

    yield "pictures", f"{result['pictures']:,}, {result['readable']:,} readable"
    if len(result["splits"]) > 1:
        yield "splits", counted(result["splits"])
    if sizes := result["sizes"]:
        common = ", ".join(f"{c['size'][1]} x {c['size'][0]} ({c['count']:,})" for c in sizes["common"])
        yield "sizes", common + (f"; {sizes['distinct']:,} different" if sizes["distinct"] > 5 else "")
    yield "modes", counted(result["modes"])
    yield "formats", counted(result["formats"])
    if result["classes"]:
        yield "classes", f"{len(result['classes'])}: {counted(result['classes'])}"
    if result["captions"]:
        yield "captions", f"{result['captions']:,}"
    faults = {k: v for k, v in result["faults"].items() if v}
    yield "faults", counted(faults) or "none"
    for kind in ("exact", "near"):
        found = result[kind]
        text = f"{found['extra']:,} in {found['groups']:,} groups" if found["groups"] else "none found"
        yield f"{kind} copies", text
    if leaks := result["leaks"]:
        yield "leaks", f"{leaks['exact']['pictures']:,} exact, {leaks['near']['pictures']:,} near"
    if result["ignored"]:
        yield "other files", counted(result["ignored"])
    yield "seconds", f"{result['seconds']:.1f}"
    if "sheet" in result:
        yield "sheet", result["sheet"]
