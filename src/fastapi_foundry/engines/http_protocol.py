"""One HTTP/1.1 connection as a client: requests out, responses in, one at a time.

The parser is llhttp (through httptools): framing, chunked bodies and header syntax are its business.
What it cannot know is here: which request the response belongs to, when the end of the connection is the
end of a body, what is too large, and who waits for how long.

A response's parts are handed on as they arrive. The bytes of one read from the socket are one part,
however many HTTP chunks they held, so that a burst costs one wake-up.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final, cast

import httptools

from fastapi_foundry.engines.http_errors import (
    ConnectionLostError,
    HttpError,
    Limits,
    Phase,
    ProtocolError,
    ResponseTimeoutError,
    Timeouts,
)
from fastapi_foundry.engines.http_response import HttpResponse, Listener
from fastapi_foundry.engines.http_short_ways import KnownHeads, only_chunk
from fastapi_foundry.engines.outbox import Outbox

__all__ = ["HttpConnection"]

_FIRST_FINAL_STATUS: Final = 200


class HttpConnection(asyncio.Protocol):
    """A connection that carries one request after the other.

    Args:
        loop: The event loop it belongs to.
        limits: See ``Limits``.
        heads: Shared by the connections of a client.
        outbox: The same.
        on_free: Called when a response has ended and the connection can carry another one.
        on_lost: Called once, when it is closed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        heads: KnownHeads,
        outbox: Outbox,
        on_free: Callable[[HttpConnection], None],
        on_lost: Callable[[HttpConnection], None],
    ) -> None:
        self.idle_since = 0.0
        self.closed: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._limits = limits
        self._heads = heads
        self._outbox = outbox
        self._on_free = on_free
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._response: HttpResponse | None = None
        self._fed_bytes = 0
        self._message_complete = False
        self._between_chunks = False
        self._followed_by_garbage = False
        self._keep_alive = False
        self._paused = False
        self._violation: str | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._expecting = False
        self._deadline = 0.0
        self._wait_for: tuple[Phase, float] = ("total", 0.0)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    @property
    def usable(self) -> bool:
        """Whether a request can be sent: connected, idle, and not known to be closing."""
        return self._transport is not None and not self._transport.is_closing() and self._response is None

    def rest(self) -> None:
        """Note that nothing is under way on it from now on."""
        self.idle_since = self._loop.time()

    def is_fresh(self, max_idle_s: float) -> bool:
        """Whether a request can be sent, and it has not rested for longer than so many seconds."""
        transport = self._transport
        return (
            transport is not None
            and self._response is None
            and not transport.is_closing()
            and self._loop.time() - self.idle_since < max_idle_s
        )

    def send(
        self,
        head: bytes,
        body: bytes,
        timeouts: Timeouts,
        started_at: float | None = None,
        *,
        head_only: bool = False,
        listener: Listener | None = None,
    ) -> HttpResponse:
        """Send a request; its response, of which nothing has arrived yet.

        With a ``listener`` the first byte is expected in time, see ``expect``. The total time counts from ``started_at``,
        in the loop's seconds, or from now.
        """
        transport = self._transport
        assert transport is not None  # noqa: S101 - asked for only while connected
        if started_at is None:
            started_at = self._loop.time()
        self._response = response = HttpResponse(self, timeouts, started_at, head_only=head_only, listener=listener)
        self._expecting = listener is not None
        if listener is not None:
            self._limit(timeouts.first_byte_s, "first_byte")
        self._fed_bytes = 0
        self._message_complete = self._between_chunks = False
        if body and len(body) > self._limits.max_buffered_bytes:
            transport.write(head)  # copying a large body to join it costs more than a second write
            transport.write(body)
        else:
            self._outbox.put(transport, head + body if body else head)
        return response

    def abort(self) -> None:
        """Close at once; a response that is under way ends with an error."""
        received_any = self._response is not None and self._response.received_any
        self._fail(ConnectionLostError("the connection was closed here", received_any=received_any))

    def resume(self) -> None:
        """Read on, if reading was paused."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    async def wait(self, limit_s: float, phase: Phase) -> None:
        """Wait until something has arrived, the response has ended, or time is up (which ends it)."""
        response = self._response
        self._limit(limit_s, phase)
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        except BaseException:
            # The response may have ended meanwhile, and the connection may carry somebody else's by now.
            if self._response is response:
                self._waiter = None
                self.abort()
            raise

    def expect(self, limit_s: float, phase: Phase) -> None:
        """End the response unless something arrives in that time; for one with a listener."""
        self._limit(limit_s, phase)
        self._expecting = True

    def expect_nothing(self) -> None:
        """Set no limit until ``expect`` is called again."""
        self._expecting = False

    def _limit(self, limit_s: float, phase: Phase) -> None:
        response = self._response
        assert response is not None  # noqa: S101 - only an unfinished response is waited for
        deadline = self._loop.time() + limit_s
        if response.total_deadline is not None and response.total_deadline < deadline:
            deadline, phase, limit_s = response.total_deadline, "total", cast("float", response.total_s)
        self._deadline = deadline
        self._wait_for = (phase, limit_s)
        # One timer serves many waits: it is moved when it fires too early, not at each of them.
        if self._timer is None or self._timer_at > deadline:
            self._set_timer(deadline)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._waiter is None and not self._expecting:
            return
        if self._loop.time() < self._deadline:
            self._set_timer(self._deadline)
        else:
            self._fail(ResponseTimeoutError(*self._wait_for))

    def _wake(self, response: HttpResponse) -> None:
        if response.listener is not None:
            response.listener.news()
            return
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, failure: HttpError) -> None:
        response, self._response = self._response, None
        if response is not None:
            self._expecting = False
            response.end(failure)
            self._wake(response)
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpResponseParser(self)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop with what one read brought."""
        response, parser = self._response, self._parser
        if response is None or parser is None:
            self._fail(ProtocolError("bytes that nobody asked for"))
            return
        if self._between_chunks and response.listener is not None and (body := only_chunk(data)):
            # As the parser would take it, which stays where it is: between two chunks.
            self._hand_on(response, response.listener, body, data)
            return
        is_first = not response.received_any
        if is_first and not response.head_only and self._is_known(response, data):
            self._finish(response)
            return
        response.received_any = True
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._message_complete:
                self._fail(ProtocolError(f"not an HTTP response: {error}"))
                return
            self._followed_by_garbage = True
        self._fed_bytes += len(data)
        if self._violation is None and response.is_head_larger_than(self._limits.max_head_bytes, self._fed_bytes):
            self._violation = f"the head is larger than {self._limits.max_head_bytes} bytes"
        if self._violation is not None:
            self._fail(ProtocolError(self._violation))
        elif self._message_complete:
            if is_first and self._keep_alive and not self._followed_by_garbage:
                self._heads.learn(data, response)
            self._finish(response)
        else:
            self._wake(response)

    def _is_known(self, response: HttpResponse, data: bytes) -> bool:
        """Whether ``data`` is the whole of ``response``, which has taken it, with a head that has been read before."""
        head, at = self._heads.find(data)
        if head is None:
            return False
        response.begin_known(head, data[at:])
        self._keep_alive = True
        return True

    def _hand_on(self, response: HttpResponse, listener: Listener, body: bytes, framed: bytes) -> None:
        if not listener.chunk(body, framed):
            self.on_body(body)
            listener.news()
        elif self._response is response:
            self.expect(response.idle_s, "between_bytes")

    def eof_received(self) -> bool:
        """Called by the event loop; the transport then closes itself, and ``connection_lost`` says what that means."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop, once, last."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        response, self._response = self._response, None
        if response is not None:
            response.end_with_connection(exc)
            self._wake(response)
        self._transport = None
        self._parser = None  # it refers to this object
        if not self.closed.done():
            self.closed.set_result(None)
        self._on_lost(self)

    def _finish(self, response: HttpResponse) -> None:
        transport = self._transport
        assert transport is not None  # noqa: S101 - something has just arrived
        if self._paused:
            self.resume()
        self._response = None
        self._expecting = False
        response.end(None)
        # A server that answers before it has read the whole request is about to close.
        unsent = transport.get_write_buffer_size() > 0
        if self._keep_alive and not self._followed_by_garbage and not unsent and not transport.is_closing():
            if response.head_only:
                self._parser = httptools.HttpResponseParser(self)  # the old one waits for the announced body
            self._on_free(self)
        else:
            transport.abort()
        self._wake(response)

    # httptools

    def on_message_begin(self) -> None:
        """Called by the parser."""
        if self._message_complete:
            self._followed_by_garbage = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser, for trailers too."""
        if self._response is not None and not self._message_complete:
            self._response.add_header(name, value)

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        response, parser = self._response, self._parser
        if response is None or parser is None or self._message_complete:
            return
        self._violation = response.end_head(parser.get_status_code())
        self._keep_alive = parser.should_keep_alive()
        if response.head_only and response.status >= _FIRST_FINAL_STATUS:
            self._message_complete = True

    def on_body(self, data: bytes) -> None:
        """Called by the parser with a part of the body."""
        response = self._response
        if response is None or self._message_complete:
            self._followed_by_garbage = True
        elif response.add_part(data) > self._limits.max_buffered_bytes and not self._paused:
            self._paused = True
            assert self._transport is not None  # noqa: S101 - as above
            self._transport.pause_reading()

    def on_chunk_header(self) -> None:
        """Called by the parser."""
        self._between_chunks = False

    def on_chunk_complete(self) -> None:
        """Called by the parser."""
        self._between_chunks = True

    def on_message_complete(self) -> None:
        """Called by the parser."""
        response = self._response
        if response is None or self._message_complete:
            return
        if response.status < _FIRST_FINAL_STATUS:
            response.restart()  # an interim response; the real one follows
        else:
            self._message_complete = True
