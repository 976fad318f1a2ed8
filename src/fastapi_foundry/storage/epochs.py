"""Epochs: words in the database that change with a group of rows, so that what is kept in memory is known to be right.

On SQLite the head of the WAL index (the first 48 bytes of ``foundry.db-shm``: a counter of transactions, the last frame,
salts; https://www.sqlite.org/walformat.html) changes with every commit, before that is acknowledged. Mapped into memory it
is compared in a fraction of a microsecond; only when it differs, or where it cannot be mapped, ``PRAGMA data_version``
is asked, and the row itself only when that has changed as well. On PostgreSQL it is read for every question, one query
for all that are asked meanwhile.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import secrets
import sqlite3
from pathlib import Path
from typing import Final

from sqlalchemy import select

from fastapi_foundry.storage.database import AsyncConnection, Database
from fastapi_foundry.storage.facts import as_facts
from fastapi_foundry.storage.tables import server_state

__all__ = ["EpochReader", "raise_epoch"]

_NONE: Final = ""
_HEAD_BYTES: Final = 48
# Mapped indexes by device and inode, never closed: closing any descriptor of a file drops all locks that the process has
# on it, SQLite's own among them. A process has one database, so this is one entry.
_mapped: Final[dict[tuple[int, int], mmap.mmap]] = {}


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
        self._index: mmap.mmap | None = None
        self._looked_for_index = False
        self._head = b""
        self._seen: int | None = None
        self._value = _NONE
        self._waiting: asyncio.Task[str] | None = None
        self._asking: asyncio.Task[str] | None = None

    def known(self) -> str | None:
        """The epoch at this moment or later, where that can be told without waiting; else None.

        On SQLite it can: after a commit of anything the row is read, which takes some 50 microseconds.

        Raises:
            StorageError: The database cannot be used.
        """
        if self._head and self._index is not None and self._index[:_HEAD_BYTES] == self._head:
            return self._value
        if self._database.sqlite_file is None:
            return None
        head = self._read_head()  # first of all: a commit after this makes the next head another one
        version = self._data_version()  # opens the watcher, whose connection keeps the index in its place
        if version != self._seen:
            value = self._value_now()
            if value is None:
                return None
            self._value, self._seen = value, version  # the version was read first: nothing in between is missed
        self._head = head
        return self._value

    async def read(self) -> str:
        """The epoch at this moment or later; waits for the database only where that cannot be known without.

        Raises:
            StorageError: The database cannot be used.
        """
        value = self.known()
        return await self._shared_query() if value is None else value

    def close(self) -> None:
        """Close what watches the file."""
        self._index, self._looked_for_index, self._head = None, False, b""
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None

    def _read_head(self) -> bytes:
        """The head of the index of SQLite's log; empty before the watcher is open, and where it is not to be found."""
        file = self._database.sqlite_file
        if not self._looked_for_index and self._watcher is not None and file is not None:
            self._looked_for_index = True
            self._index = _mapped_index(Path(f"{file}-shm"))
        return b"" if self._index is None else self._index[:_HEAD_BYTES]

    def _data_version(self) -> int:
        # On the event loop: it reads shared memory alone, and never waits for a lock. It takes some 40 microseconds in a
        # busy process, since the interpreter's lock is given up around it.
        with as_facts():
            if self._watcher is None:
                file = self._database.sqlite_file
                uri = f"{file.absolute().as_uri()}?mode=rw" if file is not None else ""
                self._watcher = sqlite3.connect(uri, uri=True, timeout=0.0, isolation_level=None)
                self._watcher.execute("PRAGMA query_only=ON")
            return int(self._watcher.execute("PRAGMA data_version").fetchone()[0])

    def _value_now(self) -> str | None:
        """The epoch by the watcher's own connection, on the event loop: a page or two that are in memory as a rule.

        None where somebody recovers the log at this moment: that is waited for elsewhere.
        """
        assert self._watcher is not None  # noqa: S101 - opened by ``_data_version``
        try:
            row = self._watcher.execute("SELECT value FROM server_state WHERE name = ?", (self._name,)).fetchone()
        except sqlite3.OperationalError:
            return None
        return _NONE if row is None else str(row[0])

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


def _mapped_index(file: Path) -> mmap.mmap | None:
    """The index of a database's log in memory, for as long as this process lives; None where it cannot be mapped."""
    if os.name == "nt":
        return None
    try:
        found = file.stat()
        key = (found.st_dev, found.st_ino)
        if key not in _mapped:
            # The descriptor stays open, see above.
            _mapped[key] = mmap.mmap(os.open(file, os.O_RDONLY | os.O_CLOEXEC), 0, access=mmap.ACCESS_READ)
        return _mapped[key]
    except (OSError, ValueError):
        return None
