"""How much of request bodies is in memory at once, over all requests."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastapi_foundry.errors import OverloadedError

__all__ = ["BodyMemory"]

_LARGE_BYTES: Final = 65_536  # below, a body weighs no more than the connection that it came on


class BodyMemory:
    """Counts the bytes of large bodies, from their arrival to the end of the request, and refuses what is too much.

    What has arrived counts, and not what was announced: else a client could reserve memory with a header.

    Args:
        limit_bytes: Most bytes at once.
        uploads: Paths where bodies go to the disk as they arrive, and are not held.
    """

    def __init__(self, app: ASGIApp, *, limit_bytes: int, uploads: Collection[str] = ()) -> None:
        self._app = app
        self._uploads = uploads
        self._limit_bytes = limit_bytes
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request.

        Raises:
            OverloadedError: From ``receive``, when a piece of a body is one too many.
        """
        if scope["type"] != "http" or not _may_be_large(scope["headers"]) or scope["path"] in self._uploads:
            await self._app(scope, receive, send)
            return
        own_bytes = 0

        async def counted_receive() -> Message:
            nonlocal own_bytes
            message = await receive()
            size = len(message.get("body", b""))
            if self._held_bytes + size > self._limit_bytes:
                raise OverloadedError("The server is busy with too many large requests; please try again in a moment.")
            self._held_bytes += size
            own_bytes += size
            return message

        try:
            await self._app(scope, counted_receive, send)
        finally:
            self._held_bytes -= own_bytes


def _may_be_large(headers: Any) -> bool:
    for name, value in headers:
        if name == b"content-length":
            return not value.isdigit() or int(value) > _LARGE_BYTES
        if name == b"transfer-encoding":
            return True
    return False
