"""What is done to the records from time to time, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi_foundry.security.key_store import KeyStore
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.services.access import AccessPolicy, AccessService, Credentials
from fastapi_foundry.services.keys import KeyRequest, KeysService
from fastapi_foundry.services.upkeep import Upkeep
from fastapi_foundry.storage.audit import AuditEntry, AuditStore
from fastapi_foundry.storage.database import Database
from fastapi_foundry.storage.usage import UsageFigures, UsageQuery, UsageStore
from tests.support.waiting import eventually

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC).timestamp()
DAY_US = 86_400_000_000


def upkeep(database: Database, access: AccessService, *, days: int = 30) -> Upkeep:
    return Upkeep(
        access=access,
        keys=KeyStore(database),
        usage=UsageStore(database),
        audit=AuditStore(database),
        usage_days=days,
        audit_days=days,
        now=lambda: NOW,
    )


def access_to(database: Database) -> AccessService:
    return AccessService(KeyStore(database), AccessPolicy(require="always"))


async def test_records_older_than_they_are_kept_for_are_deleted_at_the_start(database: Database) -> None:
    usage, audit = UsageStore(database), AuditStore(database)
    await usage.add([(f"2026-10-{day}", "key_1", "m:1", UsageFigures(1)) for day in (21, 22, 23)])
    for days_ago in (31, 29):
        await audit.add(AuditEntry(int(NOW * 1_000_000) - days_ago * DAY_US, "cli", "key.create", f"{days_ago}"))
    keeping = upkeep(database, access_to(database))
    await keeping.start()

    async def targets() -> list[str]:
        return [entry.target for entry in await audit.entries()]

    async def pruned() -> bool:
        return await targets() == ["29"]

    await eventually(pruned)
    await keeping.aclose()
    rows = await usage.rows(UsageQuery("2000-01-01", "2100-01-01"), limit=9)
    assert [row.day for row in rows] == ["2026-10-22", "2026-10-23"]


async def test_the_end_notes_when_keys_were_last_used(database: Database) -> None:
    store, access = KeyStore(database), access_to(database)
    made = await KeysService(store).create(KeyRequest("test", frozenset({Scope.CHAT})), actor="test")
    keeping = upkeep(database, access)
    await keeping.start()
    before = (await store.keys())[0].last_used_at
    await access.principal_for(Credentials(token=made.text))
    await keeping.aclose()
    after = (await store.keys())[0].last_used_at
    assert before is None
    assert after is not None
    assert after >= made.key.created_at


async def test_a_database_that_fails_costs_no_last_use(database: Database) -> None:
    store, access = KeyStore(database), access_to(database)
    made = await KeysService(store).create(KeyRequest("test", frozenset({Scope.CHAT})), actor="test")
    await access.principal_for(Credentials(token=made.text))
    keeping = upkeep(database, access)
    access.close()
    await database.aclose()
    await keeping.aclose()  # says so in the log, and raises nothing
    await database.open()
    await keeping.note_used()
    assert (await store.keys())[0].last_used_at is not None
