"""Start a process that ends with the test, and wait for its ready line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

__all__ = ["ended_with_its_parent", "first_json_line", "popen_supervised"]

_READY_S: Final = 30.0
_ROOT: Final = Path(__file__).parents[3]


@contextmanager
def popen_supervised(command: Sequence[str], home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` with an open standard input, whose end tells it that its parent is gone; kill it in the end."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "double-stderr.txt").open("ab") as stderr:
        popen = subprocess.Popen(
            list(command),
            cwd=_ROOT,
            env=os.environ | {"HOME": str(home), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    try:
        yield popen
    finally:
        popen.kill()
        popen.wait(10)
        for pipe in (popen.stdin, popen.stdout):
            if pipe is not None:
                pipe.close()


def first_json_line(popen: subprocess.Popen[bytes], home: Path) -> dict[str, Any]:
    """The ready line; fails with what the process wrote to its standard error when there is none in time."""
    assert popen.stdout is not None
    os.set_blocking(popen.stdout.fileno(), False)
    deadline = time.monotonic() + _READY_S
    line = b""
    while time.monotonic() < deadline:
        line += popen.stdout.read() or b""
        if b"\n" in line:
            return dict(json.loads(line.partition(b"\n")[0]))
        if popen.poll() is not None:
            break
        time.sleep(0.01)
    tail = (home / "double-stderr.txt").read_text(errors="replace")[-4000:]
    raise AssertionError(f"no ready line from {popen.args}; exit {popen.poll()}\n{tail}")


def ended_with_its_parent() -> None:
    """Block until standard input ends, which is when the parent is gone or lets go; then end this process."""
    sys.stdin.buffer.read()
    os._exit(0)
