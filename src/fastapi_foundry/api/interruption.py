"""Work that ends early: the client has gone, or the process is about to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive

from fastapi_foundry.errors import StoppingError
from fastapi_foundry.services.stopping import Stopping

__all__ = ["ClientGoneError", "interruptible"]


class ClientGoneError(Exception):
    """The client closed its connection; nobody is left to be answered."""


@asynccontextmanager
async def interruptible(receive: Receive, stopping: Stopping) -> AsyncIterator[None]:
    """Cancel what runs inside as soon as the client disconnects or the time to finish is up.

    The request's body must have been read to its end, since ``receive`` is listened to for the disconnect.

    Raises:
        ClientGoneError: When the client disconnected.
        StoppingError: When the process is about to end: at once for new work, after the time of grace otherwise.
    """
    stopping.check()
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("interruptible() is for code that runs in a task")
    reason: Exception | None = None

    def interrupt(why: Exception) -> None:
        nonlocal reason
        if reason is None:
            reason = why
            task.cancel()

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        interrupt(ClientGoneError())

    def stop() -> None:
        interrupt(StoppingError())

    watcher = asyncio.create_task(watch())
    stopping.add(stop)
    try:
        yield
    except asyncio.CancelledError:
        # A cancel from elsewhere that came at the same time still counts.
        if reason is not None and task.uncancel() == 0:
            raise reason from None
        raise
    finally:
        stopping.discard(stop)
        watcher.cancel()
