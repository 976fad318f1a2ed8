"""Bring a database's tables to those of this program: made where there are none, migrated where they are older.

Everything in here blocks. Alembic is imported only where there is something to migrate.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sqlalchemy import Column, Connection, MetaData, PrimaryKeyConstraint, String, Table, inspect, select, text

from fastapi_foundry import errors
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.storage import files, migrations
from fastapi_foundry.storage.address import SQLITE, DatabaseAddress
from fastapi_foundry.storage.connections import sync_engine
from fastapi_foundry.storage.facts import as_facts
from fastapi_foundry.storage.locks import exclusive_lock
from fastapi_foundry.storage.tables import metadata

__all__ = [
    "OURS",
    "SchemaReport",
    "Steps",
    "create_tables",
    "ensure_schema",
    "patient",
    "planned_steps",
    "revision_of",
    "schema_change",
]

logger = get_logger(__name__)

_CHANGE_TIMEOUT_S: Final = 600.0
# Any number that no other program is likely to choose; it is the same for every version of this one.
_ADVISORY_LOCK: Final = 0x0F0D_12A7_0001

_version_table: Final = Table(
    migrations.VERSION_TABLE,
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name=f"{migrations.VERSION_TABLE}_pkc"),
)


@dataclass(frozen=True, slots=True)
class Steps:
    """The migrations that there are: a directory for Alembic, and the number of the last one."""

    directory: Path = migrations.DIRECTORY
    head: str = migrations.HEAD


OURS: Final = Steps()


@dataclass(frozen=True, slots=True)
class SchemaReport:
    """What ``ensure_schema`` found and did.

    Attributes:
        before: The revision that was there; None for an empty database.
        after: The revision that is there now.
        backup: The copy of SQLite's file as it was before the migration; None where there was none to migrate.
    """

    before: str | None
    after: str
    backup: Path | None = None

    @property
    def changed(self) -> bool:
        """Whether anything was made or migrated."""
        return self.before != self.after


def ensure_schema(address: DatabaseAddress, steps: Steps = OURS) -> SchemaReport:
    """Make the database and its tables what this program needs; blocks, for minutes where much is migrated.

    However many processes do this at once, one of them migrates and the others wait for it.

    Raises:
        StorageSchemaError: The database is newer than this program or not ours, or a migration failed; then everything
            is as it was.
        StorageUnavailableError: It cannot be opened or made, or another process migrates for more than 10 minutes.
        StorageError: Anything else that the database says.
    """
    if address.dialect == SQLITE:
        files.make_database_file(address.file)
    with as_facts():
        engine = sync_engine(address, "read")
        with engine.begin() as connection:
            before = revision_of(connection)
        if before == steps.head:
            return SchemaReport(before, before)
        with schema_change(address) as connection:
            return _brought_up(connection, address, steps)


@contextmanager
def schema_change(address: DatabaseAddress) -> Iterator[Connection]:
    """A transaction for changes of tables, of which there is one at a time among all processes.

    It is committed when the block ends well, after foreign keys were checked.
    """
    message = "Another process has been changing the database's tables for more than 10 minutes."
    engine = sync_engine(patient(address), "rebuild")
    if address.dialect == SQLITE:
        lock = files.schema_lock(address.file)
        with exclusive_lock(lock, timeout_s=_CHANGE_TIMEOUT_S, message=message), engine.begin() as connection:
            yield connection
            if connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
                raise errors.StorageSchemaError("A row refers to another that is not there; nothing was changed.")
        return
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        yield connection


def patient(address: DatabaseAddress) -> DatabaseAddress:
    """The same database, for work that takes longer than a request may."""
    return replace(address, timeout_s=_CHANGE_TIMEOUT_S)


def revision_of(connection: Connection) -> str | None:
    """The revision of the tables, or None where there are none of ours."""
    if not inspect(connection).has_table(migrations.VERSION_TABLE):
        return None
    return connection.execute(select(_version_table.c.version_num)).scalar_one_or_none()


def create_tables(connection: Connection, head: str = migrations.HEAD) -> None:
    """Make the tables as they are now, which saves the way through all migrations.

    Raises:
        StorageSchemaError: There are tables of another program in the way.
    """
    present = set(inspect(connection).get_table_names())
    # A SQLite file is ours alone; a PostgreSQL database may be shared as long as the names differ.
    foreign = present if connection.dialect.name == SQLITE else present & set(metadata.tables)
    if foreign:
        names = ", ".join(sorted(foreign)[:5])
        raise errors.StorageSchemaError(f"The database holds tables that are not ours ({names}); use another one.")
    metadata.create_all(connection, checkfirst=False)
    _version_table.create(connection, checkfirst=False)
    connection.execute(_version_table.insert().values(version_num=head))


def planned_steps(connection: Connection, steps: Steps, *, to: str) -> Callable[[], None]:
    """What runs the migrations up to ``to``, from wherever the tables are, within the transaction of ``connection``.

    Raises:
        StorageSchemaError: They are, or ``to`` is, at a revision that this program does not know.
    """
    migrations.quiet_alembic()
    from alembic import command  # noqa: PLC0415 - 10 MB that a start need not pay for
    from alembic.config import Config  # noqa: PLC0415 - as above
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - as above

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(steps.directory).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    for revision in (revision_of(connection) or to, to):
        if revision not in known:
            raise errors.StorageSchemaError(
                f"The database was made by a newer version of FastAPI Foundry (its tables are at {revision}, this version "
                f"knows them up to {steps.head}). Start the newer version, or restore a backup that is older."
            )
    return functools.partial(command.upgrade, config, to)


def _brought_up(connection: Connection, address: DatabaseAddress, steps: Steps) -> SchemaReport:
    before, began = revision_of(connection), time.monotonic()
    if before == steps.head:  # another process was faster
        return SchemaReport(before, before)
    if before is None:
        create_tables(connection, steps.head)
        logger.info("database created", database=address.shown, revision=steps.head)
        return SchemaReport(None, steps.head)
    migrate = planned_steps(connection, steps, to=steps.head)
    backup = _copy_before(address, steps.head)
    try:
        migrate()
    except Exception as error:
        kept = f" A copy of it is in {backup}." if backup else ""
        raise errors.StorageSchemaError(
            f"The database could not be migrated from {before} to {steps.head}, and is as it was before.{kept} "
            f"The reason: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    duration = round(time.monotonic() - began, 3)
    logger.info("database migrated", before=before, after=steps.head, duration=duration, backup=str(backup or ""))
    return SchemaReport(before, steps.head, backup)


def _copy_before(address: DatabaseAddress, head: str) -> Path | None:
    """A copy of SQLite's file; nobody can write to it meanwhile, since this process holds the write lock."""
    if address.dialect != SQLITE:
        return None
    target = files.free_name(address.backups, f"foundry-{files.stamp()}-before-{head}", ".db")
    with files.written_whole(target) as temporary:
        files.copy_sqlite(address.file, temporary)
    files.drop_old_copies(address.backups)
    return target
