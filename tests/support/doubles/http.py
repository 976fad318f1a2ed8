"""As much of an HTTP/1.1 server as a double needs, with the ways to break an answer that real servers do not offer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from tests.support.doubles.faults import Fault

__all__ = ["Exchange", "GoneError", "Request", "read_request"]

_REASONS: Final = {200: "OK", 400: "Bad Request", 404: "Not Found", 500: "Internal Server Error"}
_LOOK_EVERY_S: Final = 0.01


class GoneError(Exception):
    """The connection is over: the client left, or a fault cut it."""


@dataclass(frozen=True)
class Request:
    """One request as it came; header names in lower case, ``target`` with its query."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.target).query).items()}


async def read_request(reader: asyncio.StreamReader) -> Request:
    """The next request on a connection.

    Raises:
        asyncio.IncompleteReadError: The client has closed it.
    """
    head = await reader.readuntil(b"\r\n\r\n")
    line, *rest = head.decode("latin-1").split("\r\n")
    method, target, _ = line.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (entry.partition(":") for entry in rest if entry)}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, target, headers, body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body


@dataclass
class Exchange:
    """The answer to one request. Whole answers go out by ``send``, streams by ``begin``, ``chunk``... and ``finish``.

    A fault of the answer itself (half of it, a break in its middle) is applied here, so that what makes the
    answer need not know of it.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server: str
    fault: Fault | None = None
    keep_alive: bool = True
    chunks: int = 0
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def left(self) -> bool:
        """Whether the client has gone, as far as the system knows."""
        return self.reader.at_eof() or self.writer.is_closing()

    async def until_left(self, limit_s: float | None = None) -> None:
        """Wait until the client goes, or for ``limit_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while not self.left:
                    await asyncio.sleep(_LOOK_EVERY_S)
        if self.left:
            raise GoneError

    async def json(self, document: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        await self.send(json.dumps(document, separators=(",", ":")).encode(), status, "application/json", headers)

    async def send(
        self, body: bytes, status: int = 200, content_type: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        """A whole answer."""
        fields = {"Content-Length": str(len(body))} | ({"Content-Type": content_type} if content_type else {})
        self._head(status, fields | (headers or {}))
        fault = self.fault
        if fault is None or not fault.breaks_body or status != 200:
            self.writer.write(body)
            await self._drain()
            return
        self.writer.write(body[: len(body) // 2])
        await self._drain()
        await self._break(fault)
        self.writer.write(body[len(body) // 2 :])
        await self._drain()

    async def begin(self, content_type: str, headers: dict[str, str] | None = None) -> None:
        """The head of a stream."""
        self._head(200, {"Transfer-Encoding": "chunked", "Content-Type": content_type} | (headers or {}))
        await self._drain()

    async def chunk(self, data: bytes) -> None:
        """A part of a stream; it leaves at once.

        Raises:
            GoneError: The client has gone, or a fault ended the connection.
        """
        fault = self.fault
        if fault is not None and fault.breaks_body and self.chunks == fault.after_chunks:
            self.fault = None
            await self._break_stream(fault, data)
        if self.left:
            raise GoneError
        self.chunks += 1
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._drain()

    async def event(self, document: object) -> None:
        """A frame of server-sent events."""
        data = document if isinstance(document, str) else json.dumps(document, separators=(",", ":"))
        await self.chunk(f"data: {data}\n\n".encode())

    async def finish(self) -> None:
        """The regular end of a stream."""
        self.writer.write(b"0\r\n\r\n")
        await self._drain()

    async def raw(self, data: bytes) -> None:
        """Bytes as they are, and the end of the connection."""
        self.writer.write(data)
        await self._drain()
        raise GoneError

    def reset(self) -> None:
        """End the connection as a crash does."""
        reset(self.writer)
        raise GoneError

    async def _break_stream(self, fault: Fault, data: bytes) -> None:
        if fault.name == "half_json":
            half = data[: len(data) // 2]
            self.writer.write(b"%x\r\n%b\r\n" % (len(half), half))
            await self._drain()
        if fault.name == "error_mid_stream":
            await self.event({"error": fault.error("the engine broke in mid-stream")})
            await self.finish()
            raise GoneError
        await self._break(fault)

    async def _break(self, fault: Fault) -> None:
        """In the middle of an answer: wait, or end the connection."""
        if fault.name == "stall_mid_stream":
            await self.until_left(fault.seconds)
            return
        await asyncio.sleep(0.02)  # a reset overtakes what was sent just before
        if fault.name in {"reset_mid_stream", "error_mid_stream"}:
            self.reset()
        raise GoneError

    def _head(self, status: int, fields: dict[str, str]) -> None:
        connection = {"Connection": "keep-alive" if self.keep_alive else "close", "Server": self.server}
        lines = [f"{name}: {value}" for name, value in (connection | self.extra | fields).items()]
        self.writer.write("\r\n".join([f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}", *lines, "\r\n"]).encode())

    async def _drain(self) -> None:
        try:
            await self.writer.drain()
        except OSError:
            raise GoneError from None


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a TCP reset."""
    sock: Any = writer.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
