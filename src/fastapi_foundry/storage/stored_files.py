"""The list of files of the API: whose they are, what for, how large, and until when."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Final, NamedTuple

from sqlalchemy import Select, and_, delete, func, insert, or_, select

from fastapi_foundry.storage.database import AsyncConnection, Database
from fastapi_foundry.storage.tables import batches, files

__all__ = ["ENDED", "FileQuery", "FileStore", "Held", "StoredFile", "insert_file"]

ENDED: Final = ("completed", "failed", "expired", "cancelled")
"""The states of a batch in which nothing happens to it any more."""
_AT_ONCE: Final = 500  # SQLite may be built to take no more than 999 values in one statement


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file. Times are microseconds since 1970.

    Attributes:
        key_id: Of its owner; ``local`` where no key was needed.
        filename: What the client calls it; names nothing on the disk.
    """

    id: str
    key_id: str
    purpose: str
    filename: str
    bytes: int
    created_at: int
    expires_at: int | None = None


class Held(NamedTuple):
    """How much somebody has."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class FileQuery:
    """Which files: those of one owner or of all, behind another one, the newest first unless ``oldest_first``.

    Attributes:
        after: Id of the file that the page before ended with.
    """

    key_id: str | None
    limit: int
    after: StoredFile | None = None
    purpose: str | None = None
    oldest_first: bool = False


async def insert_file(connection: AsyncConnection, file: StoredFile) -> None:
    """Add a file within the transaction of ``connection``."""
    await connection.execute(insert(files).values(asdict(file)))


class FileStore:
    """Every call raises ``StorageError`` when the database cannot be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, file: StoredFile, *, most: Held) -> bool:
        """Keep a file, unless its owner would have more than ``most`` then; whether it was kept."""
        async with self._database.transaction() as connection:
            held = await _held(connection, file.key_id)
            if held.files >= most.files or held.bytes + file.bytes > most.bytes:
                return False
            await insert_file(connection, file)
            return True

    async def held(self, key_id: str) -> Held:
        """How much somebody has."""
        async with self._database.reading() as connection:
            return await _held(connection, key_id)

    async def get(self, file_id: str) -> StoredFile | None:
        """The file of that id."""
        async with self._database.reading() as connection:
            row = (await connection.execute(select(files).where(files.c.id == file_id))).mappings().first()
            return None if row is None else StoredFile(**row)

    async def page(self, query: FileQuery) -> list[StoredFile]:
        """A page of files."""
        wanted = [] if query.key_id is None else [files.c.key_id == query.key_id]
        if query.purpose is not None:
            wanted.append(files.c.purpose == query.purpose)
        at, name = files.c.created_at, files.c.id
        if (last := query.after) is not None:
            if query.oldest_first:
                wanted.append(or_(at > last.created_at, and_(at == last.created_at, name > last.id)))
            else:
                wanted.append(or_(at < last.created_at, and_(at == last.created_at, name < last.id)))
        order = (at, name) if query.oldest_first else (at.desc(), name.desc())
        statement = select(files).where(*wanted).order_by(*order).limit(query.limit)
        async with self._database.reading() as connection:
            return [StoredFile(**row) for row in (await connection.execute(statement)).mappings()]

    async def delete(self, file_id: str) -> bool:
        """Forget a file, unless a batch that has not ended reads from it; whether it is forgotten."""
        async with self._database.transaction() as connection:
            free = files.c.id.not_in(_in_use())
            return (await connection.execute(delete(files).where(files.c.id == file_id, free))).rowcount > 0

    async def expire(self, now_us: int) -> list[str]:
        """Forget what has expired and no batch reads from; the ids."""
        async with self._database.transaction() as connection:
            old = select(files.c.id).where(files.c.expires_at <= now_us, files.c.id.not_in(_in_use())).limit(_AT_ONCE)
            found = list((await connection.execute(old)).scalars())
            if found:
                await connection.execute(delete(files).where(files.c.id.in_(found)))
            return found

    async def unknown(self, file_ids: Collection[str]) -> set[str]:
        """Those of the ids that no file has."""
        left, names = set(file_ids), sorted(file_ids)
        async with self._database.reading() as connection:
            for at in range(0, len(names), _AT_ONCE):
                known = select(files.c.id).where(files.c.id.in_(names[at : at + _AT_ONCE]))
                left -= set((await connection.execute(known)).scalars())
        return left


def _in_use() -> Select[tuple[str]]:
    return select(batches.c.input_file_id).where(batches.c.status.not_in(ENDED))


async def _held(connection: AsyncConnection, key_id: str) -> Held:
    query = select(func.count(), func.coalesce(func.sum(files.c.bytes), 0)).where(files.c.key_id == key_id)
    count, total = (await connection.execute(query)).one()
    return Held(int(count), int(total))
