"""The use cases of files: kept on the disk under their ids, listed in the database, each its owner's alone."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi_foundry.errors import InvalidInputError, ObjectNotFoundError, OverloadedError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.security.principal import Principal
from fastapi_foundry.services.ownership import owner_of, sees, visible_owner
from fastapi_foundry.services.uploads import Upload, UploadForm
from fastapi_foundry.storage.file_contents import FileContents, NewContent
from fastapi_foundry.storage.stored_files import FileQuery, FileStore, Held, StoredFile
from fastapi_foundry.wire.multipart import Data, PartBegin, PartEnd

__all__ = ["FileLimits", "FilesService", "new_file_id"]

logger = get_logger(__name__)

_MOST_UPLOADS: Final = 32
_SECOND_US: Final = 1_000_000
_DAY_S: Final = 86_400
_STRAY_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class FileLimits:
    """How much is kept.

    Attributes:
        max_file_bytes: Of one file.
        most: Of one owner.
        days: That a file is kept for.
    """

    max_file_bytes: int
    most: Held
    days: int


class FilesService:
    """Every call raises ``StorageError`` when the database or the disk cannot be used.

    Args:
        store: The list.
        contents: The disk.
        now_us: Microseconds since 1970.
    """

    def __init__(
        self,
        store: FileStore,
        contents: FileContents,
        limits: FileLimits,
        *,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._store = store
        self._contents = contents
        self._limits = limits
        self._now_us = now_us
        self._arriving: Counter[str] = Counter()
        self._uploads = 0

    async def upload(self, principal: Principal, parts: AsyncIterable[PartBegin | Data | PartEnd]) -> StoredFile:
        """Take a file as it arrives; when this returns it survives whatever happens to this process.

        Raises:
            InvalidInputError: The form is not what it should be, or its sender has too many files.
            BodyTooLargeError: The file is too large.
            OverloadedError: Too many files arrive at the same time.
        """
        owner = owner_of(principal)
        held = await self._store.held(owner)
        self._check(held, 0)
        file_id = new_file_id()
        with self._counted(owner) as count:

            def room_for(size: int) -> None:
                count(size)
                self._check(held, self._arriving[owner])

            content = await asyncio.to_thread(self._contents.new, file_id)
            try:
                upload = Upload(content, max_bytes=self._limits.max_file_bytes, count=room_for)
                async for part in parts:
                    await upload.take(part)
                return await self._keep(file_id, owner, content, upload.form())
            finally:
                await asyncio.to_thread(content.drop)

    async def get(self, principal: Principal, file_id: str) -> StoredFile:
        """The file of that id.

        Raises:
            ObjectNotFoundError: There is none, or it is somebody else's.
        """
        file = await self._store.get(file_id)
        if file is None or not sees(principal, file.key_id) or self._is_over(file):
            raise ObjectNotFoundError("file", file_id)
        return file

    async def path(self, principal: Principal, file_id: str) -> tuple[StoredFile, Path]:
        """The file of that id and where its content is.

        Raises:
            ObjectNotFoundError: There is none, or it is somebody else's.
        """
        file = await self.get(principal, file_id)
        if not await asyncio.to_thread(self._contents.exists, file_id):
            logger.error("content of a file is missing", file_id=file_id)
            raise ObjectNotFoundError("file", file_id)
        return file, self._contents.path(file_id)

    async def page(
        self, principal: Principal, *, limit: int, after: str | None, purpose: str | None, oldest_first: bool
    ) -> tuple[list[StoredFile], bool]:
        """A page of somebody's files, and whether there are more.

        Raises:
            ObjectNotFoundError: ``after`` is no file of his.
        """
        last = None if after is None else await self.get(principal, after)
        query = FileQuery(visible_owner(principal), limit + 1, last, purpose, oldest_first)
        found = [file for file in await self._store.page(query) if not self._is_over(file)]
        return found[:limit], len(found) > limit

    async def delete(self, principal: Principal, file_id: str) -> None:
        """Delete a file with its content.

        Raises:
            ObjectNotFoundError: There is none, or it is somebody else's.
            InvalidInputError: A batch that has not ended reads from it.
        """
        await self.get(principal, file_id)
        if not await self._store.delete(file_id):
            raise InvalidInputError(
                f"A batch that has not ended reads from the file '{file_id}'; cancel it first.", code="file_in_use"
            )
        await asyncio.to_thread(self._contents.delete, file_id)
        logger.info("file deleted", file_id=file_id)

    async def tidy(self) -> None:
        """Delete what has expired, and content that no row knows of any more."""
        now = self._now_us()
        while expired := await self._store.expire(now):
            await asyncio.to_thread(self._contents.delete_all, expired)
            logger.info("expired files deleted", files=len(expired))
        # A kill between the content and its row leaves content alone.
        stray = await asyncio.to_thread(self._contents.stray, older_than_s=_STRAY_S)
        if stray:
            unknown = await self._store.unknown(stray)
            await asyncio.to_thread(self._contents.delete_all, unknown)

    async def _keep(self, file_id: str, owner: str, content: NewContent, form: UploadForm) -> StoredFile:
        await asyncio.to_thread(content.keep)
        now, keep_s = self._now_us(), form.keep_s or self._limits.days * _DAY_S
        expires_at = now + keep_s * _SECOND_US
        file = StoredFile(file_id, owner, form.purpose, form.filename, content.size_bytes, now, expires_at)
        kept = False
        try:
            kept = await self._store.add(file, most=self._limits.most)
        finally:
            if not kept:
                await asyncio.to_thread(self._contents.delete, file_id)
        if not kept:
            raise self._too_much()
        logger.info("file uploaded", file_id=file_id, purpose=file.purpose, size_bytes=file.bytes)
        return file

    def _check(self, held: Held, arriving: int) -> None:
        most = self._limits.most
        if held.files >= most.files or held.bytes + arriving > most.bytes:
            raise self._too_much()

    def _too_much(self) -> InvalidInputError:
        most = self._limits.most
        return InvalidInputError(
            f"You may keep {most.files} files with {most.bytes} bytes in all; delete some first.",
            code="file_quota_exceeded",
        )

    def _is_over(self, file: StoredFile) -> bool:
        return file.expires_at is not None and file.expires_at <= self._now_us()

    @contextmanager
    def _counted(self, owner: str) -> Iterator[Callable[[int], None]]:
        """What arrives at the same time counts as if it were there already."""
        if self._uploads >= _MOST_UPLOADS:
            raise OverloadedError("Too many files arrive at the same time; please try again in a moment.")
        self._uploads += 1
        own = 0

        def count(size: int) -> None:
            nonlocal own
            own += size
            self._arriving[owner] += size

        try:
            yield count
        finally:
            self._uploads -= 1
            self._arriving[owner] -= own
            if not self._arriving[owner]:
                del self._arriving[owner]


def new_file_id() -> str:
    """An id that nobody has and nobody can guess."""
    return f"file-{secrets.token_hex(16)}"
