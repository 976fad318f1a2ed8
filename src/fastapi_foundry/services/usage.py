"""The record of use: figures gathered in memory and written every 0.75 seconds, so that no request waits for the database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final, NamedTuple

from fastapi_foundry.errors import StorageError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.services.budgets import Budgets
from fastapi_foundry.storage.usage import UsageFigures, UsageQuery, UsageRow, UsageStore

__all__ = ["LOCAL_KEY", "OTHER_MODELS", "UNKNOWN_MODEL", "UsageService", "Use"]

logger = get_logger(__name__)

LOCAL_KEY: Final = "local"
"""What stands for a key where none was needed."""
UNKNOWN_MODEL: Final = "(unknown)"
"""What stands for a model that there is not, whatever the request called it."""
OTHER_MODELS: Final = "(other)"

_FLUSH_S: Final = 0.75
_LAST_FLUSH_S: Final = 5.0
_COMPLAIN_S: Final = 60.0
_MOST_PENDING: Final = 10_000
_DAY_S: Final = 86_400


class Use(NamedTuple):
    """What one request used.

    Attributes:
        key_id: None where no key was needed.
        duration_s: From its arrival at the model to its end.
        failed: Whether it ended with an error.
    """

    key_id: str | None
    model: str
    prompt_tokens: int
    completion_tokens: int
    duration_s: float
    failed: bool


class UsageService:
    """Records what was used, and knows what has been.

    A kill loses what was recorded since the last write, less than a second as long as the database keeps up. While
    it cannot be written the figures stay in memory; beyond 10,000 different ones they are summed up as ``(other)``.

    Args:
        store: Where the record is kept.
        now: Seconds since 1970.
        flush_s: Seconds from one write to the next.
    """

    def __init__(self, store: UsageStore, *, now: Callable[[], float] = time.time, flush_s: float = _FLUSH_S) -> None:
        self.budgets: Final = Budgets(now=now)
        self._store = store
        self._now = now
        self._flush_s = flush_s
        self._pending: dict[tuple[str, str, str], UsageFigures] = {}
        self._begins = self._ends = 0.0  # of today, in seconds since 1970
        self._today = ""
        self._one_at_a_time = asyncio.Lock()
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._complained_at = float("-inf")

    async def start(self) -> None:
        """Begin to write; the database is open."""
        self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Write what is left, and end; waits up to five seconds for the database."""
        self._stop.set()
        if self._task is not None:
            await self._task
            self._task = None
        try:
            async with asyncio.timeout(_LAST_FLUSH_S):
                await self.flush()
        except (StorageError, TimeoutError) as error:
            lost = _sum(self._pending.values())
            tokens = lost.prompt_tokens + lost.completion_tokens
            logger.error("usage lost", error=str(error), requests=lost.requests, tokens=tokens)  # noqa: TRY400 - no trace: the fact says it

    def record(self, use: Use) -> None:
        """Note what a request used; takes some microseconds and never waits."""
        key_id, model, prompt_tokens, completion_tokens, duration_s, failed = use
        key_id, now = key_id or LOCAL_KEY, self._now()
        key = (self._today if self._begins <= now < self._ends else self._turn(now), key_id, model)
        if (pending := self._pending.get(key)) is not None:
            pending.requests += 1
            pending.failures += failed
            pending.prompt_tokens += prompt_tokens
            pending.completion_tokens += completion_tokens
            pending.duration_s += duration_s
        else:
            self._note(key, UsageFigures(1, int(failed), prompt_tokens, completion_tokens, duration_s))
        self.budgets.add(key_id, prompt_tokens + completion_tokens, now)

    async def flush(self) -> None:
        """Write everything that has been recorded, and read what other processes did.

        Raises:
            StorageError: The database cannot be used; nothing recorded is lost by that.
        """
        # In a task of its own: somebody who leaves must not take the figures of all along.
        task = asyncio.create_task(self._flush())
        task.add_done_callback(_seen)
        await asyncio.shield(task)

    async def watch(self, *names: str) -> None:
        """Let the budgets know what these have used, from now on.

        Raises:
            StorageError: That cannot be found out.
        """
        for name in names:
            self.budgets.watch(name)
        await self.flush()

    async def rows(self, query: UsageQuery, *, limit: int) -> list[UsageRow]:
        """What has been used up to this moment; at most ``limit`` rows.

        Raises:
            StorageError: The database cannot be used.
        """
        await self.flush()
        return await self._store.rows(query, limit=limit)

    async def _run(self) -> None:
        while not self._stop.is_set():
            try:
                async with asyncio.timeout(self._flush_s):
                    await self._stop.wait()
            except TimeoutError:
                await self._flush_if_needed()

    async def _flush_if_needed(self) -> None:
        if not self._pending and not self.budgets.in_use:
            return
        try:
            await self.flush()
        except StorageError as fact:
            if self._now() - self._complained_at >= _COMPLAIN_S:
                self._complained_at = self._now()
                logger.warning("usage not written yet", error=fact.message, code=fact.code, rows=len(self._pending))
        # The top of a loop that has to go on, whatever this was.
        except Exception:
            logger.exception("usage not written yet")

    async def _flush(self) -> None:
        async with self._one_at_a_time:
            taken, self._pending = self._pending, {}
            written = False
            try:
                await self.budgets.exchange(self._store, ((*key, figures) for key, figures in taken.items()))
                written = True
            finally:
                if not written:
                    for key, figures in taken.items():
                        self._note(key, figures)
            await self.budgets.read_past(self._store)

    def _note(self, key: tuple[str, str, str], figures: UsageFigures) -> None:
        pending = self._pending.get(key)
        if pending is None and len(self._pending) >= _MOST_PENDING:
            key = (key[0], OTHER_MODELS, OTHER_MODELS)
            pending = self._pending.get(key)
        if pending is None:
            self._pending[key] = figures
        else:
            pending.add(figures)

    def _turn(self, now: float) -> str:
        """Begin another day, and its name."""
        self._begins = now // _DAY_S * _DAY_S
        self._ends = self._begins + _DAY_S
        self._today = datetime.fromtimestamp(now, UTC).date().isoformat()
        return self._today


def _sum(figures: Iterable[UsageFigures]) -> UsageFigures:
    total = UsageFigures()
    for each in figures:
        total.add(each)
    return total


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # whoever waits is told; nobody else needs to be
