"""A stream on the express way: frames sent when they arrive, and signs of life while none do."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi_foundry.engines.direct import DirectWay
from fastapi_foundry.engines.http_client import ConnectionLostError, HttpError, HttpResponse
from fastapi_foundry.engines.transport import early_error
from fastapi_foundry.errors import EngineFailedError, FoundryError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.services.express_exchange import Books, Exchange, Sink
from fastapi_foundry.services.lanes import Place
from fastapi_foundry.services.limit_tickets import FreeTicket, Ticket
from fastapi_foundry.services.relay import FrameReader
from fastapi_foundry.wire.errors import error_frame
from fastapi_foundry.wire.sse import comment, first_frame_end

__all__ = ["StreamExchange"]

logger = get_logger(__name__)

_OK: Final = 200
_MAX_FIRST_FRAME_BYTES: Final = 1024 * 1024
_END_OF_STREAM: Final = b"[DONE]"
_COMMENT: Final = comment("keep-alive")
_PREFILL: Final = comment("prefill")


class StreamExchange(Exchange):
    """A stream whose frames are sent when they arrive.

    Args:
        hide_usage: Keep the usage frame from the client, which did not ask for it.
        notice_s: After so many seconds without a first frame the client is told that it is being worked on.
        keepalive_s: After so many seconds of silence later on a comment is sent.
    """

    streams = True
    __slots__ = (
        "_first",
        "_has_begun",
        "_has_said",
        "_keepalive_s",
        "_last",
        "_loop",
        "_pause_s",
        "_reader",
        "_tail",
        "_timer",
    )

    def __init__(
        self,
        sink: Sink,
        books: Books,
        ticket: Ticket | FreeTicket,
        place: Place,
        way: DirectWay,
        *of: Any,
        hide_usage: bool,
        notice_s: float,
        keepalive_s: float,
    ) -> None:
        Exchange.__init__(self, sink, books, ticket, place, way, *of)
        self._reader = FrameReader(hide_usage=hide_usage, meter=self.meter)
        self._first = b""
        self._tail = b""
        self._has_begun = False  # the engine's stream has
        self._has_said = False  # the client has got the head
        self._pause_s = notice_s
        self._keepalive_s = keepalive_s
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._timer = self._loop.call_later(notice_s, self._silence)

    def resume(self) -> None:
        """See ``Exchange``."""
        self.news()

    def news(self) -> None:
        """See ``Exchange``."""
        response = self._response
        if response is None or self._is_over:
            return
        if not self._sink.writable:
            response.expect_nothing()  # the silence is the client's
            return
        try:
            self._take(response)
        except FoundryError as fact:
            self._fail(fact)

    def chunk(self, body: bytes, framed: bytes) -> bool:
        """Pass a chunk on as it came, where the client takes it and nothing waits before it."""
        response, sink = self._response, self._sink
        if response is None or not self._has_said or not self._has_begun or response.holds_any or not sink.writable:
            return False
        try:
            if not self._reader.passes(body):
                return False
        except FoundryError as fact:
            self._fail(fact)
            return True
        self._last = self._loop.time()
        sink.chunk(framed)
        return True

    def _take(self, response: HttpResponse) -> None:
        if self._has_begun:
            self._pass_on(response.take(), response)
        elif not self._begin(response):
            return
        if self._is_over:
            return
        if response.failure is not None:
            raise self._line.fact(response.failure)
        if not response.complete:
            response.expect_more()
            return
        if response.ends_with_connection and _END_OF_STREAM not in self._tail:
            # Without a length, only the stream's own end mark tells the end from a crash.
            raise self._line.fact(ConnectionLostError("the connection ended before the stream did", received_any=True))
        self._reader.end()
        self._end()

    def _begin(self, response: HttpResponse) -> bool:
        """Whether the first frame has come, and is none that reports an error."""
        if not response.head_complete:
            if response.failure is not None and self._has_said:
                raise self._line.fact(response.failure)
            if response.failure is not None:
                self._broke(response.failure, response)
            return False
        self._first += response.take()
        is_first_whole = first_frame_end(self._first) >= 0 or len(self._first) > _MAX_FIRST_FRAME_BYTES
        if response.failure is None and not response.complete and (response.status != _OK or not is_first_whole):
            response.expect_more()
            return False
        if response.status != _OK:
            self._refuse(response)
            return False
        if response.failure is not None and not is_first_whole:
            raise self._line.fact(response.failure)
        if (fact := early_error(self._first)) is not None:
            raise fact
        if not self._first:
            raise EngineFailedError("The engine ended its stream before it said anything.")
        self._has_begun, self._pause_s = True, self._keepalive_s
        self._note_first_byte()
        first, self._first = self._first, b""
        self._pass_on(first, response)
        return True

    def _refuse(self, response: HttpResponse) -> None:
        if self._has_said:
            raise self._line.refusal(response, self._first, self.model_id)
        self._refused(response, self._first)

    def _note_first_byte(self) -> None:
        self.first_byte_s = self._generations.elapsed_s(self)

    def _pass_on(self, chunk: bytes, response: HttpResponse) -> None:
        if not chunk:
            return
        if response.ends_with_connection:
            self._tail = (self._tail + chunk)[-2 * len(_END_OF_STREAM) :]
        whole = self._reader.split(chunk)
        if whole and (passed := self._reader.pass_on(whole)):
            self._say(passed)

    def _say(self, frames: bytes) -> None:
        self._last = self._loop.time()
        if not self._has_said:
            self._has_said = True
            self._sink.begin_stream()
        self._sink.frames(frames)

    def _end(self) -> None:
        if not self._has_said:
            raise EngineFailedError("The engine ended its stream before it said anything.")
        self.status = "failed" if self._reader.error_passed else "ok"
        self._sink.end_stream()
        self._routed.breaker.succeeded()
        self._conclude()
        self._sink.over()

    def _silence(self) -> None:
        """Give a sign of life, unless there has been one, and look again."""
        silent_s = self._loop.time() - self._last
        if silent_s >= self._pause_s:
            if self._sink.writable:
                self._say(_COMMENT if self._has_begun else _PREFILL)
            silent_s = 0.0
        self._timer = self._loop.call_later(self._pause_s - silent_s, self._silence)

    def _conclude(self) -> None:
        self._timer.cancel()
        self.usage, self.content_frames = self._reader.usage, self._reader.content_frames
        super()._conclude()

    def _give_over(self) -> None:
        self._timer.cancel()
        if self.meter is not None:
            self.meter.settle()
        super()._give_over()

    def _not_connected(self, failure: BaseException) -> None:
        if not self._has_said:
            super()._not_connected(failure)
        elif isinstance(failure, HttpError):
            self._fail(self._line.fact(failure))
        else:
            self._fail(EngineFailedError("The engine could not be asked."))

    def _say_failure(self, fact: FoundryError) -> None:
        if not self._has_said:
            super()._say_failure(fact)
            return
        logger.error("stream broke", error=fact.message, code=fact.code, request_id=self.request_id.decode())
        self._sink.frames(error_frame(fact))
        self._sink.end_stream()
