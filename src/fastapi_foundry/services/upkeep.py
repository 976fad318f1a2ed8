"""What is done from time to time: noting when keys were last used, and deleting records that are old enough."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from fastapi_foundry.errors import StorageError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.security.key_store import KeyStore
from fastapi_foundry.services.access import AccessService
from fastapi_foundry.storage.audit import AuditStore
from fastapi_foundry.storage.usage import UsageStore

__all__ = ["Upkeep"]

logger = get_logger(__name__)

_NOTE_S: Final = 5.0
_DAY_S: Final = 86_400
_SECOND_US: Final = 1_000_000
_LAST_NOTE_S: Final = 5.0


class Upkeep:
    """One task beside the requests; what fails is tried again the next time.

    Args:
        access: Knows which keys have been used.
        keys: Where that is kept.
        usage: The record of use.
        audit: The audit log.
        usage_days: Days that the record of use is kept for.
        audit_days: Days that the audit log is kept for.
        now: Seconds since 1970.
    """

    def __init__(
        self,
        *,
        access: AccessService,
        keys: KeyStore,
        usage: UsageStore,
        audit: AuditStore,
        usage_days: int,
        audit_days: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._access = access
        self._keys = keys
        self._usage = usage
        self._audit = audit
        self._usage_days = usage_days
        self._audit_days = audit_days
        self._now = now
        self._used: dict[str, int] = {}
        self._pruned_at = float("-inf")
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; the database is open."""
        self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Note a last time when keys were used, and end; waits up to five seconds for the database."""
        self._stop.set()
        if self._task is not None:
            await self._task
            self._task = None
        try:
            async with asyncio.timeout(_LAST_NOTE_S):
                await self.note_used()
        except (StorageError, TimeoutError) as error:
            logger.warning("last use of keys not noted", error=str(error), keys=len(self._used))

    async def note_used(self) -> None:
        """Keep when keys were last used.

        Raises:
            StorageError: The database cannot be used; they are kept at the next time.
        """
        self._used |= self._access.take_used()
        if self._used:
            await self._keys.note_used(self._used)
            self._used = {}

    async def prune(self) -> None:
        """Delete what is older than it shall be kept.

        Raises:
            StorageError: The database cannot be used.
        """
        today = datetime.fromtimestamp(self._now(), UTC).date()
        days = await self._usage.prune((today - timedelta(days=self._usage_days)).isoformat())
        entries = await self._audit.prune(int((self._now() - self._audit_days * _DAY_S) * _SECOND_US))
        if days or entries:
            logger.info("old records deleted", usage_rows=days, audit_entries=entries)

    async def _run(self) -> None:
        while not self._stop.is_set():
            try:
                await self._once()
            except StorageError as fact:
                logger.warning("upkeep failed", error=fact.message, code=fact.code)
            # The top of a loop that has to go on, whatever this was.
            except Exception:
                logger.exception("upkeep failed")
            try:
                async with asyncio.timeout(_NOTE_S):
                    await self._stop.wait()
            except TimeoutError:
                continue

    async def _once(self) -> None:
        await self.note_used()
        if self._now() - self._pruned_at >= _DAY_S:
            await self.prune()
            self._pruned_at = self._now()
