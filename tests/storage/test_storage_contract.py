"""What holds for the database whichever kind it is."""

from __future__ import annotations

import asyncio
import traceback
from dataclasses import replace

import pytest
from sqlalchemy import delete, func, insert, select, text, update

from fastapi_foundry import errors
from fastapi_foundry.storage.database import Database
from fastapi_foundry.storage.tables import (
    api_keys,
    audit_log,
    conversation_turns,
    conversations,
    server_state,
    usage_daily,
)
from tests.storage.rows import EVERYTHING, NOW, contents, fill, turn


async def state(database: Database) -> dict[str, str]:
    async with database.reading() as connection:
        return {row.name: row.value for row in await connection.execute(select(server_state))}


async def put(database: Database, **values: str) -> None:
    async with database.transaction() as connection:
        for name, value in values.items():
            await connection.execute(insert(server_state).values(name=name, value=value))


async def test_every_value_comes_back_as_it_was_stored(database):
    async with database.transaction() as connection:
        await connection.run_sync(fill)
    async with database.reading() as connection:
        assert await connection.run_sync(contents) == EVERYTHING


async def test_an_error_in_the_block_rolls_everything_back(database):
    async def write_and_fail() -> None:
        async with database.transaction() as connection:
            await connection.execute(insert(server_state).values(name="a", value="1"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await write_and_fail()
    assert await state(database) == {}
    await put(database, a="2")
    assert await state(database) == {"a": "2"}


async def test_a_reader_sees_one_state_throughout_and_waits_for_no_writer(database):
    await put(database, a="1")
    async with database.transaction() as writer:
        await writer.execute(insert(server_state).values(name="b", value="1"))
        assert await state(database) == {"a": "1"}
        async with database.reading() as reader:
            count = select(func.count()).select_from(server_state)
            before = (await reader.execute(count)).scalar_one()
            await writer.commit()
            assert (await reader.execute(count)).scalar_one() == before == 1
    assert len(await state(database)) == 2


async def test_what_only_reads_cannot_write(database):
    with pytest.raises(errors.StorageError):
        async with database.reading() as connection:
            await connection.execute(insert(server_state).values(name="a", value="1"))
    assert await state(database) == {}


@pytest.mark.parametrize(
    "statement",
    [
        insert(server_state).values(name="a", value="conflicting"),
        insert(conversation_turns).values(turn(0, conversation_id="missing", content="conflicting")),
        insert(server_state).values(name="conflicting"),
        insert(api_keys).values(EVERYTHING["api_keys"][0] | {"id": "conflicting", "hash": "hash1"}),
    ],
    ids=["same primary key", "refers to nothing", "lacks a value", "same unique value"],
)
async def test_a_row_that_does_not_fit_is_a_conflict_that_quotes_no_value(database, statement):
    async with database.transaction() as connection:
        await connection.execute(insert(server_state).values(name="a", value="1"))
        await connection.execute(insert(api_keys).values(EVERYTHING["api_keys"][1]))
    with pytest.raises(errors.StorageConflictError) as caught:
        async with database.transaction() as connection:
            await connection.execute(statement)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.context)
    assert "conflicting" not in shown
    assert "hash1" not in shown


async def test_counters_that_are_changed_in_one_statement_miss_nothing(database):
    async def count() -> None:
        values = EVERYTHING["usage_daily"][0] | {"requests": 1}
        statement = database.insert(usage_daily).values(values)
        grown = {"requests": usage_daily.c.requests + 1}
        async with database.transaction() as connection:
            await connection.execute(
                statement.on_conflict_do_update(index_elements=["day", "key_id", "model"], set_=grown)
            )

    await asyncio.gather(*(count() for _ in range(40)))
    async with database.reading() as connection:
        assert (await connection.execute(select(usage_daily.c.requests))).scalar_one() == 40


async def test_what_was_read_for_update_stays_until_it_is_changed(database, address):
    await put(database, n="0")
    other = Database(address)
    await other.open()

    async def count(through: Database) -> None:
        async with through.transaction() as connection:
            query = select(server_state.c.value).where(server_state.c.name == "n").with_for_update()
            value = int((await connection.execute(query)).scalar_one())
            await asyncio.sleep(0)
            await connection.execute(update(server_state).values(value=str(value + 1)))

    await asyncio.gather(*(count(through) for through in (database, other) for _ in range(15)))
    await other.aclose()
    assert await state(database) == {"n": "30"}


async def test_whoever_waits_too_long_for_another_process_is_told_when_to_come_back(database, address):
    await put(database, a="1")
    other = Database(replace(address, timeout_s=0.2))
    await other.open()
    async with database.transaction() as connection:
        await connection.execute(update(server_state).values(value="2"))
        with pytest.raises(errors.StorageUnavailableError) as caught:
            async with other.transaction() as waiting:
                await waiting.execute(update(server_state).values(value="3"))
        assert caught.value.retry_after_s
    await other.aclose()
    assert await state(database) == {"a": "2"}


async def test_connections_are_bounded_and_come_back(database, address):
    small = Database(replace(address, pool_size=2, timeout_s=0.2))
    await small.open()
    async with small.reading(), small.reading():
        with pytest.raises(errors.StorageUnavailableError):
            async with small.reading():
                raise AssertionError
    assert await asyncio.gather(*(state(small) for _ in range(20))) == [{}] * 20
    await small.aclose()


async def test_a_writer_that_is_cancelled_leaves_nothing_and_holds_up_nobody(database):
    async def write(number: int) -> None:
        async with database.transaction() as connection:
            for half in ("first", "second"):
                await connection.execute(insert(server_state).values(name=f"{half} {number}", value=""))
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(write(number)) for number in range(60)]
    for task in tasks[::2]:
        await asyncio.sleep(0.001)
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError}
    names = set(await state(database))
    for number, outcome in enumerate(outcomes):
        halves = {f"first {number}", f"second {number}"} & names
        assert len(halves) in ({2} if outcome is None else {0, 2})
    assert len([outcome for outcome in outcomes if outcome is None]) >= 30


