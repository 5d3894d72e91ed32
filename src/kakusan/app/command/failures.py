"""What goes wrong in a verb, as one line on standard error and an exit code."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

import cyclopts

from kakusan.part import KakusanError

__all__ = ["guarded"]


def guarded(work: Callable[[], int], as_json: bool) -> int:
    """Run, and turn what goes wrong into one line and an exit code."""
    try:
        return work()
    except cyclopts.CycloptsError as error:
        return _failed(f"{_usage(error)} (see kakusan --help)", 2, as_json)
    except KakusanError as error:
        if getattr(error, "told", False):  # by the first of several processes
            return 2
        return _failed(str(error), 2, as_json)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the flush at exit stays quiet
        return 130
    except Exception as error:
        if os.environ.get("KAKUSAN_TRACE"):
            raise
        return _failed(*_unforeseen(error), as_json)


def _failed(message: str, code: int, as_json: bool) -> int:
    line = " ".join(message.split())
    print(f"kakusan: {line}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": line, "code": code}, ensure_ascii=False))
    return code


def _usage(error: cyclopts.CycloptsError) -> str:
    """What the parser found, in its own words (they include "did you mean")."""
    return str(error).strip().rstrip(".") or type(error).__name__


def _unforeseen(error: Exception) -> tuple[str, int]:
    """Words and exit code for what no verb foresaw."""
    if isinstance(error, ModuleNotFoundError) and not str(error.name or "").startswith("kakusan"):
        return f"{error.name} is not installed: pip install {error.name} (kakusan doctor lists the extras)", 1
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'file'}: {error.strerror}", 1
    said = str(error).lower()
    if isinstance(error, MemoryError) or "out of memory" in said or "can't allocate memory" in said:
        return (
            "out of memory: sample fewer at once (--batch 1) or smaller ones, or train smaller (training.batch=16)",
            1,
        )
    name = type(error).__name__
    return f"{name}: {error} (this is a bug; KAKUSAN_TRACE=1 shows where, please report it)", 1
