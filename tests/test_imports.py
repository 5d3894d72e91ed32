"""Nothing imports upward, siblings do not import each other, and the package itself imports nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "kakusan"
LAYERS = [
    {"part"},
    {"core"},
    {"files"},  # above the core, which knows no files
    {"nets", "conditions", "domains", "distillation"},
    {"catalog", "markup"},  # a checkpoint is rebuilt through the one, pages are written with the other
    {"plot"},
    {"checkpoint", "report"},
    {"training", "evaluation", "runtime"},
    {"app"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
HEAVY = {"torchvision", "torchaudio", "scipy", "pandas", "pydantic"}
MODULES = sorted(SOURCE.rglob("*.py"))


def unit(module: str) -> str:
    """``kakusan.core.process`` -> ``core``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imported(path: Path) -> list[tuple[str, int, bool]]:
    """(absolute module, line, at module level) of every import in a file, those inside functions included."""
    tree = ast.parse(path.read_text())
    package = ["kakusan", *path.relative_to(SOURCE).parent.parts]
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            whole = [f"{name}.{alias.name}" for alias in node.names] if name == "kakusan" else [name]
            found += [(each, node.lineno, id(node) in top) for each in whole]
    return found


def wrong(mine: str, theirs: str) -> bool:
    """Whether a module of one unit may not import one of another."""
    return theirs in RANK and mine != theirs and RANK[theirs] >= RANK[mine]


def test_the_rule_itself():
    assert wrong("core", "nets")
    assert wrong("nets", "domains")
    assert wrong("catalog", "checkpoint")
    assert wrong("checkpoint", "report")
    assert wrong("evaluation", "training")
    assert not wrong("app", "part")
    assert not wrong("core", "core")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down(path):
    relative = path.relative_to(SOURCE)
    mine = relative.parts[0].removesuffix(".py")
    if mine == "__init__" or mine == "__main__":
        return
    assert mine in RANK or mine == "models", f"{relative} belongs to no layer: add it to DESIGN's order"
    bad = [
        f"{relative}:{line} imports {module}"
        for module, line, _ in imported(path)
        if module.split(".")[0] == "kakusan" and wrong(mine, unit(module))
    ]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_heavy_is_imported(path):
    bad = [m for m, _, _ in imported(path) if m.split(".")[0] in HEAVY]
    assert not bad


def test_the_package_imports_lazily():
    """Only ``kakusan.*`` inside functions, nothing but the standard library at module level."""
    for module, line, top in imported(SOURCE / "__init__.py"):
        name = module.split(".")[0]
        assert not top or name in sys.stdlib_module_names, f"__init__.py:{line} imports {module} at once"


def test_importing_the_package_does_not_import_torch():
    code = "import kakusan, sys; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_core_knows_no_files():
    bad = [
        f"{path.name}:{line} imports {module}"
        for path in (SOURCE / "core").glob("*.py")
        for module, line, _ in imported(path)
        if module.split(".")[0] in {"pathlib", "os", "io", "PIL", "numpy", "json", "safetensors"}
    ]
    assert not bad, "\n".join(bad)
