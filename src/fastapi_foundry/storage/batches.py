"""Batches, who works on them, and the results of their lines, each kept once however often a line is run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, and_, cast, delete, func, insert, literal, or_, select, update

from fastapi_foundry.storage.address import SQLITE
from fastapi_foundry.storage.database import AsyncConnection, Database
from fastapi_foundry.storage.stored_files import ENDED, StoredFile, insert_file
from fastapi_foundry.storage.tables import batch_results, batches

__all__ = ["BatchRecord", "BatchStore", "Lease", "LeaseLostError", "LineResult", "Waiting"]

_SECOND_US: Final = 1_000_000
_MOST_CANDIDATES: Final = 500
_CANCELLABLE: Final = ("validating", "in_progress")


class LeaseLostError(Exception):
    """Somebody else works on the batch now, since this process was taken for dead."""


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One batch as it is kept. Times are microseconds since 1970.

    Attributes:
        key_id: Of its owner; ``local`` where no key was needed.
        errors: Why it failed, in OpenAI's form.
        output_expires_s: Seconds that its results are kept for; None for as long as any file.
    """

    id: str
    key_id: str
    endpoint: str
    input_file_id: str
    status: str
    created_at: int
    expires_at: int
    metadata: dict[str, str] | None = None
    errors: list[dict[str, Any]] | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    output_expires_s: int | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A batch that nobody works on."""

    id: str
    key_id: str
    cancelling: bool


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a batch, until somebody else gets one with a higher ``fence``."""

    batch_id: str
    owner: str
    fence: int


@dataclass(frozen=True, slots=True)
class LineResult:
    """What became of a line: the line of the output file (``ok``) or of the error file, as it will stand there."""

    line: int
    ok: bool
    result: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


_COLUMNS: Final = [batches.c[field.name] for field in fields(BatchRecord)]


