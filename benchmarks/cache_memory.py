"""Private memory a picture: lists, caches, splits and batches N made ones, and a hundredth of them.

    python benchmarks/cache_memory.py [200000] [zip|folder]

Each runs in a fresh process. Prints bytes of private memory a picture (Private_* of /proc/self/smaps_rollup, Linux),
and fails above 200.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

LIMIT = 200


def private() -> int:
    """Bytes of this process that no other shares and no file backs."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_"))


def make(where: Path, count: int, kind: str) -> Path:
    """``count`` different 8 x 8 grey PNGs in ten classes."""
    import numpy as np

    from kakusan.domains.picture import encode_png

    rng = np.random.default_rng(0)
    names = (f"class{i % 10}/picture-{i:07}.png" for i in range(count))
    files = (encode_png(rng.integers(0, 256, (8, 8, 1), dtype=np.uint8)) for _ in range(count))
    if kind == "zip":
        with zipfile.ZipFile(where / "made.zip", "w") as z:
            for name, data in zip(names, files):
                z.writestr(name, data)
        return where / "made.zip"
    for i in range(10):
        (where / "made" / f"class{i}").mkdir(parents=True)
    for name, data in zip(names, files):
        (where / "made" / name).write_bytes(data)
    return where / "made"


def measure(path: str, cache: str) -> dict[str, float]:
    """Growth of private memory over listing, caching, splitting and batching; the peak is sampled on the way."""
    import threading

    from kakusan.domains.image import Image
    from kakusan.training.cache import build_cache
    from kakusan.training.data import Batches, Dataset
    from kakusan.training.source import open_source

    before, peak, done = private(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, private())

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.monotonic()
    source = open_source(path)
    listed = private()
    domain = Image.fit(source.sample(64))
    built = build_cache(source, domain, cache)
    train, _ = Dataset.of(source, built).split()
    batches = Batches(train, domain, 64)
    steps = [0, 1, len(train) // 64, 2 * len(train) // 64]
    for step in steps:
        batches.at(step)
    after, seconds = private(), time.monotonic() - start
    batches.close()
    done.set()
    thread.join()
    return {
        "listed": listed - before,
        "after": after - before,
        "peak": peak - before,
        "seconds": seconds,
        "n": len(built),
    }


def main() -> int:
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3])))
        return 0
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    kind = sys.argv[2] if len(sys.argv) > 2 else "zip"
    found = []
    for n in (max(count // 100, 100), count):
        with tempfile.TemporaryDirectory() as folder:
            path = make(Path(folder), n, kind)
            command = [sys.executable, __file__, "--measure", str(path), str(Path(folder) / "cache")]
            found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    few, many = found
    more = many["n"] - few["n"]
    result = {k: round((many[k] - few[k]) / more, 1) for k in ("listed", "after", "peak")}
    print(f"{many['n']:,} pictures in a {kind}, {many['seconds']:.0f} s; bytes each beyond {few['n']:,}:")
    print(f"  listed {result['listed']}, cached and batched {result['after']}, at the peak {result['peak']}")
    return 0 if result["peak"] < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
