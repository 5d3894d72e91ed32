"""Nursery: a process with everything imported, which forks a child for each call; children are there to be killed.

A child is a real process that real signals reach, and costs a moment instead of the seconds that importing takes.
``fresh`` starts a process of its own instead, for what has to be measured from the beginning.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
LIMIT = 300.0  # seconds after which a child counts as hung


class Child:
    """One call in a process of its own; what it prints goes to ``out``."""

    def __init__(self, nursery: Nursery, pid: int, out: Path) -> None:
        self.nursery, self.pid, self.out = nursery, pid, out

    def signal(self, number: int) -> None:
        assert self.pid > 1, self.pid  # 0 would be everybody
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        guard = threading.Timer(LIMIT, os.kill, (self.pid, signal.SIGABRT))
        guard.start()
        try:
            return self.nursery.number("code")
        finally:
            guard.cancel()

    def said(self) -> str:
        return self.out.read_text("utf-8", "replace")


class Nursery:
    """``call`` runs ``module:function`` with JSON arguments, one child at a time."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.count = folder, 0
        words = [sys.executable, str(Path(__file__)), "serve"]
        self.process = subprocess.Popen(
            words, env=_environment(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.read() == "ready"

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def number(self, of: str) -> int:
        """The next number of that name; what nobody asked for, as the code of a child that a failed test left, goes."""
        while True:
            name, _, value = self.read().partition(" ")
            assert name in ("pid", "code"), f"the nursery said {name!r}"
            if name == of:
                return int(value)

    def call(self, target: str, *arguments: Any) -> Child:
        assert self.process.stdin is not None
        self.count += 1
        out = self.folder / f"child-{self.count}.txt"
        self.process.stdin.write(json.dumps([target, arguments, str(out)]) + "\n")
        self.process.stdin.flush()
        return Child(self, self.number("pid"), out)

    def run(self, target: str, *arguments: Any) -> str:
        """Call, wait, insist on success; what it said."""
        child = self.call(target, *arguments)
        code = child.wait()
        assert code == 0, f"{target} ended with {code}:\n{child.said()}"
        return child.said()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


@contextlib.contextmanager
def nursery(folder: Path, **environment: str) -> Iterator[Nursery]:
    made = Nursery(folder, environment)
    try:
        yield made
    finally:
        made.close()


def fresh(target: str, *arguments: Any, prefix: tuple[str, ...] = (), **environment: str) -> Any:
    """``module:function`` in a new process; what it returns. An error there is an assertion error here."""
    words = [*prefix, sys.executable, str(Path(__file__)), "call", target, json.dumps(arguments)]
    done = subprocess.run(words, env=_environment(environment), capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, f"{target} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


def until(happens: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait for something to be true; what it was."""
    deadline = time.monotonic() + seconds
    while not (found := happens()):
        assert time.monotonic() < deadline, f"nothing happened in {seconds} s"
        time.sleep(0.002)
    return found


def _environment(more: dict[str, str]) -> dict[str, str]:
    source = str(Path(importlib.import_module("kakusan").__file__ or "").parents[1])
    paths = [str(TESTS), source, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"} | more


def _call(target: str, arguments: list[Any]) -> Any:
    module, name = target.split(":")
    return getattr(importlib.import_module(module), name)(*arguments)


def _serve() -> None:
    late = ("torch._dynamo", "sympy", "rich.progress")  # imported late by whoever needs them first
    for name in (*late, "kakusan.app.cli", "kakusan.app.facade", "kakusan.app.judge.datacheck", "harness.children"):
        importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("ready", flush=True)
    for line in sys.stdin:
        target, arguments, out = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_child(target, arguments, out))
        print("pid", pid, flush=True)
        print("code", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _child(target: str, arguments: list[Any], out: str) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(0)
    code = 0
    try:
        _call(target, arguments)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 99
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    return code


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve()
    else:
        print("\n" + json.dumps(_call(sys.argv[2], json.loads(sys.argv[3]))))
