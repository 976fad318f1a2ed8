"""What is SQLite's own: its file, its one writer, its disk."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text

from fastapi_foundry import errors
from fastapi_foundry.storage import files
from fastapi_foundry.storage.connections import connection_pool
from fastapi_foundry.storage.database import Database
from fastapi_foundry.storage.locks import exclusive_lock
from fastapi_foundry.storage.tables import server_state
from tests.storage.conftest import sqlite_address


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
async def database(home: Path):
    database = Database(sqlite_address(home))
    await database.open()
    yield database
    await database.aclose()


async def put(database: Database, name: str) -> None:
    async with database.transaction() as connection:
        await connection.execute(insert(server_state).values(name=name, value=""))


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def test_nobody_else_can_read_the_database_or_its_log(database, home):
    await put(database, "a")
    assert mode_of(home) == 0o700
    names = {path.name: mode_of(path) for path in home.iterdir()}
    assert set(names.values()) == {0o600}
    assert {"foundry.db", "foundry.db-wal", "foundry.db-shm"} <= set(names)


async def test_a_file_that_others_could_read_is_made_private(home):
    home.mkdir()
    (home / "foundry.db").touch(0o644)
    database = Database(sqlite_address(home))
    await database.open()
    assert mode_of(home / "foundry.db") == 0o600
    await database.aclose()


async def test_what_is_acknowledged_is_on_the_disk_and_references_are_kept(database):
    expected = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    async with database.transaction() as connection:
        for name, value in expected.items():
            assert (await connection.execute(text(f"PRAGMA {name}"))).scalar_one() == value


async def test_writers_take_turns_in_the_order_in_which_they_came(database):
    order: list[int] = []

    async def write(number: int) -> None:
        async with database.transaction():
            await asyncio.sleep(0)
            order.append(number)

    await asyncio.gather(*(write(number) for number in range(20)))
    assert order == list(range(20))


async def test_a_transaction_within_another_is_an_error_and_not_a_wait_for_itself(database):
    with pytest.raises(RuntimeError, match="within a transaction"):
        async with database.transaction(), database.transaction():
            raise AssertionError
    await put(database, "a")


async def test_one_who_waits_too_long_for_his_turn_is_told_when_to_come_back(home):
    database = Database(replace(sqlite_address(home), timeout_s=0.1))
    await database.open()
    async with database.transaction():
        with pytest.raises(errors.StorageUnavailableError) as caught:
            await asyncio.create_task(put(database, "a"))
    assert caught.value.retry_after_s
    await put(database, "b")
    await database.aclose()


async def test_a_full_disk_is_said_and_loses_nothing_that_was_there(database):
    await put(database, "a")
    async with database.transaction() as connection:
        pages = (await connection.execute(text("PRAGMA page_count"))).scalar_one()
        await connection.execute(text(f"PRAGMA max_page_count={pages + 4}"))
    with pytest.raises(errors.StorageFullError):
        async with database.transaction() as connection:
            await connection.execute(insert(server_state).values(name="big", value="x" * 100_000))
    async with database.reading() as connection:
        assert (await connection.execute(select(server_state.c.name))).scalars().all() == ["a"]
    await put(database, "b")


async def test_a_file_that_is_no_database_is_said_to_be_damaged(home):
    home.mkdir()
    (home / "foundry.db").write_bytes(b"no database" * 1000)
    with pytest.raises(errors.StorageCorruptError):
        await Database(sqlite_address(home)).open()
    assert (home / "foundry.db").read_bytes() == b"no database" * 1000


async def test_a_file_of_another_program_is_left_alone(home):
    home.mkdir()
    with sqlite3.connect(home / "foundry.db") as connection:
        connection.execute("CREATE TABLE theirs (x)")
    with pytest.raises(errors.StorageSchemaError, match="theirs"):
        await Database(sqlite_address(home)).open()
    with sqlite3.connect(home / "foundry.db") as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]


async def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(errors.StorageUnavailableError, match="file"):
        await Database(sqlite_address(tmp_path / "file" / "home")).open()


async def test_a_database_that_disappears_is_not_made_again_empty(database, home):
    for path in home.glob("foundry.db*"):
        path.unlink()
    later = Database(sqlite_address(home))
    with pytest.raises(errors.StorageUnavailableError):
        async with _opened_without_tables(later).reading():
            raise AssertionError
    assert not (home / "foundry.db").exists()


def _opened_without_tables(database: Database) -> Database:
    database._readers = connection_pool(database._address, "read")
    return database


async def test_closing_folds_the_log_into_the_file_and_ends_every_thread(home):
    before = set(threading.enumerate())
    database = Database(sqlite_address(home))
    await database.open()
    await put(database, "a")
    async with database.reading():
        assert [thread for thread in set(threading.enumerate()) - before if "connection" in thread.name]
    await database.aclose()
    assert not list(home.glob("*-wal"))
    for thread in set(threading.enumerate()) - before:
        if "connection" in thread.name:
            thread.join(2)
            assert not thread.is_alive()


async def test_while_it_is_restored_it_cannot_be_opened(database, home):
    await database.aclose()
    lock = exclusive_lock(files.in_use_lock(home / "foundry.db"), timeout_s=0, message="")
    with lock, pytest.raises(errors.StorageUnavailableError, match="restored"):
        await Database(sqlite_address(home)).open()
    again = Database(sqlite_address(home))
    await again.open()
    await again.aclose()


def test_it_is_found_whatever_characters_its_path_holds(tmp_path):
    async def use() -> None:
        database = Database(sqlite_address(tmp_path / "a b%20?#ü&mode=ro"))
        await database.open()
        await put(database, "a")
        await database.aclose()

    asyncio.run(use())
    assert (tmp_path / "a b%20?#ü&mode=ro" / "foundry.db").stat().st_size > 0
