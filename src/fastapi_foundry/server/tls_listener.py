"""Accepting connections where TLS is spoken: a place is taken first, then hands are shaken.

The event loop could do both by itself, but would count a connection only after its handshake, and keep the
certificate that it began with.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final

from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.server.connections import Connections, Seat

__all__ = ["TlsListener"]

logger = get_logger(__name__)

_FAREWELL_S: Final = 2.0  # for the other side's goodbye
_PAUSE_S: Final = 0.5  # after a failure to accept, such as too many open files


class TlsListener:
    """Accepts connections on a listening socket; has the two methods of ``asyncio.Server`` that a server needs.

    Args:
        sock: It listens already.
        connections: Every open connection, and the bounds.
        context: Gives the context for the next handshake.
        make: Makes the protocol of a secure connection on the place that was taken for it.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        connections: Connections,
        context: Callable[[], ssl.SSLContext],
        make: Callable[[Seat], asyncio.Protocol],
    ) -> None:
        self._sock = sock
        self._connections = connections
        self._context = context
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        sock.setblocking(False)
        self._accepting = self._loop.create_task(self._accept())

    def close(self) -> None:
        """Accept nothing any more and break off the handshakes that are not done; returns at once."""
        for task in (self._accepting, *self._handshakes):
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until that has happened."""
        await asyncio.wait([self._accepting, *self._handshakes])

    async def _accept(self) -> None:
        while True:
            try:
                connection, address = await self._loop.sock_accept(self._sock)
            except OSError as error:
                logger.error("connection not accepted", error=error.strerror or str(error))  # noqa: TRY400 - no bug
                await asyncio.sleep(_PAUSE_S)
                continue
            client = str(address[0]) if isinstance(address, tuple) else ""
            seat = self._connections.take(client)
            if seat is None:
                connection.close()
                continue
            task = self._loop.create_task(self._shake_hands(connection, seat, client))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, connection: socket.socket, seat: Seat, client: str) -> None:
        secure = False
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._make(seat),
                connection,
                ssl=self._context(),
                ssl_handshake_timeout=self._connections.limits.head_timeout_s,
                ssl_shutdown_timeout=_FAREWELL_S,
            )
            secure = True
        except OSError:  # what TLS finds wrong and a time-out included; whoever comes without TLS ends here too
            self._connections.tell("tls_handshake_failed", client)
        finally:
            if not secure:
                seat.release()
                connection.close()