async def test_the_numbers_of_the_audit_log_rise_and_none_is_given_twice(database):
    entry = EVERYTHING["audit_log"][0] | {"id": None}
    row = {name: value for name, value in entry.items() if name != "id"}
    numbers = []
    for _ in range(3):
        async with database.transaction() as connection:
            numbers.append((await connection.execute(insert(audit_log).values(row))).inserted_primary_key[0])
            await connection.execute(delete(audit_log))
    assert numbers == sorted(set(numbers))


async def test_a_conversation_goes_with_its_turns(database):
    async with database.transaction() as connection:
        await connection.execute(insert(conversations).values(id="c", created_at=NOW, updated_at=NOW))
        await connection.execute(insert(conversation_turns), [turn(0), turn(1)])
        await connection.execute(delete(conversations))
    async with database.reading() as connection:
        assert (await connection.execute(select(conversation_turns))).all() == []


async def test_none_is_stored_as_null(database):
    async with database.transaction() as connection:
        await connection.execute(insert(conversations).values(id="c", created_at=1, updated_at=1, metadata=None))
    async with database.reading() as connection:
        query = text("SELECT count(*) FROM conversations WHERE metadata IS NULL")
        assert (await connection.execute(query)).scalar_one() == 1


async def test_closing_waits_for_what_is_under_way_and_then_refuses(database):
    async with database.transaction() as connection:
        closing = asyncio.create_task(database.aclose())
        await asyncio.sleep(0)
        await connection.execute(insert(server_state).values(name="a", value="1"))
        assert not closing.done()
    await closing
    await database.aclose()
    for use in (database.reading, database.transaction):
        with pytest.raises(errors.StorageUnavailableError, match="closed"):
            async with use():
                raise AssertionError


async def test_closing_does_not_wait_for_ever(address):
    database = Database(replace(address, timeout_s=0.1))
    await database.open()
    async with database.reading():
        await database.aclose()


async def test_what_was_committed_is_there_when_it_is_opened_again(database, address):
    await put(database, a="1")
    await database.aclose()
    again = Database(address)
    assert not (await again.open()).changed
    assert await state(again) == {"a": "1"}
    await again.aclose()
