"""Uvicorn's HTTP protocol with bounds: on time, size, pace and number, in both directions.

What it costs on the way of a normal request are a few attribute accesses; everything that depends on time is
found by the sweep of ``Connections``, which calls ``check``.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from fastapi_foundry.errors import FoundryError, HeadTooLargeError, InvalidInputError, RequestTooSlowError
from fastapi_foundry.server.connections import Connections, Seat
from fastapi_foundry.server.ending import EndingProtocol
from fastapi_foundry.server.pace import BodyPace

__all__ = ["BoundedProtocol"]

_SMALL_BODY_BYTES: Final = 65_536  # the rest of such a body is read, so that the connection can be used again
_MAX_PIPELINED: Final = 8


class BoundedProtocol(EndingProtocol):
    """One connection.

    Args:
        connections: Every open connection, and the bounds.
        seat: The place that was taken for this one already; without it one is taken when it is made.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections: Connections,
        seat: Seat | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop, connections=connections)
        self._max_head_bytes = connections.limits.max_head_bytes
        self._max_headers = connections.limits.max_headers
        self._seat = seat
        self._idle = False
        self._received = 0
        self._heavy = False
        self._denial: FoundryError | None = None
        self._keep_alive_later: bool | None = None
        self._head_since: float | None = None
        self._pace: BodyPace | None = None

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place, or drop the connection where there is none."""
        super().connection_made(transport)
        if self._seat is None:
            self._seat = self._connections.take(self._address)
        if self._seat is None:
            self._deaf = True
            transport.abort()
            return
        self._head_since = self.loop.time()
        self._connections.work(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self._connections.forget(self)
        if self._seat is not None:
            self._seat.release()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close as soon as no request runs."""
        if self._keep_alive_later is not None:
            self._keep_alive_later = False
        super().shutdown()

    def close_idle(self) -> None:
        """Close, since no request is on the connection."""
        self._idle = False
        self.transport.close()

    # What arrives

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, within the bounds of a head."""
        if self._idle:
            self._wake()
        self._received += len(data)
        self._unused += len(data)
        if self._deaf:
            self._throw_away()
            return
        if self._unused > self._max_head_bytes:
            self._heavy = True
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # nothing is upgraded to here; the request is answered as it is
        except httptools.HttpParserError:
            self._refuse(self._denial or InvalidInputError("The request is not valid HTTP/1.1.", code="http_invalid"))
            return
        cycle = self.cycle
        if (
            self._running is not None
            and cycle.more_body
            and self._keep_alive_later is None
            and not cycle.response_complete
        ):
            self._weigh(cycle)
        if self._unused > self._max_head_bytes:
            self._refuse(self._head_too_large())

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._idle:
            self._wake()
        else:
            self._head_since = self.loop.time()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, as long as there are not too many."""
        if len(self.headers) >= self._max_headers:
            self._deny(HeadTooLargeError(f"The request has more than {self._max_headers} headers."))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Let a request begin, unless its head or its connection is refused."""
        if self._heavy:
            self._heavy = False
            if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > self._max_head_bytes:
                self._deny(self._head_too_large())
        if self._seat is not None and self._seat.refusal is not None:
            self._deny(self._seat.refusal)
        if len(self.pipeline) >= _MAX_PIPELINED:
            self._deny(InvalidInputError("Too many requests wait on one connection.", code="http_invalid"))
        self._head_since = None
        self._unused = 0
        self._pace = None
        self._keep_alive_later = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Keep a piece of a body; what comes behind an answer is thrown away."""
        if not self.cycle.response_complete:
            self._unused = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has arrived as a whole."""
        cycle = self.cycle
        if cycle.response_complete:
            cycle.more_body = False
            self._rest()
            return
        if self._keep_alive_later is not None:
            cycle.keep_alive = self._keep_alive_later
        super().on_message_complete()

    # What leaves

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        cycle.transport = self._channel  # type: ignore[assignment]
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """An answer has been written: the next request of the connection begins, or is waited for."""
        self.server_state.total_requests += 1
        if self._deaf or self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self._running is not None and self._running.more_body:
            self._head_since = self.loop.time()  # the little that is left must come as fast as a head
        elif self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._head_since is None:
            self._rest()

    def resume_writing(self) -> None:
        """The client has taken enough of what waits for it."""
        self._stalled_since = None
        super().resume_writing()
        if not (self._is_answering or self._idle or self._deaf or self.pipeline) and self._head_since is None:
            self._rest()

    # Time

    def check(self, now: float) -> bool:
        """End what has lasted too long, and say whether that was so; ``now`` is the loop's time in seconds."""
        if super().check(now):
            return True
        if self._deaf or self.transport.is_closing() or (self._is_answering and self._running is not self.cycle):
            return False
        complaint = self._complaint(now)
        if complaint is None:
            return False
        if self._received:
            self._refuse(RequestTooSlowError(complaint))
        else:
            self.transport.close()  # opened in advance, as browsers do, and not needed: no answer belongs there
        return True

    def _complaint(self, now: float) -> str | None:
        """What is wrong with how the client sends; None when nothing is."""
        limits, cycle = self._limits, self.cycle
        if self._head_since is not None and not self._is_answering:
            late = now - self._head_since >= limits.head_timeout_s
            return f"The head of the request did not arrive within {limits.head_timeout_s:g} s." if late else None
        if self._running is None or not cycle.more_body or cycle.response_complete:
            return None
        if self.flow.read_paused or cycle.waiting_for_100_continue:
            self._pace = None  # it is our turn
        elif self._pace is None:
            self._pace = BodyPace(limits, now, self._received)
        else:
            return self._pace.complaint(now, self._received)
        return None

    # Ends

    def _head_too_large(self) -> HeadTooLargeError:
        return HeadTooLargeError(f"The head of the request is larger than {self._max_head_bytes} bytes.")

    def _deny(self, fact: FoundryError) -> None:
        """Stop the parser; ``data_received`` answers with ``fact``."""
        self._denial = fact
        raise fact

    def _weigh(self, cycle: RequestResponseCycle) -> None:
        """Have the connection closed behind an answer that comes before the end of a large body.

        ``cycle`` says so in the answer then; when the whole body has been taken the connection can be used again.
        """
        headers = dict(self.headers)
        length = headers.get(b"content-length", b"")
        if b"transfer-encoding" in headers or not length.isdigit() or int(length) > _SMALL_BODY_BYTES:
            self._keep_alive_later = cycle.keep_alive
            cycle.keep_alive = False

    def _wake(self) -> None:
        self._idle = False
        self._head_since = self.loop.time()
        self._unused = 0
        self._connections.work(self)

    def _rest(self) -> None:
        self._head_since = None
        self._unused = 0
        # A large answer that the client does not read has to stay under watch; ``resume_writing`` comes here again.
        if not self.flow.write_paused and not self.transport.is_closing():
            self._idle = True
            self._connections.rest(self, self.loop.time())
