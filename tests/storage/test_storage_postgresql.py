"""What is PostgreSQL's own: a server that goes away, refuses, or is shared."""

from __future__ import annotations

import traceback
from dataclasses import replace

import psycopg
import pytest
from sqlalchemy import insert, select, text

from fastapi_foundry import errors
from fastapi_foundry.storage.connections import APPLICATION_NAME
from fastapi_foundry.storage.database import Database
from fastapi_foundry.storage.tables import server_state
from tests.storage.conftest import postgres_address
from tests.support.postgres import GUARDED


@pytest.fixture
async def database(postgres_url, tmp_path):
    database = Database(postgres_address(postgres_url, tmp_path))
    await database.open()
    yield database
    await database.aclose()


def end_connections(url: str) -> int:
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
    with psycopg.connect(url, autocommit=True) as connection:
        return len(connection.execute(query, [APPLICATION_NAME]).fetchall())


async def test_a_server_that_came_back_is_used_again_without_an_error(database, postgres_url):
    async with database.transaction() as connection:
        await connection.execute(insert(server_state).values(name="a", value="1"))
    assert end_connections(postgres_url)
    for _ in range(2):
        async with database.reading() as connection:
            assert (await connection.execute(select(server_state.c.name))).scalars().all() == ["a"]
        async with database.transaction() as connection:
            await connection.execute(select(server_state))


async def test_a_server_that_goes_during_a_transaction_is_said_to_be_away(database, postgres_url):
    async def write_and_lose() -> None:
        async with database.transaction() as connection:
            await connection.execute(insert(server_state).values(name="a", value="1"))
            end_connections(postgres_url)
            await connection.execute(select(server_state))

    with pytest.raises(errors.StorageUnavailableError) as caught:
        await write_and_lose()
    assert caught.value.retry_after_s
    async with database.reading() as connection:
        assert (await connection.execute(select(server_state))).all() == []


async def test_a_statement_that_takes_too_long_is_ended(postgres_url, tmp_path):
    database = Database(replace(postgres_address(postgres_url, tmp_path), timeout_s=0.2))
    await database.open()
    with pytest.raises(errors.StorageUnavailableError):
        async with database.reading() as connection:
            await connection.execute(text("SELECT pg_sleep(20)"))
    await database.aclose()


@pytest.fixture
def guarded(postgres, postgres_url):
    """A URL whose user is asked for a password, without one."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP ROLE IF EXISTS {GUARDED}")
        connection.execute(f"CREATE ROLE {GUARDED} LOGIN SUPERUSER PASSWORD 'ge/he@im%'")
    database = postgres_url.partition("@/")[2].partition("?")[0]
    return lambda password: postgres.url(database, user=GUARDED, password=password)


async def test_a_wrong_password_is_refused_and_no_password_is_repeated(guarded, tmp_path):
    address = postgres_address(guarded("falsch"), tmp_path)
    with pytest.raises(errors.StorageUnavailableError) as caught:
        await Database(address).open()
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.context) + repr(address)
    assert "falsch" not in shown


@pytest.mark.parametrize("where", ["url", "file"])
async def test_a_password_is_taken_from_the_url_or_from_its_file(guarded, tmp_path, where):
    in_url = guarded("ge/he@im%")
    in_file = replace(postgres_address(guarded("falsch"), tmp_path), password="ge/he@im%")
    database = Database(postgres_address(in_url, tmp_path) if where == "url" else in_file)
    await database.open()
    await database.aclose()


async def test_a_server_that_is_not_there_is_said_to_be_away(tmp_path):
    address = postgres_address(f"postgresql://u:geheim@/db?host={tmp_path}", tmp_path)
    with pytest.raises(errors.StorageUnavailableError) as caught:
        await Database(address).open()
    assert "geheim" not in "".join(traceback.format_exception(caught.value)) + repr(caught.value.context)


async def test_tables_of_another_program_are_left_alone(postgres_url, tmp_path):
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE theirs (x int); CREATE TABLE alembic_version (version_num text)")
    database = Database(postgres_address(postgres_url, tmp_path))
    await database.open()
    async with database.reading() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM theirs"))).scalar_one() == 0
    await database.aclose()


async def test_a_table_of_another_program_in_our_place_is_left_alone(postgres_url, tmp_path):
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE sessions (x int)")
    with pytest.raises(errors.StorageSchemaError, match="sessions"):
        await Database(postgres_address(postgres_url, tmp_path)).open()
