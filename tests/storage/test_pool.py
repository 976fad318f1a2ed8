"""Connections in threads: what is cancelled, what is handed over, what is not imported."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import suppress

import pytest
from sqlalchemy import delete, insert, select, text

from fastapi_foundry import errors
from fastapi_foundry.storage.database import Database
from fastapi_foundry.storage.tables import server_state

# Some tenths of a second of work, on both kinds of database.
SLOW = text(
    "INSERT INTO server_state (name, value) WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 600000) "
    "SELECT 'slow', CAST(count(*) AS TEXT) FROM n"
)


async def names(database: Database) -> list[str]:
    async with database.reading() as connection:
        return list((await connection.execute(select(server_state.c.name))).scalars())


@pytest.mark.parametrize("cancellations", [1, 2])
async def test_a_statement_of_a_cancelled_writer_is_rolled_back_before_the_next_one_writes(database, cancellations):
    begun = asyncio.Event()

    async def write_slowly() -> None:
        async with database.transaction() as connection:
            begun.set()
            await connection.execute(SLOW)

    task = asyncio.create_task(write_slowly())
    await begun.wait()
    for _ in range(cancellations):
        await asyncio.sleep(0.02)
        assert not task.done()
        task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    async with database.transaction() as connection:
        await connection.execute(insert(server_state).values(name="next", value=""))
    assert await names(database) == ["next"]


async def test_whoever_is_cancelled_while_he_waits_for_his_turn_takes_none(database):
    async def write(name: str) -> None:
        async with database.transaction() as connection:
            await connection.execute(insert(server_state).values(name=name, value=""))

    async with database.transaction():
        waiting = [asyncio.create_task(write(str(number))) for number in range(8)]
        await asyncio.sleep(0.01)
        for task in waiting[::2]:
            task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert {"1", "3", "5", "7"} <= set(await names(database))
    await write("last")


async def test_all_rows_are_there_when_a_statement_is_done_whatever_follows(database):
    async with database.transaction() as connection:
        await connection.execute(insert(server_state), [{"name": str(n), "value": "v"} for n in range(1000)])
        rows = await connection.execute(select(server_state))
        gone = await connection.execute(delete(server_state))
    assert gone.rowcount == 1000
    assert len({row.name for row in rows}) == 1000


async def test_a_connection_is_of_no_use_after_its_block(database):
    async with database.reading() as connection:
        pass
    with pytest.raises(errors.StorageUnavailableError):
        await connection.execute(select(server_state))


def test_the_gateway_imports_neither_the_orm_nor_a_second_way_to_asyncio():
    heavy = ("sqlalchemy.orm", "sqlalchemy.ext.asyncio", "aiosqlite", "alembic", "psycopg", "greenlet")
    code = f"import sys, fastapi_foundry.server.running; print([name for name in {heavy!r} if name in sys.modules])"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "[]"
