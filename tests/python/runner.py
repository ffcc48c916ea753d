"""What the test scripts beside this one share: tests are functions marked @test; one that takes an
argument gets an empty folder. `main` runs them all, prints a line per failure and 'N passed, N failed,
N skipped' at the end, and returns 1 if anything failed."""

from __future__ import annotations

import inspect
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

TESTS: list[Callable[..., None]] = []


class Skipped(Exception):
    """Why a test could not run."""


def test(function: Callable[..., None]) -> Callable[..., None]:
    """Adds a test."""
    TESTS.append(function)
    return function


def skip_all(what: str, reason: object) -> NoReturn:
    """Ends the script where what it needs is missing."""
    print(f"skipped: {what} ({reason})")
    print("0 passed, 0 failed, 1 skipped")
    sys.exit(0)


def main() -> int:
    """Runs all tests."""
    passed = failed = skipped = 0
    for function in TESTS:
        try:
            if inspect.signature(function).parameters:
                with tempfile.TemporaryDirectory() as folder:
                    function(Path(folder))
            else:
                function()
            passed += 1
        except Skipped as reason:
            skipped += 1
            print(f"skipped {function.__name__}: {reason}")
        except Exception:  # a test may fail in any way
            failed += 1
            print(f"FAILED {function.__name__}\n{traceback.format_exc()}")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return min(failed, 1)
