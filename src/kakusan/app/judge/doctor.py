"""Doctor: what this machine offers, measured, and what is missing, with the line that mends it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kakusan.app.command.show import size

__all__ = ["cpu_name", "examine", "gflops", "lines", "memory_free", "memory_peak"]

PROBES = {
    "diffusers": "diffusers",
    "export": "onnxscript",
    "openvino": "openvino",
    "text": "transformers",
}  # extra -> module that proves it is there
LEAST = 2_000_000_000  # bytes of memory and of disk below which training is likely to fail


def examine(seconds: float = 1.0) -> dict[str, Any]:
    """Everything as plain data; measuring takes about ``seconds``."""
    import torch

    import kakusan

    flush = torch.set_flush_denormal(True)
    root = _cache_root()
    return {
        "kakusan": _version("kakusan"),
        "installed_at": str(Path(kakusan.__file__).parent),
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "torch": torch.__version__,
        "devices": _devices(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gflops": gflops(seconds),
        "memory_free": memory_free(),
        "disk_free": _disk_free(Path.cwd()),
        "cache": str(root),
        "cache_bytes": _folder_bytes(root),
        "cache_disk_free": _disk_free(root),
        "denormals": "flushed to zero" if flush else "kept (this processor cannot flush them)",
        "extras": _extras(),
        "advice": _advice(flush, root),
    }


def lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The same as rows of a table: name and words."""
    rows = [
        ("kakusan", f"{found['kakusan']} ({found['installed_at']})"),
        ("Python", f"{found['python']} on {found['system']}"),
        ("torch", found["torch"]),
        ("devices", ", ".join(f"{d['name']} ({d['device']})" for d in found["devices"])),
        (
            "processor",
            f"{found['cores']} cores, {found['threads']} threads, {found['gflops']:,.0f} GFLOP/s (fp32 product)",
        ),
        ("memory free", size(found["memory_free"])),
        ("disk free", f"{size(found['disk_free'])} here"),
        ("cache", f"{found['cache']} ({size(found['cache_bytes'])} used, {size(found['cache_disk_free'])} free)"),
        ("denormals", found["denormals"]),
    ]
    for name, extra in found["extras"].items():
        rows.append((f"extra {name}", "installed" if extra["installed"] else f"not installed: {extra['install']}"))
    return rows


def memory_free() -> int | None:
    """Bytes that can be had without swapping: the system's, or what the container's limit leaves; None if unknown."""
    free: list[int] = []
    try:
        words = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
        free += [int(words[1]) * 1024] if words else []
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text().strip()
        free += [int(limit) - int(used)] if limit.isdigit() else []
    except OSError:
        pass
    if not free and hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        free.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return max(min(free), 0) if free else None


def memory_peak() -> int:
    """The most memory this process has had, in bytes; 0 where the system does not say.

    Linux counts what started this process into ``ru_maxrss``, so its own status file goes first.
    """
    with contextlib.suppress(OSError, StopIteration, ValueError):
        said = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in said if line.startswith("VmHWM")).split()[1])
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed as a package"


def _devices() -> list[dict[str, Any]]:
    """What ``--device auto`` would take first, first."""
    import torch

    found: list[dict[str, Any]] = []
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        p = torch.cuda.get_device_properties(i)
        found.append({"device": f"cuda:{i}", "name": p.name, "memory": p.total_memory})
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Apple GPU", "memory": None})
    return [*found, {"device": "cpu", "name": cpu_name(), "memory": memory_free()}]


def cpu_name() -> str:
    try:
        words = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        words = None
    return words[1].strip() if words else platform.processor() or platform.machine()


def gflops(seconds: float) -> float:
    """The best of repeated products of two 1024 x 1024 fp32 matrices, in 1e9 operations a second."""
    import torch

    n = 1024
    a, b = torch.full((n, n), 0.5), torch.full((n, n), 0.25)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best / 1e9


def _cache_root() -> Path:
    """Where decoded pictures are kept."""
    from kakusan.training.cache import cache_root

    return cache_root()


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _disk_free(path: Path) -> int | None:
    try:
        return shutil.disk_usage(_existing(path)).free
    except OSError:
        return None


def _folder_bytes(path: Path) -> int:
    return sum(_bytes(Path(folder, name) for name in names) for folder, _, names in os.walk(path))


def _bytes(files: Iterable[Path]) -> int:
    total = 0
    for file in files:
        try:
            total += file.stat().st_size
        except OSError:
            continue
    return total


def _extras() -> dict[str, dict[str, Any]]:
    """Optional parts of the package: installed, or the line that installs them."""
    try:
        names = importlib.metadata.metadata("kakusan").get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        names = list(PROBES)
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        if name in PROBES:
            there = importlib.util.find_spec(PROBES[name]) is not None
            found[name] = {"installed": there, "install": f"pip install 'kakusan[{name}]'"}
    return found


def _advice(flush: bool, root: Path) -> list[str]:
    """What stands in the way, with the way around it."""
    said = []
    memory, disk, cache = memory_free(), _disk_free(Path.cwd()), _disk_free(root)
    if memory is not None and memory < LEAST:
        said.append(f"only {size(memory)} of memory is free: close other programs, or train smaller: --size 32")
    if disk is not None and disk < LEAST:
        said.append(f"only {size(disk)} of disk is free here: choose another --out")
    if cache is not None and cache < LEAST:
        said.append(f"only {size(cache)} is free for the cache: set KAKUSAN_CACHE to a folder on another disk")
    if not flush:
        said.append("denormal numbers cannot be flushed here: training may slow down 5-40 times as weights get small")
    if sys.maxsize < 2**32:
        said.append("this Python is 32-bit: install a 64-bit one")
    return said
