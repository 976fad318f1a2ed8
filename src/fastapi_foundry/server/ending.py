"""How a connection ends: refused with an answer, finished by the application, cut off, or left by the client.

A request that is refused here never reaches the application, or is over for it (``http.disconnect``); its answer
has the form of its path's dialect. The connection is closed behind such an answer, but not at once: a client
that is still sending would get a reset in place of the answer, so what it sends is thrown away for a moment.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from fastapi_foundry.api.middleware import REFUSED
from fastapi_foundry.errors import FoundryError
from fastapi_foundry.server.connections import Connections
from fastapi_foundry.server.refusals import refusal

__all__ = ["EndingProtocol"]

_LINGER_S: Final = 2.0
_LINGER_BYTES: Final = 64 * 1024 * 1024  # honest clients look for an answer only when all has been sent
_DISCARD: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)  # SO_LINGER: on, for 0 s


class Channel:
    """What an answer is written to: the transport, but for how it is closed."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


class EndingProtocol(HttpToolsProtocol):
    """Uvicorn's protocol, as far as its end goes.

    Args:
        connections: Every open connection, and the bounds.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections: Connections,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.url = b""
        self._connections = connections
        self._limits = connections.limits
        self._channel: Channel | None = None
        self._running: RequestResponseCycle | None = None
        self._deaf = False  # what arrives is thrown away, and no answer is written any more
        self._deaf_since = 0.0
        self._unused = 0  # bytes since the last that were of use: the end of a head, or a piece of a body
        self._stalled_since: float | None = None
        self._stalled_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Answers go through a channel from now on."""
        super().connection_made(transport)
        self._channel = Channel(transport, self._finish)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application, the request that runs before others included."""
        self._end_running(None)
        self.pipeline.clear()
        super().connection_lost(exc)
        if self._channel is not None:
            self._channel.close = self.transport.close  # else both would hold each other in memory

    def check(self, now: float) -> bool:
        """End what has lasted too long, and say whether that was so; ``now`` is the loop's time in seconds."""
        if (self.transport.is_closing() or self.flow.write_paused) and self._reads_nothing(now):
            self._connections.tell("answer_not_read", self._address)
            self._cut()
            return True
        if self._deaf and now - self._deaf_since >= _LINGER_S:
            self.transport.close()
        return False

    @property
    def _address(self) -> str:
        return self.client[0] if self.client is not None else ""

    @property
    def _is_answering(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _reads_nothing(self, now: float) -> bool:
        """Whether the client has taken nothing of what waits for it, for too long."""
        waiting = self.transport.get_write_buffer_size()
        if self._stalled_since is None or waiting < self._stalled_bytes:
            self._stalled_since = now
        self._stalled_bytes = waiting
        return now - self._stalled_since >= self._limits.write_timeout_s

    def _refuse(self, fact: FoundryError) -> None:
        """Answer with ``fact``, as far as an answer can still be given, and close."""
        if self._deaf or self.transport.is_closing():
            return
        running = self._running if self._is_answering else None
        answerable = running is None or (running is self.cycle and not running.response_started)
        path = self.url.partition(b"?")[0].decode("latin-1")
        status, answer = refusal(path, fact, self.server_state.default_headers)
        self._connections.tell(fact.code, self._address)
        self._end_running(status)
        self.pipeline.clear()
        if answerable:
            self.transport.write(answer)
            self._linger()
        else:
            self.transport.close()  # what has gone out of an answer shows that it is not the whole

    def _end_running(self, status: int | None) -> None:
        """Tell the application that its client has gone; ``status`` is what the client was told instead."""
        running = self._running
        if running is None or running.response_complete:
            return
        if status is not None:
            running.scope[REFUSED] = status  # type: ignore[typeddict-unknown-key]
        running.disconnected = True
        running.message_event.set()
        self.flow.resume_writing()

    def _finish(self) -> None:
        """The application's answer has ended and the connection is not to be used again."""
        if self._running is not None and self._running.more_body and not self._running.disconnected:
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        self._deaf = True
        self._deaf_since = self.loop.time()
        self._unused = 0
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()

    def _cut(self) -> None:
        """Reset the connection: what the system still holds for the client goes too, and the client sees that."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DISCARD)
        self.transport.abort()

    def _throw_away(self) -> None:
        """Something has arrived that nobody wants."""
        if self._unused > _LINGER_BYTES:
            self._cut()
