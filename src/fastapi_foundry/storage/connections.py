"""How connections to the database are made and what is set on each; nothing is opened here.

SQLite: write-ahead log, so that readers and the writer do not wait for each other; ``synchronous=FULL``, so that what
was acknowledged survives a power cut; foreign keys; no more than ``timeout_s`` of waiting for another process.
PostgreSQL: psycopg 3; a server that has gone is noticed within half a minute, no statement runs longer than ``timeout_s``.
"""

from __future__ import annotations

import functools
import json
from typing import Any, Final, Literal

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.pool import NullPool, QueuePool

from fastapi_foundry.storage.address import POSTGRESQL, SQLITE, DatabaseAddress
from fastapi_foundry.storage.pool import ConnectionPool

__all__ = ["APPLICATION_NAME", "Mode", "connection_pool", "sync_engine"]

Mode = Literal["read", "write", "rebuild"]
"""What a connection is for. ``rebuild`` is for changes of tables: SQLite empties what refers to a table that is made
anew, unless its foreign keys are off; whoever rebuilds has them checked before the commit."""

APPLICATION_NAME: Final = "fastapi-foundry"
"""Under this name PostgreSQL lists our connections."""

_WAL_KEPT_BYTES: Final = 16 * 1024 * 1024
_KEEPALIVES: Final = {
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


def connection_pool(address: DatabaseAddress, mode: Mode) -> ConnectionPool:
    """Connections for an event loop; those of mode ``read`` refuse to write.

    SQLite has one connection of mode ``write``, since it has one writer at a time anyhow.
    """
    size = 1 if address.dialect == SQLITE and mode == "write" else address.pool_size
    engine = create_engine(
        _url(address),
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=0,
        pool_timeout=address.timeout_s,
        pool_pre_ping=address.dialect == POSTGRESQL,
        **_options(address, mode),
    )
    _listen(engine, address, mode)
    return ConnectionPool(engine, size=size, timeout_s=address.timeout_s)


def sync_engine(address: DatabaseAddress, mode: Mode = "write") -> Engine:
    """Connections for blocking work (migrations, backups, checks), closed as soon as they are given back."""
    engine = create_engine(_url(address), poolclass=NullPool, **_options(address, mode))
    _listen(engine, address, mode)
    return engine


def _options(address: DatabaseAddress, mode: Mode) -> dict[str, Any]:
    options: dict[str, Any] = {
        "connect_args": _connect_args(address),
        # A parameter can be a key's hash or a conversation, and what fails is logged.
        "hide_parameters": True,
        "json_serializer": functools.partial(json.dumps, allow_nan=False, separators=(",", ":")),
    }
    if address.dialect == POSTGRESQL and mode == "read":
        # All statements of a transaction see the same state, as they do in SQLite.
        options |= {"isolation_level": "REPEATABLE READ", "execution_options": {"postgresql_readonly": True}}
    return options


def _url(address: DatabaseAddress) -> URL:
    if address.dialect == SQLITE:
        # mode=rw: a file that is not there is an error, not an empty database with whatever permissions.
        query = {"mode": "rw", "uri": "true"}
        return URL.create("sqlite+pysqlite", database=address.file.absolute().as_uri(), query=query)
    url = make_url(address.url).set(drivername="postgresql+psycopg")
    return url if address.password is None else url.set(password=address.password)


def _connect_args(address: DatabaseAddress) -> dict[str, Any]:
    if address.dialect == SQLITE:
        # Without an isolation level the driver leaves BEGIN to us. One thread at a time uses a connection, not always the same.
        return {"timeout": address.timeout_s, "isolation_level": None, "check_same_thread": False}
    given = make_url(address.url).query
    defaults = {
        "connect_timeout": max(2, round(address.timeout_s)),
        "application_name": APPLICATION_NAME,
        **_KEEPALIVES,
    }
    return {name: value for name, value in defaults.items() if name not in given}


def _listen(engine: Engine, address: DatabaseAddress, mode: Mode) -> None:
    if address.dialect == SQLITE:
        _listen_sqlite(engine, mode)
    else:
        _listen_postgresql(engine, address)


def _listen_sqlite(engine: Engine, mode: Mode) -> None:
    pragmas = ["synchronous=FULL", f"journal_size_limit={_WAL_KEPT_BYTES}", "trusted_schema=OFF"]
    pragmas.append(f"foreign_keys={'OFF' if mode == 'rebuild' else 'ON'}")
    pragmas.append("query_only=ON" if mode == "read" else "journal_mode=WAL")

    def on_connect(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def begin(connection: Any) -> None:
        # IMMEDIATE takes the write lock at once; a later attempt to get it could only fail.
        connection.exec_driver_sql("BEGIN" if mode == "read" else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", begin)


def _listen_postgresql(engine: Engine, address: DatabaseAddress) -> None:
    limit_ms = max(1, round(address.timeout_s * 1000))

    def begin(connection: Any) -> None:
        # For this transaction alone, so that it holds behind a pooler that shares connections, too.
        connection.exec_driver_sql(
            f"SELECT set_config('lock_timeout', '{limit_ms}', true), set_config('statement_timeout', '{limit_ms}', true)"
        )

    event.listen(engine, "begin", begin)
