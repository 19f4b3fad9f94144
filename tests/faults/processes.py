"""Python processes that are started to be killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def python(code: str, *arguments: object, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has printed its first line; killed at the end, if it still lives."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().strip(), "it ended before it was up"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()  # type: ignore[union-attr]
