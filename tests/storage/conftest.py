"""The same database twice: SQLite in a file of the test's own, and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import psycopg
import pytest

from fastapi_foundry.storage.address import DatabaseAddress
from fastapi_foundry.storage.database import Database
from tests.support.postgres import PostgresServer, shared_postgres


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop that the gateway runs on."""
    if sys.platform == "win32":
        return {"asyncio": asyncio.new_event_loop}
    import uvloop  # noqa: PLC0415 - does not exist on Windows

    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """The server of this run, with a database for each process of the tests."""
    base = tmp_path_factory.getbasetemp()
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    with shared_postgres(base.parent if worker else base) as server:
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE foundry{worker}")
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """The URL of an empty PostgreSQL database."""
    url = postgres.url("foundry" + os.environ.get("PYTEST_XDIST_WORKER", ""))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET client_min_messages = warning; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return url


def sqlite_address(home: Path, **changes: object) -> DatabaseAddress:
    values: dict[str, object] = {"path": home / "foundry.db", "backups": home / "backups"} | changes
    return DatabaseAddress(dialect="sqlite", shown=str(values["path"]), **values)  # type: ignore[arg-type]


def postgres_address(url: str, home: Path, **changes: object) -> DatabaseAddress:
    shown = "postgresql://test"
    return DatabaseAddress("postgresql", shown, path=None, backups=home / "backups", url=url, **changes)  # type: ignore[arg-type]


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> DatabaseAddress:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return sqlite_address(tmp_path / "home")
    return postgres_address(request.getfixturevalue("postgres_url"), tmp_path / "home")


@pytest.fixture
async def database(address: DatabaseAddress) -> AsyncIterator[Database]:
    """The same, open."""
    database = Database(address)
    await database.open()
    yield database
    await database.aclose()
