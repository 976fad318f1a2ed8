"""What works on batches in this process: it takes those that nobody works on, and runs some at a time."""

from __future__ import annotations

import asyncio
import functools
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from fastapi_foundry.errors import StorageError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.services.batch_run import BatchRun, BatchTools
from fastapi_foundry.services.files import FilesService
from fastapi_foundry.services.stopping import Stopping
from fastapi_foundry.storage.batches import Waiting

__all__ = ["BatchWorker"]

logger = get_logger(__name__)

_TIDY_S: Final = 3600.0
_LOOKS_PER_LEASE: Final = 2
_LAST_WRITES_S: Final = 2.0
_DAY_US: Final = 86_400_000_000


class BatchWorker:
    """One task that looks for work, and one for each batch that it has found.

    Args:
        tools: What runs need.
        files: Tidied up from time to time.
        stopping: Says when the process is about to end.
        max_running: Batches at the same time.
        keep_days: Days that batches are kept for.
        grace_s: Seconds that lines under way get to finish when the process ends.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        tools: BatchTools,
        files: FilesService,
        stopping: Stopping,
        *,
        max_running: int,
        keep_days: int,
        grace_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tools = tools
        self._files = files
        self._stopping = stopping
        self._max_running = max_running
        self._keep_us = keep_days * _DAY_US
        self._grace_s = grace_s
        self._clock = clock
        self._name = secrets.token_hex(8)
        self._running: dict[str, tuple[BatchRun, asyncio.Task[None]]] = {}
        self._tidied_at = float("-inf")
        self._wake = asyncio.Event()
        self._ending = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look for work; the database is open."""
        self._task = asyncio.create_task(self._look())

    async def aclose(self) -> None:
        """Begin no further line, let those under way finish until the process has to end, and leave the batches.

        Takes no longer than the time of grace and two seconds for the database.
        """
        self._ending = True
        self._wake.set()
        if self._task is not None:
            await self._task
            self._task = None
        runs = list(self._running.values())
        if not runs:
            return
        for run, _ in runs:
            run.drain()
            self._stopping.add(run.interrupt)
        tasks = [task for _, task in runs]
        _, late = await asyncio.wait(tasks, timeout=self._grace_s)
        for run, _ in runs:
            self._stopping.discard(run.interrupt)
            run.interrupt()
        if late:
            _, late = await asyncio.wait(late, timeout=_LAST_WRITES_S)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    def wake(self) -> None:
        """There may be work."""
        self._wake.set()

    def cancel(self, batch_id: str) -> None:
        """Somebody has cancelled that batch; if it runs here, it ends at once."""
        running = self._running.get(batch_id)
        if running is not None:
            running[0].cancel()
        self._wake.set()

    async def _look(self) -> None:
        pause_s = self._tools.lease_s / _LOOKS_PER_LEASE
        while not self._ending:
            self._wake.clear()
            try:
                await self._take_what_waits()
                await self._tidy_if_due()
            except StorageError as fact:
                logger.warning("batches not looked for", error=fact.message, code=fact.code)
            # The top of a loop that has to go on, whatever this was.
            except Exception:
                logger.exception("batches not looked for")
            try:
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _take_what_waits(self) -> None:
        waiting = await self._tools.store.waiting()
        while waiting and not self._ending and not self._stopping.begun:
            chosen = self._chosen(waiting)
            if chosen is None:
                return
            waiting.remove(chosen)
            claimed = await self._tools.store.claim(chosen.id, self._name)
            if claimed is not None:
                lease, batch = claimed
                run = BatchRun(self._tools, lease, batch)
                task = asyncio.create_task(run.run())
                self._running[batch.id] = run, task
                task.add_done_callback(functools.partial(self._ended, batch.id))

    def _chosen(self, waiting: Sequence[Waiting]) -> Waiting | None:
        """What to take next: what only has to be ended, then the oldest of whoever has the fewest under way here."""
        free = [batch for batch in waiting if batch.id not in self._running]
        ending = next((batch for batch in free if batch.cancelling), None)
        if ending is not None or not free:
            return ending
        if len(self._running) >= self._max_running:
            return None
        held = Counter(run.batch.key_id for run, _ in self._running.values())
        best = min(free, key=lambda batch: held[batch.key_id])
        # So that others need not wait for a day behind somebody who has many.
        return best if held[best.key_id] < -(-self._max_running // 2) else None

    def _ended(self, batch_id: str, task: asyncio.Task[None]) -> None:
        del self._running[batch_id]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("batch crashed", batch_id=batch_id, exc_info=error)

    async def _tidy_if_due(self) -> None:
        if self._clock() - self._tidied_at < _TIDY_S:
            return
        self._tidied_at = self._clock()
        await self._files.tidy()
        forgotten = await self._tools.store.prune(self._tools.now_us() - self._keep_us)
        if forgotten:
            logger.info("old batches deleted", batches=forgotten)
