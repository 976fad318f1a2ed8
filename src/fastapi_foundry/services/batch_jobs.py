"""The use cases of OpenAI's Batch API: made, asked about, cancelled; the work itself is ``batch_worker``'s."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fastapi_foundry.errors import InsufficientScopeError, InvalidInputError, ObjectNotFoundError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.security.principal import Principal
from fastapi_foundry.services.batch_lines import needed_scope
from fastapi_foundry.services.batch_worker import BatchWorker
from fastapi_foundry.services.files import FilesService
from fastapi_foundry.services.ownership import owner_of, sees, visible_owner
from fastapi_foundry.storage.batches import BatchRecord, BatchStore

__all__ = ["BatchJobsService", "BatchWanted"]

logger = get_logger(__name__)

_SECOND_US: Final = 1_000_000
_IS_CANCELLED: Final = frozenset({"cancelling", "cancelled"})


@dataclass(frozen=True, slots=True)
class BatchWanted:
    """What somebody wants to be run.

    Attributes:
        keep_s: Seconds that the results shall be kept for; None for as long as any file.
    """

    input_file_id: str
    endpoint: str
    metadata: dict[str, str] | None = None
    keep_s: int | None = None


class BatchJobsService:
    """Every call raises ``StorageError`` when the database cannot be used.

    Args:
        store: Where batches are.
        files: Where their input is.
        worker: Told of what there is to do.
        window_s: Seconds that a batch may take.
        max_open: Most batches of one owner that have not ended.
        now_us: Microseconds since 1970.
    """

    def __init__(
        self,
        store: BatchStore,
        files: FilesService,
        worker: BatchWorker,
        *,
        window_s: int,
        max_open: int,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._store = store
        self._files = files
        self._worker = worker
        self._window_s = window_s
        self._max_open = max_open
        self._now_us = now_us

    async def create(self, principal: Principal, wanted: BatchWanted) -> BatchRecord:
        """Make a batch; when this returns it will be run, whatever happens to this process.

        Raises:
            InsufficientScopeError: Its maker may not do what the lines ask for.
            ObjectNotFoundError: There is no such file, or it is somebody else's.
            InvalidInputError: The file is no input of a batch, or too many batches are open.
        """
        scope = needed_scope(wanted.endpoint)
        if not principal.may(scope):
            raise InsufficientScopeError(f"This takes the right '{scope}', which the key '{principal.name}' lacks.")
        file = await self._files.get(principal, wanted.input_file_id)
        if file.purpose != "batch":
            raise InvalidInputError(
                f"'input_file_id': The purpose of the file is '{file.purpose}'; it must be 'batch'.",
                param="input_file_id",
                code="invalid_value",
            )
        now = self._now_us()
        batch = BatchRecord(
            id=f"batch_{secrets.token_hex(16)}",
            key_id=owner_of(principal),
            endpoint=wanted.endpoint,
            input_file_id=file.id,
            status="validating",
            created_at=now,
            expires_at=now + self._window_s * _SECOND_US,
            metadata=wanted.metadata,
            output_expires_s=wanted.keep_s,
        )
        if not await self._store.add(batch, most_open=self._max_open):
            raise InvalidInputError(
                f"You may have {self._max_open} batches that have not ended; wait for one, or cancel one.",
                code="too_many_batches",
            )
        logger.info("batch created", batch_id=batch.id, endpoint=batch.endpoint, size_bytes=file.bytes)
        self._worker.wake()
        return batch

    async def get(self, principal: Principal, batch_id: str) -> BatchRecord:
        """The batch of that id.

        Raises:
            ObjectNotFoundError: There is none, or it is somebody else's.
        """
        batch = await self._store.get(batch_id)
        if batch is None or not sees(principal, batch.key_id):
            raise ObjectNotFoundError("batch", batch_id)
        return batch

    async def page(self, principal: Principal, *, limit: int, after: str | None) -> tuple[list[BatchRecord], bool]:
        """A page of somebody's batches, the newest first, and whether there are more.

        Raises:
            ObjectNotFoundError: ``after`` is no batch of his.
        """
        last = None if after is None else await self.get(principal, after)
        found = await self._store.page(visible_owner(principal), limit=limit + 1, after=last)
        return found[:limit], len(found) > limit

    async def cancel(self, principal: Principal, batch_id: str) -> BatchRecord:
        """Have a batch end; what is done already can be fetched from its files in a moment.

        Raises:
            ObjectNotFoundError: There is none, or it is somebody else's.
            InvalidInputError: It has ended, or is about to.
        """
        await self.get(principal, batch_id)
        batch = await self._store.cancel(batch_id)
        if batch is None:
            raise ObjectNotFoundError("batch", batch_id)
        if batch.status not in _IS_CANCELLED:
            raise InvalidInputError(
                f"A batch of the status '{batch.status}' cannot be cancelled.", code="batch_not_cancellable"
            )
        self._worker.cancel(batch_id)
        return batch
