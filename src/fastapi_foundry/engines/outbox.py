"""What one turn of the event loop has to send, sent together at its end.

A write wakes whoever reads at the other end. While he sleeps on another core that costs far more than the write itself, most
of all in a virtual machine; once he is awake it costs next to nothing, but he falls asleep again while the next request is
worked on. Gathered, the writes of a busy turn wake him once: with 16 clients a request took 125 us of processor instead of 175.
"""

from __future__ import annotations

import asyncio

__all__ = ["Outbox"]


class Outbox:
    """Belongs to one event loop; for connections whose data all goes through it, in order.

    Who closes a transport calls ``flush`` before. What is for a transport that is closing already is dropped.
    """

    __slots__ = ("_loop", "_waiting")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []

    def put(self, transport: asyncio.Transport, data: bytes) -> None:
        """Send ``data`` before the loop waits for anything; never waits."""
        if not self._waiting:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self.flush)
        self._waiting.append((transport, data))

    def flush(self) -> None:
        """Send what waits now."""
        waiting, self._waiting = self._waiting, []
        for transport, data in waiting:
            if not transport.is_closing():
                transport.write(data)
