"""The listening server in a thread, with the event loop of production, in front of a small application."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi_foundry.api.interruption import ClientGoneError
from fastapi_foundry.api.middleware import REFUSED
from fastapi_foundry.engines.process import bind_first_free
from fastapi_foundry.server.running import GatewayServer
from fastapi_foundry.server.tls import CertificateFiles
from fastapi_foundry.services.stopping import Stopping
from fastapi_foundry.settings import HttpLimitsSettings, Settings, TlsSettings
from tests.support.waiting import eventually_sync

__all__ = ["BoundedServer", "bounded_server", "read_answer", "read_until_closed"]

CHUNK = b"x" * 65_536


@dataclass
class BoundedServer:
    """A running server, and what its application saw."""

    port: int
    server: GatewayServer
    log: list[str] = field(default_factory=list)
    certificate: CertificateFiles | None = None

    def connect(self, *, receive_buffer: int | None = None) -> socket.socket:
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(10)
        sock.connect(("127.0.0.1", self.port))
        return sock

    def send(self, *pieces: bytes, pause_s: float = 0.0) -> bytes:
        """Send the pieces with pauses between them, and read until the other side closes."""
        with self.connect() as sock:
            for piece in pieces:
                sock.sendall(piece)
                time.sleep(pause_s)
            return read_until_closed(sock)

    def eventually_logged(self, line: str, *, timeout_s: float = 5.0) -> None:
        eventually_sync(lambda: line in self.log, timeout_s=timeout_s)


def read_answer(sock: socket.socket) -> bytes:
    """One answer as a whole; its end is known by its Content-Length."""
    received = b""
    while True:
        head, end, body = received.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]):
            return received
        data = sock.recv(65_536)
        assert data, received
        received += data


def read_until_closed(sock: socket.socket) -> bytes:
    received = b""
    try:
        while data := sock.recv(262_144):
            received += data
    except ConnectionError:
        pass
    return received


@contextmanager
def bounded_server(home: Path, *, tls: TlsSettings | None = None, **limits: Any) -> Iterator[BoundedServer]:
    """Serve until the block is left; ``limits`` are settings of ``http_limits``."""
    settings = Settings(home=home, http_limits=HttpLimitsSettings(**limits), tls=tls or TlsSettings())
    log: list[str] = []
    started = threading.Event()
    certificate = CertificateFiles(settings.tls) if tls is not None else None
    server = GatewayServer(_Application(log), settings, stopping=Stopping(), ready=started.set, certificate=certificate)
    with bind_first_free("127.0.0.1", 0, 1, 0) as sock:
        port = sock.getsockname()[1]
        thread = threading.Thread(target=_run, args=(server, sock), daemon=True)
        thread.start()
        assert started.wait(10)
        try:
            yield BoundedServer(port, server, log, certificate)
        finally:
            server.force_exit = server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


def _run(server: GatewayServer, sock: socket.socket) -> None:
    """What ``server.run`` does, with a shorter pause between two looks whether to stop."""

    async def main() -> None:
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup([sock])
        while not await server.on_tick(0):
            await asyncio.sleep(0.01)
        await server.shutdown([sock])
        await server.lifespan.shutdown()

    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(main())


class _Application:
    """What each path does is the method of its last segment; ``log`` tells when a request begins, ends, loses its client."""

    def __init__(self, log: list[str]) -> None:
        self._log = log

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        path = scope["path"]
        self._log.append(f"begin {path}")
        try:
            await getattr(self, path.rpartition("/")[2], self.hello)(receive, send)
        except ClientGoneError:
            self._log.append(f"gone {path} {scope.get(REFUSED)}")
        else:
            self._log.append(f"end {path}")

    async def hello(self, _receive: Any, send: Any) -> None:
        await self._answer(send, b"hello")

    async def upload(self, receive: Any, send: Any) -> None:
        """Answer with the length of the body."""
        length = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            length += len(message["body"])
            if not message.get("more_body"):
                break
        await self._answer(send, b"%d" % length)

    async def late(self, receive: Any, send: Any) -> None:
        """Look at the body late."""
        await asyncio.sleep(0.6)
        await self.upload(receive, send)

    async def refuse(self, _receive: Any, send: Any) -> None:
        """Answer without a look at the body."""
        await self._answer(send, b"too large", status=413)

    async def stream(self, receive: Any, send: Any) -> None:
        """64 KiB again and again, at most 64 MiB; ``log`` gets what was sent to a client that left."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        gone = asyncio.create_task(self._until_gone(receive))
        for number in range(1024):
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
            if gone.done():
                self._log.append(f"sent {number * len(CHUNK)}")
                raise ClientGoneError
        gone.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def large(self, _receive: Any, send: Any) -> None:
        """20 MB in one piece."""
        await self._answer(send, b"x" * 20_000_000)

    async def slow(self, _receive: Any, send: Any) -> None:
        await asyncio.sleep(0.1)
        await self._answer(send, b"slow")

    async def wait(self, receive: Any, _send: Any) -> None:
        """Give no answer."""
        await self._until_gone(receive)
        raise ClientGoneError

    async def _live(self, receive: Any, send: Any) -> None:
        kind = ""
        while kind != "lifespan.shutdown":
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})

    async def _until_gone(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def _answer(self, send: Any, body: bytes, *, status: int = 200) -> None:
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
