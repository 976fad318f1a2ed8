"""The database, for code on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Table

from fastapi_foundry import errors
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.storage import files
from fastapi_foundry.storage.address import SQLITE, DatabaseAddress, Dialect, database_address
from fastapi_foundry.storage.connections import connection_pool
from fastapi_foundry.storage.facts import as_facts
from fastapi_foundry.storage.locks import shared_lock
from fastapi_foundry.storage.pool import AsyncConnection, ConnectionPool
from fastapi_foundry.storage.schema import SchemaReport, ensure_schema

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

    from fastapi_foundry.settings import Settings

__all__ = ["AsyncConnection", "Database", "open_database"]

logger = get_logger(__name__)


async def open_database(settings: Settings) -> Database:
    """The settings' database, open and with this program's tables.

    Raises:
        ConfigurationError: The settings cannot be followed.
        StorageError: See ``Database.open``.
    """
    database = Database(database_address(settings))
    await database.open()
    return database


class Database:
    """Transactions on SQLite or PostgreSQL, the same for both as far as is said here.

    What was acknowledged (``transaction`` was left without an error) survives a kill and a power cut. On SQLite writers
    take turns in the order in which they came. On PostgreSQL they run side by side (READ COMMITTED): change a counter in
    one statement (``insert`` has ``on_conflict_do_update``), or read with ``with_for_update()`` what you are about to
    change; SQLite needs neither, and takes both.

    Args:
        address: Where it is; nothing is opened before ``open``.
    """

    def __init__(self, address: DatabaseAddress) -> None:
        self._address = address
        self._writers: ConnectionPool | None = None
        self._readers: ConnectionPool | None = None
        self._writing: asyncio.Task[Any] | None = None
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._held = ExitStack()

    @property
    def dialect(self) -> Dialect:
        """Which kind of database it is."""
        return self._address.dialect

    @property
    def shown(self) -> str:
        """Where it is, without any secret."""
        return self._address.shown

    @property
    def sqlite_file(self) -> Path | None:
        """SQLite's file; None on PostgreSQL."""
        return self._address.path

    async def open(self) -> SchemaReport:
        """Make or migrate the tables if need be, and be ready; the event loop is not blocked.

        Raises:
            StorageSchemaError: It is newer than this program, is not ours, or could not be migrated.
            StorageUnavailableError: It cannot be reached, opened or made, or is being restored.
            StorageError: Anything else that the database says.
        """
        address = self._address
        with ExitStack() as held:
            if address.dialect == SQLITE:
                files.make_database_file(address.file)
                if not held.enter_context(shared_lock(files.in_use_lock(address.file))):
                    raise errors.StorageUnavailableError("The database is being restored from a backup.")
            report = await asyncio.to_thread(ensure_schema, address)
            self._held = held.pop_all()
        self._writers = connection_pool(address, "write")
        self._readers = connection_pool(address, "read")
        logger.info("database opened", database=address.shown, dialect=address.dialect, revision=report.after)
        return report

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes; leaving the block commits, an error in it rolls everything back.

        Waits for its turn and for a connection, ``storage.timeout_s`` for each. Keep the block short: on SQLite everybody
        else who wants to write waits for it. Errors of the database appear as facts outside the block.

        Raises:
            StorageUnavailableError: It is not to be had in time, or is closed.
            StorageConflictError: A row is there already, or refers to one that is not.
            StorageFullError: There is no space left.
            StorageError: Anything else that the database says.
        """
        if self._writing is asyncio.current_task() and self.dialect == SQLITE:
            raise RuntimeError("a transaction within a transaction of the same task would wait for itself")
        with self._counted(), as_facts():
            async with self._used(self._writers).begin() as connection:
                self._writing = asyncio.current_task()
                try:
                    yield connection
                finally:
                    self._writing = None

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only reads, and sees one state of the database throughout; nobody waits for it.

        Raises:
            StorageUnavailableError: No connection is to be had in time, or the database is closed.
            StorageError: Anything else that the database says, an attempt to write included.
        """
        with self._counted(), as_facts():
            async with self._used(self._readers).begin() as connection:
                yield connection

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """An INSERT that can say ``on_conflict_do_update`` and ``on_conflict_do_nothing``."""
        if self.dialect == SQLITE:
            from sqlalchemy.dialects.sqlite import insert as sqlite_insert  # noqa: PLC0415 - one of the two is needed

            return sqlite_insert(table)
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert  # noqa: PLC0415 - as above

        return postgresql_insert(table)

    async def aclose(self) -> None:
        """Wait for what is under way, ``storage.timeout_s`` at most, and close every connection; may be called twice."""
        writers, readers = self._writers, self._readers
        self._writers = self._readers = None
        try:
            async with asyncio.timeout(self._address.timeout_s):
                await self._idle.wait()
        except TimeoutError:
            logger.warning("database closed while in use", database=self.shown, transactions=self._active)
        for pool in (readers, writers):  # SQLite's last connection to close folds the log into the file
            if pool is not None:
                await pool.aclose()
        self._held.close()

    def _used(self, pool: ConnectionPool | None) -> ConnectionPool:
        if pool is None:
            raise errors.StorageUnavailableError("The database is closed.")
        return pool

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._active += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()
