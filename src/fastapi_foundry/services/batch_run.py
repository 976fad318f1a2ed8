"""One batch from where it stands to its end, or to the end of this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from fastapi_foundry.errors import StorageError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.services.batch_files import BatchFiles
from fastapi_foundry.services.batch_input import check_input, lines_without
from fastapi_foundry.services.batch_lines import LineRunner
from fastapi_foundry.services.batch_owners import OwnerGoneError
from fastapi_foundry.services.batch_results import BatchResults
from fastapi_foundry.services.stopping import Stopping
from fastapi_foundry.storage.batches import BatchRecord, BatchStore, Lease, LeaseLostError
from fastapi_foundry.storage.file_contents import FileContents
from fastapi_foundry.wire.batches import BatchLine, LineProblem

__all__ = ["BatchRun", "BatchTools"]

logger = get_logger(__name__)

_SECOND_US: Final = 1_000_000
_BEATS_PER_LEASE: Final = 3
_LEFT: Final = "left"  # for another process, or for the next start of this one
_CANCELLED: Final = "cancelled"


@dataclass(frozen=True, slots=True)
class BatchTools:
    """What every run needs.

    Attributes:
        max_lines: Most requests of one batch.
        max_line_bytes: Longest line of an input file.
        lease_s: See ``BatchStore``.
        stopping: Says when the process is about to end; no line is begun after that.
    """

    store: BatchStore
    contents: FileContents
    files: BatchFiles
    lines: LineRunner
    stopping: Stopping
    max_lines: int
    max_line_bytes: int
    lease_s: float
    now_us: Callable[[], int] = lambda: time.time_ns() // 1000


class BatchRun:
    """Works on one batch under a lease.

    Args:
        batch: As it was when the lease was got.
    """

    def __init__(self, tools: BatchTools, lease: Lease, batch: BatchRecord) -> None:
        self.batch: Final = batch
        self._tools = tools
        self._lease = lease
        self._status = batch.status
        self._stop = asyncio.Event()  # no further line is begun
        self._end = asyncio.Event()  # lines under way are ended too
        self._outcome: str | None = None
        self._problems: list[LineProblem] = []

    def drain(self) -> None:
        """Begin no further line and let those under way finish; the batch is left for the next start."""
        self._settle(_LEFT, at_once=False)

    def interrupt(self) -> None:
        """End the lines under way; the batch is left for the next start, if nothing else has become of it."""
        self._settle(_LEFT, at_once=True)

    def cancel(self) -> None:
        """The batch's owner wants no more of it."""
        self._settle(_CANCELLED, at_once=True)

    async def run(self) -> None:
        """Work on the batch until it has ended or is left; raises nothing but a cancellation."""
        beating = asyncio.create_task(self._beat())
        try:
            await self._run()
        except LeaseLostError:
            logger.warning("batch taken over by another process", batch_id=self.batch.id)
        except StorageError as fact:
            logger.warning("batch left", batch_id=self.batch.id, error=fact.message, code=fact.code)
            await self._release()
        # The top of a run: the batch must not be lost, whatever this was.
        except Exception:
            logger.exception("batch crashed", batch_id=self.batch.id)
            await self._finish("failed", [LineProblem("internal_error", "The batch could not be run.")])
        finally:
            beating.cancel()

    async def _run(self) -> None:
        batch = self.batch
        if self._status == "validating" and not self._is_over():
            await self._validate()
        if self._status == "in_progress" and self._outcome is None:
            await self._run_lines()
        outcome = self._outcome or "completed"
        if self._status == "finalizing":
            outcome = "completed" if batch.completed + batch.failed >= batch.total else "expired"
        if self._status == "cancelling":
            outcome = _CANCELLED
        if outcome == _LEFT:
            await self._release()
            return
        if outcome in {"completed", "expired"} and self._status == "in_progress":
            self._status = await self._tools.store.begin_finalizing(self._lease)
            outcome = _CANCELLED if self._status == "cancelling" else outcome
        await self._finish(outcome, self._problems)
        logger.info("batch ended", batch_id=batch.id, status=outcome)

    async def _validate(self) -> None:
        batch, tools = self.batch, self._tools
        try:
            total, problems = await check_input(
                tools.contents.path(batch.input_file_id),
                batch.endpoint,
                max_lines=tools.max_lines,
                max_line_bytes=tools.max_line_bytes,
            )
        except OSError:
            total, problems = 0, [_no_input()]
        if problems:
            self._problems = problems
            self._settle("failed", at_once=True)
            return
        self._status = await tools.store.begin(self._lease, total)
        logger.info("batch begun", batch_id=batch.id, requests=total)

    async def _run_lines(self) -> None:
        batch, tools = self.batch, self._tools
        done = await tools.store.done_lines(batch.id)
        results = BatchResults(tools.store, self._lease, self._learn)
        path = tools.contents.path(batch.input_file_id)
        writing = asyncio.create_task(results.run())
        ended = asyncio.create_task(self._end.wait())
        try:
            async with aclosing(lines_without(path, done, max_line_bytes=tools.max_line_bytes)) as lines:
                working = asyncio.create_task(self._work_all(lines, results))
                try:
                    left_s = max(0.0, (batch.expires_at - tools.now_us()) / _SECOND_US)
                    waited = {working, ended, writing}
                    finished, _ = await asyncio.wait(waited, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                    if not finished:
                        self._settle("expired", at_once=True)
                finally:
                    await _ended(working)
            if working in finished:
                self._conclude(working)
            results.close()
            await writing
        finally:
            await _ended(ended)
            await _ended(writing)

    async def _work_all(self, lines: AsyncIterator[BatchLine], results: BatchResults) -> None:
        turn = asyncio.Lock()

        async def work() -> None:
            while not self._stop.is_set():
                if self._tools.stopping.begun:
                    self.drain()
                    return
                async with turn:
                    line = await anext(lines, None)
                if line is None:
                    return
                result = await self._tools.lines.run(self.batch, line, self._stop)
                if result is not None:
                    await results.add(result)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._tools.lines.concurrency):
                group.create_task(work())

    def _conclude(self, working: asyncio.Task[None]) -> None:
        """What the end of the work means."""
        failure = working.exception()
        if failure is None:
            self._settle("completed", at_once=True)
            return
        gone = _first_of(failure, OwnerGoneError)
        if gone is not None:
            self._problems = [LineProblem("api_key_ended", str(gone))]
        elif _first_of(failure, OSError) is not None:
            self._problems = [_no_input()]
        else:
            raise failure
        self._settle("failed", at_once=True)

    async def _finish(self, outcome: str, problems: list[LineProblem]) -> None:
        tools = self._tools
        errors = [problem.shown() for problem in problems] or None
        try:
            has_lines = self._status in {"in_progress", "finalizing"}  # others have not been checked
            files = await tools.files.write(self.batch, expired=outcome == "expired" and has_lines)
            await tools.store.end(self._lease, outcome, files=files, errors=errors)
        except LeaseLostError:
            logger.warning("batch taken over by another process", batch_id=self.batch.id)
        except (StorageError, OSError) as error:
            # It is taken up again when the lease has run out; every result is in the database.
            logger.error("batch not ended yet", batch_id=self.batch.id, error=str(error))  # noqa: TRY400 - as the words say

    async def _beat(self) -> None:
        """Hold the lease, and hear of a cancellation by another process."""
        while True:
            await asyncio.sleep(self._tools.lease_s / _BEATS_PER_LEASE)
            try:
                self._learn(await self._tools.store.renew(self._lease))
            except LeaseLostError:
                self._settle(_LEFT, at_once=True)
                return
            except StorageError as fact:
                logger.warning("lease of a batch not renewed", batch_id=self.batch.id, error=fact.message)

    def _learn(self, status: str) -> None:
        if status == "cancelling":
            self.cancel()

    def _settle(self, outcome: str, *, at_once: bool) -> None:
        """Decide what becomes of the batch; the first word counts, but an end counts for more than a pause."""
        if self._outcome is None or (self._outcome == _LEFT and outcome == _CANCELLED):
            self._outcome = outcome
        self._stop.set()
        if at_once:
            self._end.set()

    def _is_over(self) -> bool:
        """Whether the window has passed, which is so where nobody was there for a day."""
        if self.batch.expires_at > self._tools.now_us():
            return False
        self._settle("expired", at_once=True)
        return True

    async def _release(self) -> None:
        try:
            await self._tools.store.release(self._lease)
        except StorageError as fact:
            logger.warning("lease of a batch not released", batch_id=self.batch.id, error=fact.message)


def _no_input() -> LineProblem:
    return LineProblem("input_file_unavailable", "The input file cannot be read any more.")


async def _ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end, whatever that is."""
    task.cancel()
    await asyncio.wait([task])


def _first_of(failure: BaseException, kind: type[BaseException]) -> BaseException | None:
    if isinstance(failure, BaseExceptionGroup):
        return next((found for each in failure.exceptions if (found := _first_of(each, kind)) is not None), None)
    return failure if isinstance(failure, kind) else None
