"""The output file and the error file of a batch, written when it ends: whole, in the order of its lines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from fastapi_foundry.services.batch_input import lines_without
from fastapi_foundry.services.files import new_file_id
from fastapi_foundry.storage.batches import BatchRecord, BatchStore
from fastapi_foundry.storage.file_contents import FileContents
from fastapi_foundry.storage.stored_files import StoredFile
from fastapi_foundry.wire.batches import failed_line

__all__ = ["BatchFiles"]

_READ_AT_ONCE: Final = 200
_SECOND_US: Final = 1_000_000
_DAY_S: Final = 86_400
_EXPIRED: Final = "This request could not be run before the completion window expired."


class BatchFiles:
    """Writes what has become of a batch's lines.

    Args:
        store: Where the results are.
        contents: The disk.
        days: That the files are kept for, unless the batch says otherwise.
        max_line_bytes: Of the input.
        now_us: Microseconds since 1970.
    """

    def __init__(
        self,
        store: BatchStore,
        contents: FileContents,
        *,
        days: int,
        max_line_bytes: int,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._store = store
        self._contents = contents
        self._keep_s = days * _DAY_S
        self._max_line_bytes = max_line_bytes
        self._now_us = now_us

    async def write(self, batch: BatchRecord, *, expired: bool) -> dict[str, StoredFile]:
        """Write the files that there is something for, by the batch's names for them.

        The caller puts them into the list of files; until then they are nobody's, and are swept away after an hour.

        Args:
            expired: Lines without a result stand in the error file.

        Raises:
            StorageError: The database or the disk cannot be used.
            OSError: The input cannot be read, which is needed for ``expired`` alone.
        """
        written: dict[str, StoredFile] = {}
        for name, ok, lines in (
            ("output_file_id", True, self._results(batch, ok=True)),
            ("error_file_id", False, self._results(batch, ok=False)),
        ):
            left = self._without_result(batch) if expired and not ok else None
            file = await self._written(batch, "output" if ok else "error", lines, left)
            if file is not None:
                written[name] = file
        return written

    async def _written(
        self, batch: BatchRecord, kind: str, lines: AsyncIterator[str], more: AsyncIterator[str] | None
    ) -> StoredFile | None:
        file_id = new_file_id()
        content = await asyncio.to_thread(self._contents.new, file_id)
        try:
            for source in (lines, more):
                if source is not None:
                    async for text in source:
                        await asyncio.to_thread(content.write, text.encode())
            if not content.size_bytes:
                return None
            await asyncio.to_thread(content.keep)
        finally:
            await asyncio.to_thread(content.drop)
        now, name = self._now_us(), f"{batch.id}_{kind}.jsonl"
        ends = now + (batch.output_expires_s or self._keep_s) * _SECOND_US
        return StoredFile(file_id, batch.key_id, "batch_output", name, content.size_bytes, now, ends)

    async def _results(self, batch: BatchRecord, *, ok: bool) -> AsyncIterator[str]:
        after = 0
        while rows := await self._store.results(batch.id, ok=ok, after=after, limit=_READ_AT_ONCE):
            yield "".join(f"{text}\n" for _, text in rows)
            after = rows[-1][0]

    async def _without_result(self, batch: BatchRecord) -> AsyncIterator[str]:
        done = await self._store.done_lines(batch.id)
        path = self._contents.path(batch.input_file_id)
        async for line in lines_without(path, done, max_line_bytes=self._max_line_bytes):
            yield failed_line(batch.id, line, code="batch_expired", message=_EXPIRED) + "\n"
