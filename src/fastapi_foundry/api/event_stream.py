"""A response that streams server-sent events, with an early failure as a status and a late one as a frame."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fastapi_foundry.api.interruption import ClientGoneError, interruptible
from fastapi_foundry.errors import EngineFailedError, FoundryError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.services.stopping import Stopping

__all__ = ["EventStreamResponse"]

logger = get_logger(__name__)

_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    # nginx would collect chunks otherwise.
    (b"x-accel-buffering", b"no"),
]


class EventStreamResponse(Response):
    """Opens ``source`` when it is called, sends every frame when it arrives, and closes ``source`` always.

    Args:
        source: Entering it waits for the first frame; what it raises then becomes an ordinary error answer.
        error_frame: Words an error that comes after the headers.
        stopping: Ends the stream when the process has to end.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        source: AbstractAsyncContextManager[AsyncIterator[bytes]],
        *,
        error_frame: Callable[[BaseException], bytes],
        stopping: Stopping,
    ) -> None:
        super().__init__()
        self._source = source
        self._error_frame = error_frame
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the source ends, breaks, the client leaves or the process has to end."""
        del scope
        begun = False
        try:
            async with interruptible(receive, self._stopping), self._source as frames:
                async for frame in frames:
                    if not begun:
                        begun = True
                        await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
                    await send({"type": "http.response.body", "body": frame, "more_body": True})
        except ClientGoneError:
            raise
        # The top of a stream: whatever it was, the client must not take what it has for the whole.
        except Exception as error:
            if not begun:
                raise
            if isinstance(error, FoundryError):
                # No trace: the fact says where the fault lies, and that is not here.
                logger.error("stream broke", error=error.message, code=error.code)  # noqa: TRY400
            else:
                logger.exception("stream crashed")
            await send({"type": "http.response.body", "body": self._error_frame(error), "more_body": True})
        if not begun:
            raise EngineFailedError("The engine ended its stream before it said anything.")
        await send({"type": "http.response.body", "body": b"", "more_body": False})
