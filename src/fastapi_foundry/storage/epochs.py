"""Epochs: words in the database that change with a group of rows, so that what is kept in memory is known to be right.

On SQLite ``PRAGMA data_version`` tells, from shared memory and in microseconds, whether any other connection has written
since; the epoch itself is only read when one has. On PostgreSQL it is read for every question, one query for all that
are asked meanwhile.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from fastapi_foundry.storage.database import Database
from fastapi_foundry.storage.facts import as_facts
from fastapi_foundry.storage.tables import server_state

__all__ = ["EpochReader", "raise_epoch"]

_NONE: Final = ""


async def raise_epoch(database: Database, connection: AsyncConnection, name: str) -> None:
    """Change an epoch within the transaction of ``connection``, together with the rows that it stands for."""
    values = {"name": name, "value": secrets.token_hex(8)}
    insert = database.insert(server_state).values(values)
    await connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_={"value": values["value"]}))


class EpochReader:
    """One epoch, asked for often.

    Args:
        database: Open by the time of the first question.
        name: Of the epoch.
    """

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name
        self._watcher: sqlite3.Connection | None = None
        self._seen: int | None = None
        self._value = _NONE
        self._waiting: asyncio.Task[str] | None = None
        self._asking: asyncio.Task[str] | None = None

    async def read(self) -> str:
        """The epoch at this moment or later; waits for the database only where that cannot be known without.

        Raises:
            StorageError: The database cannot be used.
        """
        if self._database.sqlite_file is None:
            return await self._shared_query()
        version = self._data_version()
        if version != self._seen:
            self._value = await self._query()
            self._seen = version  # read before the query, so that nothing in between is missed
        return self._value

    def close(self) -> None:
        """Close what watches the file."""
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None

    def _data_version(self) -> int:
        # On the event loop: it reads shared memory alone, in about five microseconds, and never waits for a lock.
        with as_facts():
            if self._watcher is None:
                file = self._database.sqlite_file
                uri = f"{file.absolute().as_uri()}?mode=rw" if file is not None else ""
                self._watcher = sqlite3.connect(uri, uri=True, timeout=0.0, isolation_level=None)
                self._watcher.execute("PRAGMA query_only=ON")
            return int(self._watcher.execute("PRAGMA data_version").fetchone()[0])

    async def _shared_query(self) -> str:
        """The answer of a query that begins after this call, whoever else waits for the same."""
        if self._waiting is None:
            self._waiting = asyncio.create_task(self._query_next())
        return await asyncio.shield(self._waiting)

    async def _query_next(self) -> str:
        if self._asking is not None:
            await asyncio.wait([self._asking])
        self._asking, self._waiting = self._waiting, None
        return await self._query()

    async def _query(self) -> str:
        async with self._database.reading() as connection:
            row = (
                await connection.execute(select(server_state.c.value).where(server_state.c.name == self._name))
            ).first()
        return _NONE if row is None else str(row[0])
