"""A change is seen by the very next question, whoever made it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from fastapi_foundry.storage.database import Database, open_database
from fastapi_foundry.storage.epochs import EpochReader, raise_epoch
from tests.support.gateway import gateway_settings


async def change(database: Database, name: str = "one") -> None:
    async with database.transaction() as connection:
        await raise_epoch(database, connection, name)


async def test_every_change_by_another_process_or_this_one_is_seen_at_once(tmp_path: Path) -> None:
    settings = gateway_settings(tmp_path)
    ours, theirs = await open_database(settings), await open_database(settings)
    reader = EpochReader(ours, "one")
    seen = {await reader.read()}
    for turn in range(200):
        await change(theirs if turn % 2 else ours)
        now = await reader.read()
        assert now not in seen
        assert await reader.read() == now
        seen.add(now)
    await change(theirs, "another")
    assert await reader.read() == now
    reader.close()
    assert await reader.read() == now
    reader.close()
    await theirs.aclose()
    await ours.aclose()


async def test_it_is_seen_through_a_checkpoint_and_by_many_who_ask_at_once(tmp_path: Path) -> None:
    settings = gateway_settings(tmp_path)
    ours, theirs = await open_database(settings), await open_database(settings)
    reader = EpochReader(ours, "one")
    before = await reader.read()
    for _ in range(20):
        await change(theirs)
        async with theirs.transaction() as connection:
            await connection.execute(text("CREATE TABLE IF NOT EXISTS filler (x TEXT)"))
            await connection.execute(text("INSERT INTO filler VALUES (randomblob(200000))"))
        answers = set(await asyncio.gather(*(reader.read() for _ in range(10))))
        assert len(answers) == 1
        assert answers != {before}
        before = answers.pop()
    reader.close()
    await theirs.aclose()
    await ours.aclose()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who holds which lock")
async def test_watching_takes_no_lock_away_from_sqlite(tmp_path: Path) -> None:
    database = await open_database(gateway_settings(tmp_path))
    reader = EpochReader(database, "one")
    index = Path(f"{database.sqlite_file}-shm")

    def locks() -> list[str]:
        return [line for line in Path("/proc/locks").read_text().splitlines() if f":{index.stat().st_ino} " in line]

    await reader.read()
    held = len(locks())
    for _ in range(3):
        await reader.read()
        reader.close()
        await reader.read()
    assert held >= 1
    assert len(locks()) >= 1
    await change(database)
    first = await reader.read()
    await reader.read()
    assert reader._index is not None
    await change(database)
    assert await reader.read() != first
    reader.close()
    await database.aclose()
