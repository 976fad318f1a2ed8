"""Children that cannot outlive their parent, and ports taken without a race.

A child is started with a pipe on its stdin, the lifeline: nothing is ever written to it, and it is open
for as long as the parent lives. The operating system closes it however the parent ends, ``kill -9``
included, and a child that leaves at the end of its stdin can therefore never be orphaned.

The service and the gateway share this module; it imports nothing but the errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, Final, TypeVar

import orjson

from fastapi_foundry.errors import PortUnavailableError

__all__ = ["ChildProcess", "ChildStartError", "bind_first_free", "start_child"]

_MAX_READY_LINE_BYTES: Final = 64 * 1024
# A native library may print to stdout before Python can stop it; a child that only prints is broken.
_MAX_FOREIGN_LINES: Final = 100
_MAX_STDERR_LINE_BYTES: Final = 4096
_TAIL_LINES: Final = 20
_LAST_WORDS_S: Final = 0.5
_BACKLOG: Final = 2048

_PATH: Final = re.compile(r"(?<![\w/\\:])(?:[A-Za-z]:)?(?:[\\/][^\s\\/:'\",]*)+[\\/]([^\s\\/:'\",]*)")

_T = TypeVar("_T")


def bind_first_free(
    host: str, first: int, range_start: int, range_end: int, *, backlog: int = _BACKLOG
) -> socket.socket:
    """Take the wanted port or, where it is taken, the first free one of a range.

    The socket listens already when it is returned, so that no other process can take the port between the
    choice and the use; connections wait in the backlog until somebody accepts them.

    Args:
        host: Address to bind, such as ``127.0.0.1``, ``0.0.0.0`` or ``::1``.
        first: The wanted port; 0 lets the operating system choose.
        range_start: First port to try next.
        range_end: Last port to try, inclusive; below ``range_start`` only ``first`` is tried.
        backlog: Connections that may wait to be accepted.

    Raises:
        PortUnavailableError: When none of the ports is free, or the host is no address of this machine.
    """
    ports = [first, *(port for port in range(range_start, range_end + 1) if port != first)]
    reason = ""
    for port in ports:
        try:
            return _listen(host, port, backlog)
        except OSError as error:
            if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                raise PortUnavailableError(f"Port {port} cannot be used on host '{host}': {error.strerror}.") from error
            reason = error.strerror or str(error)
    if len(ports) == 1:
        raise PortUnavailableError(f"Port {first} on host '{host}' is not free: {reason}.")
    raise PortUnavailableError(
        f"Port {first} on host '{host}' is not free, and neither is any from {range_start} to {range_end}: {reason}."
    )


def _listen(host: str, port: int, backlog: int) -> socket.socket:
    # asyncio sets TCP_NODELAY on connections of sockets that name their protocol; else every answer waits for
    # the other side's delayed acknowledgement, 40 ms.
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform == "win32":
            # There SO_REUSEADDR would let two processes share the port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            # Else a port stays taken for a minute after its last connections were closed.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        # Two sockets may be bound to one port where SO_REUSEADDR is set; only one of them may listen.
        sock.listen(backlog)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


class ChildStartError(Exception):
    """A child ended, failed or stayed silent before it was ready; the message says which, with its last words."""


class ChildProcess:
    """A running child; made by ``start_child``, belongs to the event loop that made it.

    Threads wait for its end and read its pipes: they notice the end at once, also where a grandchild holds
    the pipes open, and work alike on every platform and event loop.

    Attributes:
        pid: The child's process id.
        ready: What its ready line said.
    """

    def __init__(self, popen: subprocess.Popen[bytes], on_stderr: Callable[[str], None] | None) -> None:
        self.pid: int = popen.pid
        self.ready: dict[str, Any] = {}
        self._popen = popen
        self._on_stderr = on_stderr
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._loop = asyncio.get_running_loop()
        self._greeting: asyncio.Future[dict[str, Any] | str] = self._loop.create_future()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._stderr_read: asyncio.Future[None] = self._loop.create_future()
        for work in (self._await_end, self._read_stdout, self._read_stderr):
            threading.Thread(target=work, name=f"{work.__name__} {self.pid}", daemon=True).start()

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for the signal that ended it; None while it runs."""
        return self._ended.result() if self._ended.done() else None

    @property
    def last_words(self) -> str:
        """The last line of its stderr that says something, without paths; empty when there is none."""
        return _without_paths(next((line for line in reversed(self._tail.copy()) if line.strip()), ""))

    async def wait(self) -> int:
        """Wait until it has ended; the exit status."""
        return await asyncio.shield(self._ended)

    async def stop(self, *, polite_s: float = 5.0) -> int:
        """End it: close its lifeline, then ask by signal, then kill; returns its exit status.

        Args:
            polite_s: How long it may take, in seconds, before it is killed; half of it before the signal.
        """
        self._close_lifeline()
        if not await self._ended_within(polite_s / 2):
            with contextlib.suppress(ProcessLookupError):
                self._popen.terminate()
            if not await self._ended_within(polite_s / 2):
                return await self.kill()
        return self._ended.result()

    async def kill(self) -> int:
        """End it at once; returns its exit status."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.kill()
        status = await self.wait()
        self._close_lifeline()
        return status

    async def until_ready(self, timeout_s: float) -> None:
        """Wait for the ready line.

        Raises:
            ChildStartError: When there is none within ``timeout_s`` seconds, and in all other cases too.
        """
        done, _ = await asyncio.wait([self._greeting], timeout=timeout_s)
        greeting = self._greeting.result() if done else f"not ready within {timeout_s:g} s"
        if greeting == "":
            await self._ended_within(_LAST_WORDS_S)
            await asyncio.wait([self._stderr_read], timeout=_LAST_WORDS_S)
            greeting = f"it ended with status {self.returncode} before it was ready"
        if isinstance(greeting, str):
            raise ChildStartError(f"{greeting}: {self.last_words}" if self.last_words else greeting)
        if greeting.get("event") != "ready":
            raise ChildStartError(_without_paths(str(greeting.get("error") or "it failed without a reason")))
        self.ready = greeting

    def _close_lifeline(self) -> None:
        if self._popen.stdin is not None:
            with contextlib.suppress(OSError):
                self._popen.stdin.close()

    async def _ended_within(self, timeout_s: float) -> bool:
        done, _ = await asyncio.wait([self._ended], timeout=timeout_s)
        return bool(done)

    # What follows runs in threads.

    def _tell(self, future: asyncio.Future[_T], value: _T) -> None:
        def settle() -> None:
            if not future.done():
                future.set_result(value)

        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits any more
            self._loop.call_soon_threadsafe(settle)

    def _await_end(self) -> None:
        self._tell(self._ended, self._popen.wait())

    def _read_stdout(self) -> None:
        assert self._popen.stdout is not None  # noqa: S101 - start_child made the pipe
        with self._popen.stdout as stdout:
            self._tell(self._greeting, _greeting(stdout))
            while stdout.read(_MAX_READY_LINE_BYTES):
                pass

    def _read_stderr(self) -> None:
        assert self._popen.stderr is not None  # noqa: S101 - as above
        with self._popen.stderr as stderr:
            while line := stderr.readline(_MAX_STDERR_LINE_BYTES):
                text = line.decode("utf-8", "replace").rstrip()
                self._tail.append(text)
                if self._on_stderr is not None and text:
                    self._on_stderr(text)
        self._tell(self._stderr_read, None)


async def start_child(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    timeout_s: float,
    on_stderr: Callable[[str], None] | None = None,
) -> ChildProcess:
    """Start a child and wait for its ready line: one JSON object with ``"event": "ready"`` on its stdout.

    The child gets a session of its own, so that Ctrl-C in a terminal reaches the parent alone, which then
    ends the child in order. A child that does not become ready is killed before this returns.

    Args:
        argv: Program and arguments; no shell is involved.
        env: The child's whole environment.
        timeout_s: How long it may take to become ready, in seconds.
        on_stderr: Called with each line of its stderr, in a thread, for as long as the child runs.

    Raises:
        ChildStartError: When it cannot be started, reports a failure, ends, or is not ready in time.
    """
    pipe = subprocess.PIPE
    try:
        popen = subprocess.Popen(  # noqa: ASYNC220, S603 - takes a millisecond; our own arguments
            list(argv), stdin=pipe, stdout=pipe, stderr=pipe, env=dict(env), **_apart_from_the_terminal()
        )
    except OSError as error:
        raise ChildStartError(f"it cannot be started: {error.strerror or error}") from error
    child = ChildProcess(popen, on_stderr)
    try:
        await child.until_ready(timeout_s)
    except BaseException:
        await child.kill()
        raise
    return child


def _greeting(stdout: IO[bytes]) -> dict[str, Any] | str:
    """The ready or failure message, or what came instead; empty for nothing at all."""
    for _ in range(_MAX_FOREIGN_LINES):
        line = stdout.readline(_MAX_READY_LINE_BYTES)
        if not line:
            return ""
        message = _json_object(line)
        if message is not None and message.get("event") in {"ready", "failed"}:
            return message
        if not line.endswith(b"\n"):
            break
    return "it printed something else than a ready line"


def _apart_from_the_terminal() -> dict[str, Any]:
    if sys.platform == "win32":
        return {"creationflags": 0x00000200}  # CREATE_NEW_PROCESS_GROUP
    return {"start_new_session": True}


def _without_paths(text: str) -> str:
    """The same with the last part of each path alone; a client may get to see it."""
    return _PATH.sub(r"\1", text)


def _json_object(line: bytes) -> dict[str, Any] | None:
    try:
        message = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return message if isinstance(message, dict) else None