class BatchStore:
    """Every call raises ``StorageError`` when the database cannot be used, those with a lease ``LeaseLostError``.

    Args:
        database: Open already.
        lease_s: Seconds for which a lease holds without being renewed.
        now_us: Microseconds since 1970.
    """

    def __init__(
        self, database: Database, *, lease_s: float, now_us: Callable[[], int] = lambda: time.time_ns() // 1000
    ) -> None:
        self._database = database
        self._lease_us = int(lease_s * _SECOND_US)
        self._now_us = now_us

    async def add(self, record: BatchRecord, *, most_open: int) -> bool:
        """Keep a new batch, unless its owner has ``most_open`` that have not ended; whether it was kept."""
        async with self._database.transaction() as connection:
            mine = and_(batches.c.key_id == record.key_id, batches.c.status.not_in(ENDED))
            count = (await connection.execute(select(func.count()).select_from(batches).where(mine))).scalar_one()
            if count >= most_open:
                return False
            await connection.execute(insert(batches).values(asdict(record)))
            return True

    async def get(self, batch_id: str) -> BatchRecord | None:
        """The batch of that id."""
        async with self._database.reading() as connection:
            return await _record(connection, batch_id)

    async def page(self, key_id: str | None, *, limit: int, after: BatchRecord | None = None) -> list[BatchRecord]:
        """A page of batches of one owner, or of all, the newest first."""
        at, name = batches.c.created_at, batches.c.id
        wanted = [] if key_id is None else [batches.c.key_id == key_id]
        if after is not None:
            wanted.append(or_(at < after.created_at, and_(at == after.created_at, name < after.id)))
        statement = select(*_COLUMNS).where(*wanted).order_by(at.desc(), name.desc()).limit(limit)
        async with self._database.reading() as connection:
            return [BatchRecord(**row) for row in (await connection.execute(statement)).mappings()]

    async def cancel(self, batch_id: str) -> BatchRecord | None:
        """Have a batch end, if it still can; what it is then."""
        async with self._database.transaction() as connection:
            changing = (
                update(batches)
                .where(batches.c.id == batch_id, batches.c.status.in_(_CANCELLABLE))
                .values(status="cancelling", cancelling_at=self._now_us())
            )
            await connection.execute(changing)
            return await _record(connection, batch_id)

    async def waiting(self) -> list[Waiting]:
        """Batches that nobody works on, the oldest first."""
        query = (
            select(batches.c.id, batches.c.key_id, batches.c.status)
            .where(self._is_free())
            .order_by(batches.c.created_at, batches.c.id)
            .limit(_MOST_CANDIDATES)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return [Waiting(batch_id, key_id, status == "cancelling") for batch_id, key_id, status in rows]

    async def claim(self, batch_id: str, owner: str) -> tuple[Lease, BatchRecord] | None:
        """Get the lease of a batch; None when somebody was faster."""
        taking = (
            update(batches)
            .where(batches.c.id == batch_id, self._is_free())
            .values(lease_owner=owner, lease_until=self._lease_end(), fence=batches.c.fence + 1)
        )
        async with self._database.transaction() as connection:
            if not (await connection.execute(taking)).rowcount:
                return None
            fence = (await connection.execute(select(batches.c.fence).where(batches.c.id == batch_id))).scalar_one()
            record = await _record(connection, batch_id)
        return None if record is None else (Lease(batch_id, owner, fence), record)

    async def renew(self, lease: Lease) -> str:
        """Hold the lease for longer; the batch's status."""
        async with self._database.transaction() as connection:
            return await self._hold(connection, lease)

    async def release(self, lease: Lease) -> None:
        """Let somebody else have it at once."""
        async with self._database.transaction() as connection:
            await connection.execute(update(batches).where(_is(lease)).values(lease_owner=None, lease_until=0))

    async def begin(self, lease: Lease, total: int) -> str:
        """The input is right and has so many lines: the batch is in progress, unless it has been cancelled meanwhile."""
        return await self._advance(lease, "validating", "in_progress", total=total)

    async def begin_finalizing(self, lease: Lease) -> str:
        """Every line that will be run has been."""
        return await self._advance(lease, "in_progress", "finalizing")

    async def done_lines(self, batch_id: str) -> set[int]:
        """The lines that have a result."""
        async with self._database.reading() as connection:
            query = select(batch_results.c.line).where(batch_results.c.batch_id == batch_id)
            return set((await connection.execute(query)).scalars())

    async def add_results(self, lease: Lease, results: Sequence[LineResult]) -> str:
        """Keep results, all or none, the first of each line alone; the batch's status."""
        async with self._database.transaction() as connection:
            status = await self._hold(connection, lease)
            lines = [result.line for result in results]
            there = select(batch_results.c.line).where(
                batch_results.c.batch_id == lease.batch_id, batch_results.c.line.in_(lines)
            )
            known = set((await connection.execute(there)).scalars())
            new = {result.line: result for result in reversed(results) if result.line not in known}
            if not new:
                return status
            rows = [
                {"batch_id": lease.batch_id, "line": each.line, "ok": each.ok, "result": each.result}
                for each in new.values()
            ]
            await connection.execute(insert(batch_results), rows)
            good = sum(each.ok for each in new.values())
            added = {
                "completed": good,
                "failed": len(new) - good,
                "prompt_tokens": sum(each.prompt_tokens for each in new.values()),
                "completion_tokens": sum(each.completion_tokens for each in new.values()),
            }
            counted = {name: batches.c[name] + number for name, number in added.items()}
            await connection.execute(update(batches).where(batches.c.id == lease.batch_id).values(counted))
            return status

    async def results(self, batch_id: str, *, ok: bool, after: int, limit: int) -> list[tuple[int, str]]:
        """Results behind a line, in the order of lines."""
        table = batch_results.c
        wanted = (table.batch_id == batch_id, table.ok.is_(ok), table.line > after)
        query = select(table.line, table.result).where(*wanted).order_by(table.line).limit(limit)
        async with self._database.reading() as connection:
            return [(line, result) for line, result in await connection.execute(query)]

    async def end(self, lease: Lease, status: str, *, files: Mapping[str, StoredFile], errors: Any = None) -> None:
        """The batch has ended: its files (``output_file_id``, ``error_file_id``) hold the results from now on."""
        async with self._database.transaction() as connection:
            await self._hold(connection, lease)
            for file in files.values():
                await insert_file(connection, file)
            values: dict[str, Any] = {name: file.id for name, file in files.items()}
            values |= {"status": status, f"{status}_at": self._now_us(), "errors": errors}
            values |= {"lease_owner": None, "lease_until": 0}
            await connection.execute(update(batches).where(batches.c.id == lease.batch_id).values(values))
            await connection.execute(delete(batch_results).where(batch_results.c.batch_id == lease.batch_id))

    async def prune(self, before_us: int) -> int:
        """Forget ended batches that were made before; how many those were."""
        async with self._database.transaction() as connection:
            old = delete(batches).where(batches.c.created_at < before_us, batches.c.status.in_(ENDED))
            return int((await connection.execute(old)).rowcount)

    async def _advance(self, lease: Lease, before: str, after: str, **values: object) -> str:
        async with self._database.transaction() as connection:
            status = await self._hold(connection, lease)
            if status != before:
                return status
            changed = {"status": after, f"{after}_at": self._now_us(), **values}
            await connection.execute(update(batches).where(batches.c.id == lease.batch_id).values(changed))
            return after

    async def _hold(self, connection: AsyncConnection, lease: Lease) -> str:
        renewing = update(batches).where(_is(lease)).values(lease_until=self._lease_end())
        if not (await connection.execute(renewing)).rowcount:
            raise LeaseLostError
        return str((await connection.execute(select(batches.c.status).where(_is(lease)))).scalar_one())

    def _is_free(self) -> ColumnElement[bool]:
        return and_(batches.c.status.not_in(ENDED), batches.c.lease_until <= self._now())

    def _lease_end(self) -> ColumnElement[int]:
        return self._now() + self._lease_us

    def _now(self) -> ColumnElement[int]:
        """The database's clock, where those who use it may be on several machines."""
        if self._database.dialect == SQLITE:
            return literal(self._now_us(), BigInteger)
        return cast(func.extract("epoch", func.clock_timestamp()) * _SECOND_US, BigInteger)


def _is(lease: Lease) -> ColumnElement[bool]:
    return and_(batches.c.id == lease.batch_id, batches.c.lease_owner == lease.owner, batches.c.fence == lease.fence)


async def _record(connection: AsyncConnection, batch_id: str) -> BatchRecord | None:
    row = (await connection.execute(select(*_COLUMNS).where(batches.c.id == batch_id))).mappings().first()
    return None if row is None else BatchRecord(**row)
