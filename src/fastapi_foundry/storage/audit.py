"""The record of administrative acts: written in the same transaction as the act, never changed afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import delete, insert, select

from fastapi_foundry.storage.database import AsyncConnection, Database
from fastapi_foundry.storage.tables import audit_log

__all__ = ["AuditEntry", "AuditStore", "write_entry"]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One act.

    Attributes:
        at: Microseconds since 1970, UTC.
        actor: Id of the key behind it; ``local`` for somebody on this machine, ``cli`` for the command line.
        action: Such as ``key.create``.
        target: What it was done to: a key's id, a model's.
        detail: What else is worth knowing; never a secret.
        address: Of the client, as the server sees it.
        request_id: Of the request, where it was one.
    """

    at: int
    actor: str
    action: str
    target: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    address: str = ""
    request_id: str = ""


async def write_entry(connection: AsyncConnection, entry: AuditEntry) -> None:
    """Add ``entry`` within the transaction of ``connection``."""
    await connection.execute(
        insert(audit_log).values(
            at=entry.at,
            actor=entry.actor,
            action=entry.action,
            target=entry.target,
            detail=dict(entry.detail),
            address=entry.address,
            request_id=entry.request_id,
        )
    )


class AuditStore:
    """Every call raises ``StorageError`` when the database cannot be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, entry: AuditEntry) -> None:
        """Write an entry of its own, for an act that changes nothing in the database."""
        async with self._database.transaction() as connection:
            await write_entry(connection, entry)

    async def entries(self, *, since: int = 0, limit: int = 100) -> list[AuditEntry]:
        """The newest ``limit`` entries at or after ``since``, the newest first."""
        columns = [column for column in audit_log.c if column.name != "id"]
        query = select(*columns).where(audit_log.c.at >= since).order_by(audit_log.c.id.desc()).limit(limit)
        async with self._database.reading() as connection:
            return [AuditEntry(**row) for row in (await connection.execute(query)).mappings()]

    async def prune(self, before: int) -> int:
        """Delete what is older than ``before``; how many entries those were."""
        async with self._database.transaction() as connection:
            return int((await connection.execute(delete(audit_log).where(audit_log.c.at < before))).rowcount)
