"""A real Redis for tests, on a Unix socket of its own, that can be killed, stopped for a while and started again."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.tools import require_tool

__all__ = ["RedisServer", "redis_server"]

_START_TIMEOUT_S = 10.0


class RedisServer:
    """One server; ``url`` stays the same when it is started anew, which forgets everything."""

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._directory = directory
        self._socket = directory / "redis.sock"
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        arguments = ["--port", "0", "--unixsocket", str(self._socket), "--save", "", "--appendonly", "no"]
        with (self._directory / "redis.log").open("ab") as log:
            self._popen = subprocess.Popen(
                [self._program, *arguments, "--dir", str(self._directory)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._answers():
            if self._popen.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self._directory / "redis.log").read_text())
            time.sleep(0.01)

    def kill(self) -> None:
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait(10)
            self._popen = None

    def freeze(self) -> None:
        assert self._popen is not None
        self._popen.send_signal(signal.SIGSTOP)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(self._socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
            except OSError:
                return False


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """Skips the test where Redis is not installed, or fails it where ``CI=true``."""
    program = require_tool("redis-server")
    # The path of a socket has 108 bytes at most, and pytest's directories are deep.
    directory = Path(tempfile.mkdtemp(prefix="ffr-"))
    server = RedisServer(program, directory)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(directory)
