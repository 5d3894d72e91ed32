"""Fetch the packages that the icons are made of into a folder, by ``npm pack``, in the versions that are pinned.

python recipes/icons/fetch.py SOURCES
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from iconset.packages import PACKAGES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, help="the folder for the archives; those that are there already are kept")
    sources = parser.parse_args().sources
    sources.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if not (sources / package.file).exists():
            print(package.command, flush=True)
            subprocess.run([*package.command.split(), "--silent"], cwd=sources, check=True)


if __name__ == "__main__":
    main()
