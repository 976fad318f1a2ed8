"""Put a backup in the place of the database; blocks. Nobody else may have the database open meanwhile.

Everything is verified before anything is replaced, and what was there is kept.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, inspect, text

from fastapi_foundry import errors
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.storage import files, migrations
from fastapi_foundry.storage.address import SQLITE, DatabaseAddress
from fastapi_foundry.storage.check import count_rows, damages, departures
from fastapi_foundry.storage.connections import APPLICATION_NAME, sync_engine
from fastapi_foundry.storage.dump import DumpHeader, is_dump, load_dump, verify_dump, write_dump
from fastapi_foundry.storage.facts import as_facts
from fastapi_foundry.storage.locks import exclusive_lock
from fastapi_foundry.storage.schema import OURS, planned_steps, revision_of, schema_change
from fastapi_foundry.storage.tables import metadata, server_state

__all__ = ["RestoreReport", "restore"]

logger = get_logger(__name__)

_IN_USE: Final = (
    "The database is in use, and what is in use cannot be replaced. Stop every gateway that uses it, then try again."
)
_LOGS: Final = ("-wal", "-shm")


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was restored.

    Attributes:
        rows: How many there are now, by table.
        kept: What was there before; None where that was nothing.
    """

    rows: dict[str, int]
    kept: Path | None


def restore(address: DatabaseAddress, source: Path, *, force: bool = False) -> RestoreReport:
    """Replace the database by a backup.

    Args:
        source: What ``back_up`` wrote: SQLite's file (into SQLite alone), or lines of JSON.
        force: Whether a database that holds something may be replaced.

    Raises:
        InvalidInputError: There is no such backup, or it is of the wrong kind; or the database holds something and
            ``force`` was not given.
        StorageCorruptError: The backup is damaged.
        StorageSchemaError: It is not ours, or was made by a newer version.
        StorageUnavailableError: The database is in use, or cannot be reached or written.
    """
    try:
        dumped = is_dump(source)
        if not dumped and not files.is_sqlite_file(source):
            raise errors.InvalidInputError(f"{source} is no backup of FastAPI Foundry.", param="file")
        header = verify_dump(source) if dumped else None
    except OSError as error:
        raise errors.InvalidInputError(f"{source} cannot be read: {error.strerror or error}", param="file") from error
    with as_facts():
        if address.dialect == SQLITE:
            report = _into_sqlite(address, source, header, force=force)
        elif header is not None:
            report = _into_postgresql(address, source, header, force=force)
        else:
            raise errors.InvalidInputError(
                "A SQLite file can be restored into SQLite alone. Make a backup whose name ends in .jsonl, and restore that.",
                param="file",
            )
    logger.info("database restored", database=address.shown, file=str(source), kept=str(report.kept or ""))
    return report


def _into_sqlite(address: DatabaseAddress, source: Path, header: DumpHeader | None, *, force: bool) -> RestoreReport:
    path = address.file
    files.make_private_directory(path.parent)
    with (
        exclusive_lock(files.in_use_lock(path), timeout_s=0, message=_IN_USE),
        exclusive_lock(files.schema_lock(path), timeout_s=0, message=_IN_USE),
    ):
        occupied = path.exists() and _holds_something(address)
        if occupied and not force:
            raise _not_empty(address)
        with files.written_whole(path) as temporary:
            try:
                rows = _prepared(replace(address, path=temporary), source, header)
            finally:
                _remove_logs(temporary)
            kept = _keep_file(address) if occupied else None
            _remove_logs(path)
    return RestoreReport(rows, kept)


def _prepared(address: DatabaseAddress, source: Path, header: DumpHeader | None) -> dict[str, int]:
    """Make a new file that holds the backup, at this program's revision and checked; its rows by table."""
    if header is None:
        files.copy_sqlite(source, address.file)
    engine = sync_engine(address, "rebuild")
    with engine.begin() as connection:
        if header is not None:
            load_dump(connection, source, header)
        elif revision_of(connection) is None:
            raise errors.StorageSchemaError(f"{source} is not a database of FastAPI Foundry.")
        elif revision_of(connection) != migrations.HEAD:
            planned_steps(connection, OURS, to=migrations.HEAD)()
        rows = _verified(connection, source)
    with closing(sqlite3.connect(address.file, isolation_level=None)) as plain:
        plain.execute("PRAGMA journal_mode=DELETE")
    return rows


def _into_postgresql(address: DatabaseAddress, source: Path, header: DumpHeader, *, force: bool) -> RestoreReport:
    with schema_change(address) as connection:
        _require_unused(connection)
        kept = None
        revision = revision_of(connection)
        if revision is not None:
            if revision != migrations.HEAD:
                planned_steps(connection, OURS, to=migrations.HEAD)()
            if _occupied(_contents(connection)):
                if not force:
                    raise _not_empty(address)
                kept = files.free_name(address.backups, f"foundry-{files.stamp()}-replaced", ".jsonl")
                with files.written_whole(kept) as temporary:
                    write_dump(connection, temporary)
            metadata.drop_all(connection)
            connection.exec_driver_sql(f"DROP TABLE {migrations.VERSION_TABLE}")
        load_dump(connection, source, header)
        return RestoreReport(_verified(connection, source), kept)


def _verified(connection: Connection, source: Path) -> dict[str, int]:
    problems = damages(connection) + departures(connection)
    if problems:
        raise errors.StorageCorruptError(f"{source} was not restored: {problems[0]}")
    return _contents(connection)


def _contents(connection: Connection) -> dict[str, int]:
    return count_rows(connection, set(inspect(connection).get_table_names()))


def _require_unused(connection: Connection) -> None:
    """Refuse while somebody else of ours is connected to this PostgreSQL database."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = :name "
        "AND pid <> pg_backend_pid()"
    )
    if connection.execute(query, {"name": APPLICATION_NAME}).scalar_one():
        raise errors.StorageUnavailableError(_IN_USE)


def _not_empty(address: DatabaseAddress) -> errors.StorageError:
    return errors.StorageConflictError(
        f"The database at {address.shown} holds something. With --force it is replaced, and what it holds now is kept in "
        f"{address.backups}."
    )


def _holds_something(address: DatabaseAddress) -> bool:
    """Whether there are rows of ours, or something that cannot be read; the server's own state does not count."""
    try:
        with as_facts(), sync_engine(address, "read").begin() as connection:
            rows = _contents(connection)
    except (errors.StorageCorruptError, errors.StorageSchemaError):
        return True
    return _occupied(rows)


def _occupied(rows: dict[str, int]) -> bool:
    return any(count for name, count in rows.items() if name != server_state.name)


def _keep_file(address: DatabaseAddress) -> Path:
    """Give the database's file a second name among the backups, where it stays when the first is replaced."""
    files.make_private_directory(address.backups)
    kept = files.free_name(address.backups, f"foundry-{files.stamp()}-replaced", ".db")
    with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(address.file, isolation_level=None)) as old:
        old.execute("PRAGMA journal_mode=DELETE")  # folds the log into the file
    for suffix in ("", *_LOGS):  # a damaged database may keep its log
        part = address.file.with_name(address.file.name + suffix)
        if part.exists():
            _link(part, kept.with_name(kept.name + suffix))
    return kept


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # not every file system can
        shutil.copy2(source, target)


def _remove_logs(path: Path) -> None:
    """Remove SQLite's log beside ``path``: it would be applied to whatever file has that name."""
    for suffix in _LOGS:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
