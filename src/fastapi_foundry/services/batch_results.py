"""Results of a running batch on their way into the database: those of some milliseconds in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from fastapi_foundry.errors import StorageError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.storage.batches import BatchStore, Lease, LineResult

__all__ = ["BatchResults"]

logger = get_logger(__name__)

_GATHER_S: Final = 0.05
_RETRY_S: Final = 1.0
_MOST_PENDING: Final = 256
_AT_ONCE: Final = 500


class BatchResults:
    """Writes results in the background; one task writes at a time.

    Args:
        store: Where they go.
        lease: The right to put them there.
        on_status: Told the batch's status with every write: that is how a batch learns that it has been cancelled.
    """

    def __init__(self, store: BatchStore, lease: Lease, on_status: Callable[[str], None]) -> None:
        self._store = store
        self._lease = lease
        self._on_status = on_status
        self._pending: list[LineResult] = []
        self._room = asyncio.Condition()
        self._some = asyncio.Event()
        self._closing = False

    async def add(self, result: LineResult) -> None:
        """Hand a result over; waits only while too many are on their way already."""
        async with self._room:
            await self._room.wait_for(lambda: len(self._pending) < _MOST_PENDING)
            self._pending.append(result)
        self._some.set()

    def close(self) -> None:
        """No result follows; ``run`` ends when all have been written."""
        self._closing = True
        self._some.set()

    async def run(self) -> None:
        """Write until ``close`` and everything is written; a database that is away is waited for.

        Raises:
            LeaseLostError: Somebody else works on the batch now.
        """
        while True:
            await self._some.wait()
            if not self._closing:
                await asyncio.sleep(_GATHER_S)
            self._some.clear()
            while self._pending:
                await self._write()
            if self._closing:
                return

    async def _write(self) -> None:
        taken = self._pending[:_AT_ONCE]
        try:
            status = await self._store.add_results(self._lease, taken)
        except StorageError as fact:
            logger.warning("results of a batch not written yet", batch_id=self._lease.batch_id, error=fact.message)
            await asyncio.sleep(_RETRY_S)
            return
        async with self._room:
            del self._pending[: len(taken)]
            self._room.notify_all()
        self._on_status(status)
