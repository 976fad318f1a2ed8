"""A server that says exactly the bytes that a test tells it to, when it tells it to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

__all__ = ["Peer", "RawServer", "raw_server"]


@dataclass
class Peer:
    """The server's side of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int

    async def request(self) -> bytes:
        """One whole request, head and body; raises when the client has left."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(
            (
                int(line.partition(b":")[2])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            ),
            0,
        )
        return head + await self.reader.readexactly(length)

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def say_slowly(self, data: bytes, step: int = 1) -> None:
        """Each ``step`` bytes in a packet of their own, as far as the loops let it."""
        for start in range(0, len(data), step):
            await self.say(data[start : start + step])
            await asyncio.sleep(0)

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def until_client_left(self) -> None:
        """Wait until the client has closed its side."""
        with contextlib.suppress(OSError):
            while await self.reader.read(65536):
                pass


@dataclass
class RawServer:
    """What a test knows of its server."""

    port: int = 0
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def raw_server(
    serve: Callable[[Peer], Awaitable[None]], *, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[RawServer]:
    """Run ``serve`` for each connection; its own errors fail the test, a client that leaves does not."""
    server = RawServer()
    tasks: set[asyncio.Task[None]] = set()
    failures: list[Exception] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        server.connections += 1
        try:
            await serve(Peer(reader, writer, server.connections))
        except (asyncio.CancelledError, asyncio.IncompleteReadError, OSError):
            pass
        except Exception as failure:  # noqa: BLE001 - shown at the end, whatever it is
            failures.append(failure)
        finally:
            tasks.discard(task)
            writer.close()

    listener = await asyncio.start_server(handle, host, port, limit=4 * 1024 * 1024)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)
    assert not failures, failures
