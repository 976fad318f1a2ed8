"""A response that streams server-sent events, with an early failure as a status and a late one as a frame."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fastapi_foundry.api.interruption import ClientGoneError, interruptible
from fastapi_foundry.api.notes import note_headers
from fastapi_foundry.engines.base import NO_NOTES, Notes
from fastapi_foundry.errors import EngineFailedError, FoundryError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.services.stopping import Stopping
from fastapi_foundry.wire import sse

__all__ = ["STREAM_HEADERS", "EventStreamResponse"]

logger = get_logger(__name__)

_COMMENT: Final = sse.comment("keep-alive")
_LEAST_PAUSE_S: Final = 0.01
STREAM_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    # nginx would collect chunks otherwise.
    (b"x-accel-buffering", b"no"),
]


class EventStreamResponse(Response):
    """Opens ``source`` when it is called, sends every frame when it arrives, and closes ``source`` always.

    Args:
        source: Entering it waits for the first frame; what it raises then becomes an ordinary error answer, unless
            the wait was so long that a sign of life has gone out.
        error_frame: Words an error that comes after the headers.
        stopping: Ends the stream when the process has to end.
        keepalive_s: After so many seconds of silence a comment is sent, so that no client or proxy gives up.
        notice_s: Likewise before the first frame; the comment says where the request is.
        progress: That, as ``str``.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        source: AbstractAsyncContextManager[AsyncIterable[bytes]],
        *,
        error_frame: Callable[[BaseException], bytes],
        stopping: Stopping,
        keepalive_s: float,
        notice_s: float | None = None,
        progress: object = "keep-alive",
    ) -> None:
        super().__init__()
        self._source = source
        self._error_frame = error_frame
        self._stopping = stopping
        self._keepalive_s = keepalive_s
        self._notice_s = notice_s or keepalive_s
        self._progress = progress

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the source ends, breaks, the client leaves or the process has to end."""
        del scope
        line = _Line(send, self._keepalive_s, self._notice_s, self._progress)
        try:
            async with interruptible(receive, self._stopping), self._source as frames:
                notes = getattr(frames, "notes", NO_NOTES)
                async for frame in frames:
                    await line.say(frame, notes)
        except ClientGoneError:
            raise
        # The top of a stream: whatever it was, the client must not take what it has for the whole.
        except Exception as error:
            if not line.begun:
                raise
            if isinstance(error, FoundryError):
                # No trace: the fact says where the fault lies, and that is not here.
                logger.error("stream broke", error=error.message, code=error.code)  # noqa: TRY400
            else:
                logger.exception("stream crashed")
            await line.say(self._error_frame(error))
        finally:
            await line.close()
        if not line.begun:
            raise EngineFailedError("The engine ended its stream before it said anything.")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Line:
    """What goes to the client: the head once, then frames, and a comment when it was silent for long.

    Attributes:
        begun: Whether the head has gone out; the status is settled then.
    """

    def __init__(self, send: Send, keepalive_s: float, notice_s: float, progress: object) -> None:
        self.begun = False
        self._send = send
        self._keepalive_s = keepalive_s
        self._pause_s = notice_s
        self._progress: object | None = progress
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._timer = self._loop.call_later(notice_s, self._due)
        self._comment: asyncio.Task[None] | None = None

    async def say(self, frame: bytes, notes: Notes = NO_NOTES) -> None:
        """Send one run of whole frames, behind the head if that has not gone out."""
        if self._comment is not None:
            await self._comment  # it may be waiting for a slow client with the head in its hands
            self._comment = None
        self._progress, self._pause_s = None, self._keepalive_s
        await self._say(frame, notes)

    async def close(self) -> None:
        """Send no further comments."""
        self._timer.cancel()
        if self._comment is not None:
            self._comment.cancel()
            await asyncio.wait([self._comment])

    async def _say(self, frame: bytes, notes: Notes) -> None:
        if not self.begun:
            self.begun = True
            headers = STREAM_HEADERS + note_headers(notes) if notes is not NO_NOTES else STREAM_HEADERS
            await self._send({"type": "http.response.start", "status": 200, "headers": list(headers)})
        self._last = self._loop.time()
        await self._send({"type": "http.response.body", "body": frame, "more_body": True})

    def _due(self) -> None:
        silent_s = self._loop.time() - self._last
        if silent_s >= self._pause_s and self._comment is None:
            text = _COMMENT if self._progress is None else sse.comment(str(self._progress))
            self._comment = self._loop.create_task(self._say(text, NO_NOTES))
            self._comment.add_done_callback(self._said)
            silent_s = 0.0
        self._timer = self._loop.call_later(max(self._pause_s - silent_s, _LEAST_PAUSE_S), self._due)

    def _said(self, task: asyncio.Task[None]) -> None:
        if self._comment is task:
            self._comment = None
        if not task.cancelled():
            task.exception()  # the client has left; whoever sends next is told so
