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
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

from fastapi_foundry.errors import PortUnavailableError

__all__ = ["ChildProcess", "ChildStartError", "bind_first_free", "start_child"]

_MAX_READY_LINE_BYTES: Final = 64 * 1024
# A native library may print to stdout before Python can stop it; a child that only prints is broken.
_MAX_FOREIGN_LINES: Final = 100
_MAX_STDERR_LINE_BYTES: Final = 4096
_TAIL_LINES: Final = 20
_BACKLOG: Final = 2048


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

    Attributes:
        pid: The child's process id.
        ready: What its ready line said.
    """

    def __init__(self, process: asyncio.subprocess.Process, on_stderr: Callable[[str], None] | None) -> None:
        self.pid: int = process.pid
        self.ready: dict[str, Any] = {}
        self._process = process
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._on_stderr = on_stderr
        self._stderr_task = asyncio.create_task(self._forward_stderr(), name=f"stderr of {process.pid}")
        self._stdout_task: asyncio.Task[None] | None = None

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for the signal that ended it; None while it runs."""
        return self._process.returncode

    @property
    def last_words(self) -> str:
        """The last line of its stderr that says something; empty when there is none."""
        return next((line for line in reversed(self._tail) if line.strip()), "")

    async def wait(self) -> int:
        """Wait until it has ended; the exit status."""
        return await self._process.wait()

    async def stop(self, *, polite_s: float = 5.0) -> int:
        """End it: close its lifeline, then ask by signal, then kill; returns when it has ended.

        Args:
            polite_s: How long it may take, in seconds, before it is killed; half of it before the signal.
        """
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        if await self._ended_within(polite_s / 2):
            return await self._settle()
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        if await self._ended_within(polite_s / 2):
            return await self._settle()
        return await self.kill()

    async def kill(self) -> int:
        """End it at once; returns when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        return await self._settle()

    async def _ended_within(self, timeout_s: float) -> bool:
        try:
            await asyncio.wait_for(self._process.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def _settle(self) -> int:
        """Let the readers finish; a grandchild that holds the pipes open must not hold us."""
        tasks = [task for task in (self._stderr_task, self._stdout_task) if task is not None]
        _, late = await asyncio.wait(tasks, timeout=0.5)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        if self._process.stdin is not None:
            self._process.stdin.close()
        status = self._process.returncode
        assert status is not None  # noqa: S101 - every caller has waited for the end
        return status

    async def read_ready(self, timeout_s: float) -> None:
        """Read stdout up to the ready line, then keep stdout empty in the background."""
        try:
            async with asyncio.timeout(timeout_s):
                self.ready = await self._ready_line()
        except TimeoutError:
            raise ChildStartError(self._with_last_words(f"not ready within {timeout_s:g} s")) from None
        self._stdout_task = asyncio.create_task(self._discard_stdout(), name=f"stdout of {self.pid}")

    async def _ready_line(self) -> dict[str, Any]:
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101 - start_child made the pipe
        for _ in range(_MAX_FOREIGN_LINES):
            try:
                line = await stdout.readline()
            except ValueError:
                break
            if not line:
                status = await self._process.wait()
                await asyncio.wait([self._stderr_task], timeout=0.5)
                raise ChildStartError(self._with_last_words(f"it ended with status {status} before it was ready"))
            message = _json_object(line)
            if message is None:
                continue
            if message.get("event") == "ready":
                return message
            if message.get("event") == "failed":
                raise ChildStartError(str(message.get("error") or "it reported a failure without a reason"))
        raise ChildStartError("it printed something else than a ready line")

    def _with_last_words(self, reason: str) -> str:
        return f"{reason}: {self.last_words}" if self.last_words else reason

    async def _discard_stdout(self) -> None:
        stdout = self._process.stdout
        while stdout is not None and await stdout.read(_MAX_READY_LINE_BYTES):
            pass

    async def _forward_stderr(self) -> None:
        stderr = self._process.stderr
        rest = b""
        while stderr is not None and (data := await stderr.read(_MAX_STDERR_LINE_BYTES)):
            *lines, rest = (rest + data).split(b"\n")
            self._note(lines)
            if len(rest) > _MAX_STDERR_LINE_BYTES:
                self._note([rest])
                rest = b""
        self._note([rest] if rest else [])

    def _note(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            text = line[:_MAX_STDERR_LINE_BYTES].decode("utf-8", "replace").rstrip()
            self._tail.append(text)
            if self._on_stderr is not None and text:
                self._on_stderr(text)


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
        on_stderr: Called with each line of its stderr, for as long as it runs; must not block.

    Raises:
        ChildStartError: When it cannot be started, reports a failure, ends, or is not ready in time.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(env),
            limit=_MAX_READY_LINE_BYTES,
            **_apart_from_the_terminal(),
        )
    except OSError as error:
        raise ChildStartError(f"it cannot be started: {error.strerror or error}") from error
    child = ChildProcess(process, on_stderr)
    try:
        await child.read_ready(timeout_s)
    except BaseException:
        await child.kill()
        raise
    return child


def _apart_from_the_terminal() -> dict[str, Any]:
    if sys.platform == "win32":
        return {"creationflags": 0x00000200}  # CREATE_NEW_PROCESS_GROUP
    return {"start_new_session": True}


def _json_object(line: bytes) -> dict[str, Any] | None:
    try:
        message = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return message if isinstance(message, dict) else None
