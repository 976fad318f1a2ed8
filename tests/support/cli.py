"""The command line as people run it: a process of its own, in a pipe or on a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.support.processes import product_environment

__all__ = ["CliOutcome", "TerminalSession", "cli_in_a_pipe", "cli_on_a_terminal", "end_service_of"]


@dataclass(frozen=True)
class CliOutcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def cli_in_a_pipe(
    home: Path, *arguments: object, text: str = "", env: Mapping[str, str] | None = None, timeout_s: float = 60.0
) -> CliOutcome:
    """Run one command to its end; ``text`` is what it reads."""
    done = subprocess.run(
        [sys.executable, "-m", "fastapi_foundry", *map(str, arguments)],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
        env=product_environment(home, env),
    )
    return CliOutcome(done.returncode, done.stdout, done.stderr)


@dataclass
class TerminalSession:
    """A command with a terminal of its own; ``screen`` is everything that it has shown."""

    popen: subprocess.Popen[bytes]
    fd: int
    screen: str = ""
    _from: int = field(default=0)

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def until(self, pattern: str, *, timeout_s: float = 20.0) -> str:
        """Wait until what appears after the last match matches ``pattern``."""
        deadline = time.monotonic() + timeout_s
        while True:
            match = re.search(pattern, self.screen[self._from :])
            if match:
                self._from += match.end()
                return match.group()
            if time.monotonic() > deadline or not self._read():
                raise AssertionError(f"{pattern!r} did not appear:\n{self.screen[-3000:]}")

    def interrupt_until(self, pattern: str) -> str:
        """Press Ctrl-C until it shows: a line editor that is only just about to wait for a key misses the first."""
        for _ in range(9):
            self.type("\x03")
            try:
                return self.until(pattern, timeout_s=1.0)
            except AssertionError:
                if self.popen.poll() is not None:
                    raise
        return self.until(pattern)

    def ended(self, timeout_s: float = 20.0) -> int:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self._read():
            pass
        return self.popen.wait(timeout_s)

    def _read(self) -> bool:
        if not select.select([self.fd], [], [], 0.1)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # how Linux reports that the other side has gone
            return False
        self.screen += data.decode("utf-8", "replace")
        return bool(data)


@contextmanager
def cli_on_a_terminal(
    home: Path, *arguments: object, env: Mapping[str, str] | None = None
) -> Iterator[TerminalSession]:
    """Run a command that believes that somebody sits before it."""
    ours, theirs = pty.openpty()
    popen = subprocess.Popen(
        [sys.executable, "-m", "fastapi_foundry", *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=product_environment(home, {"TERM": "xterm", "COLUMNS": "100", **(env or {})}),
        start_new_session=True,
        # A terminal of its own is what makes Ctrl-C a signal; no thread of the tests holds a lock that this needs.
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
    )
    os.close(theirs)
    try:
        yield TerminalSession(popen, ours)
    finally:
        if popen.poll() is None:
            popen.kill()
        popen.wait(5)
        os.close(ours)


def end_service_of(home: Path) -> None:
    """Kill the background service that the daemon file of ``home`` names, with what it started."""
    try:
        pid = json.loads((home / "daemon.json").read_bytes())["pid"]
        process = psutil.Process(pid)
    except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
        return
    for one in [*process.children(recursive=True), process]:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
