"""Connections that answer plain chat requests themselves: the express way, ahead of the application.

A request that arrives in one read, with nothing unusual about its head, is offered to the ``ExpressService``. If that
takes it the answer is written here, from the engine's callbacks; otherwise, or when the engine's answer turns out to need
more than passing on, the request goes to the application as if nothing had been. Both ways have the same rules, headers
and errors.
"""

from __future__ import annotations

import functools
import time
from typing import Any, Final

from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from fastapi_foundry.api.event_stream import STREAM_HEADERS
from fastapi_foundry.api.limits import TICKET
from fastapi_foundry.api.middleware import EVERY_ANSWER
from fastapi_foundry.api.notes import note_headers
from fastapi_foundry.api.problems import logged_problem
from fastapi_foundry.engines.base import Notes
from fastapi_foundry.errors import FoundryError
from fastapi_foundry.server.express_desk import ExpressDesk, header_lines
from fastapi_foundry.server.protocol import BoundedProtocol
from fastapi_foundry.services.express import CHAT_PATH
from fastapi_foundry.services.express_exchange import Exchange
from fastapi_foundry.services.limit_tickets import Ticket

__all__ = ["ExpressProtocol"]

_OK: Final = 200
_CLIENT_CLOSED_REQUEST: Final = 499
_MOST_HELD_BYTES: Final = 65_536


_EVERY_ANSWER: Final = header_lines(EVERY_ANSWER)
_STREAM_HEADERS: Final = header_lines(STREAM_HEADERS) + b"transfer-encoding: chunked\r\n"


class ExpressProtocol(BoundedProtocol):
    """One connection; the ``Sink`` of the exchange that is under way on it.

    Args:
        desk: Takes requests.
    """

    def __init__(self, *args: Any, desk: ExpressDesk, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._desk = desk
        self._outbox = desk.outbox
        self._exchange: Exchange | None = None
        self._request = b""  # that of the exchange, as it came
        self._began = 0.0
        self._status = 0
        self._held = b""  # arrived while an exchange is under way
        self._ticket: Ticket | None = None  # of a request that leaves the express way
        self._close_later = False

    @property
    def writable(self) -> bool:
        """See ``Sink``."""
        return not self.flow.write_paused

    @property
    def _is_answering(self) -> bool:
        return self._exchange is not None or super()._is_answering

    # What arrives

    def data_received(self, data: bytes) -> None:
        """Take a request, or parse what arrived; while an exchange is under way it has to wait."""
        if self._exchange is not None:
            self._held += data
            if len(self._held) > _MOST_HELD_BYTES:
                self.flow.pause_reading()
            return
        # Between two requests alone: then ``data`` begins with a head.
        if (self._idle or not self._received) and not self._deaf and (seat := self._seat) is not None:
            began = time.perf_counter()
            exchange = self._desk.begin(data, self) if seat.refusal is None else None
            if exchange is not None:
                self._exchange, self._request, self._began = exchange, data, began
                self._received += len(data)
                self._idle, self._head_since = False, None
                self._connections.work(self)
                return
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the exchange: nobody waits for its answer."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abandon()
            self._log(exchange, _CLIENT_CLOSED_REQUEST)
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        """The client has taken enough of what waits for it."""
        super().resume_writing()
        if self._exchange is not None:
            self._exchange.resume()

    def shutdown(self) -> None:
        """Close as soon as no request runs."""
        if self._exchange is None:
            self._outbox.flush()
            super().shutdown()
        else:
            self._close_later = True

    def close_idle(self) -> None:
        """Close, since no request is on the connection; its last answer may not have been sent yet."""
        self._outbox.flush()
        super().close_idle()

    def check(self, now: float) -> bool:
        """See ``BoundedProtocol``."""
        self._outbox.flush()
        return super().check(now)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        if self._ticket is not None:
            cycle.scope[TICKET] = self._ticket  # type: ignore[typeddict-unknown-key]
            self._ticket = None
        super()._start_asgi_task(cycle, app)  # type: ignore[arg-type]

    # What leaves: see ``Sink``

    def answer(self, body: bytes) -> None:
        """See ``Sink``."""
        self._write(_OK, b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body), body)

    def begin_stream(self) -> None:
        """See ``Sink``."""
        self._write(_OK, _STREAM_HEADERS)

    def frames(self, frames: bytes) -> None:
        """See ``Sink``."""
        self._outbox.put(self.transport, b"%x\r\n%b\r\n" % (len(frames), frames))

    def chunk(self, framed: bytes) -> None:
        """See ``Sink``."""
        self._outbox.put(self.transport, framed)

    def end_stream(self) -> None:
        """See ``Sink``."""
        self._outbox.put(self.transport, b"0\r\n\r\n")

    def fail(self, fact: FoundryError) -> None:
        """See ``Sink``."""
        response = logged_problem(CHAT_PATH, fact)
        self._write(response.status_code, header_lines(response.raw_headers), bytes(response.body))

    def over(self) -> None:
        """See ``Sink``."""
        exchange, self._exchange = self._exchange, None
        assert exchange is not None  # noqa: S101 - it is the one that calls this
        self._log(exchange, self._status)
        self.server_state.total_requests += 1
        if self._close_later:
            self._outbox.flush()
            self.transport.close()
            return
        self._rest()
        self._go_on()

    def go_another_way(self) -> None:
        """See ``Sink``."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None and isinstance(exchange.ticket, Ticket):
            self._ticket = exchange.ticket
        super().data_received(self._request)
        self._go_on()

    def _write(self, status: int, head: bytes, body: bytes = b"") -> None:
        self._status = status
        exchange, desk, more, request_id = self._exchange, self._desk, b"", b""
        if exchange is not None:
            request_id = exchange.request_id
            if exchange.ticket.__class__ is Ticket:
                more = desk.limit_lines(exchange.ticket.notice)
            if exchange.engine_name:
                more += _engine_line(exchange.engine_name)
        if self._close_later:
            more += b"connection: close\r\n"
        default = desk.default_lines(self.server_state.default_headers)
        self._outbox.put(
            self.transport,
            b"%b%b%b%b%bx-request-id: %b\r\n\r\n%b"
            % (STATUS_LINE[status], default, head, _EVERY_ANSWER, more, request_id, body),
        )

    def _go_on(self) -> None:
        """Take what arrived meanwhile, when the callback that is under way has ended."""
        self._request = b""
        if self._held:
            self.loop.call_soon(self._take_held)
            self.flow.resume_reading()

    def _take_held(self) -> None:
        held, self._held = self._held, b""
        if held and not self.transport.is_closing():
            self.data_received(held)

    def _log(self, exchange: Exchange, status: int) -> None:
        self._desk.log.write(
            CHAT_PATH,
            status,
            exchange.request_id,
            time.perf_counter() - self._began,
            exchange.model_id,
            exchange.status,
            exchange.duration_s,
            exchange.prompt_tokens,
            exchange.completion_tokens,
            exchange.first_byte_s,
            exchange.principal.key_id,
        )


@functools.lru_cache(maxsize=64)
def _engine_line(name: str) -> bytes:
    return header_lines(note_headers(Notes(engine=name)))
