"""Is the database whole, and are its tables those of this program? Blocks; may run while the gateway does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Text, cast, func, inspect, select, text

from fastapi_foundry import errors
from fastapi_foundry.storage import migrations
from fastapi_foundry.storage.address import SQLITE, DatabaseAddress
from fastapi_foundry.storage.connections import sync_engine
from fastapi_foundry.storage.facts import as_facts
from fastapi_foundry.storage.schema import patient, revision_of
from fastapi_foundry.storage.tables import metadata

__all__ = ["CheckReport", "check_database", "count_rows", "damages", "departures", "require_database"]

_MOST_DAMAGES: Final = 20


@dataclass(slots=True)
class CheckReport:
    """What a check found.

    Attributes:
        revision: Of the tables; None where there are none of ours.
        problems: One sentence each; empty when all is well.
        rows: How many there are, by table.
        size_bytes: On the disk.
    """

    revision: str | None = None
    problems: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    size_bytes: int = 0


def require_database(address: DatabaseAddress) -> None:
    """Make sure that there is something to work on.

    Raises:
        StorageUnavailableError: SQLite's file is not there.
    """
    if address.dialect == SQLITE and not address.file.is_file():
        raise errors.StorageUnavailableError(
            f"There is no database at {address.shown} yet; the first start of the gateway makes it, or 'db upgrade'."
        )


def check_database(address: DatabaseAddress) -> CheckReport:
    """Read everything once and compare the tables with this program's.

    Raises:
        StorageUnavailableError: There is no database, or it cannot be reached; damage is a problem in the report.
    """
    require_database(address)
    report = CheckReport()
    if address.dialect == SQLITE and os.name != "nt" and address.file.stat().st_mode & 0o077:
        report.problems.append(
            f"{address.shown} can be read by other users; it should be its owner's alone (chmod 600)."
        )
    try:
        with as_facts(), sync_engine(patient(address), "read").begin() as connection:
            _examine(connection, report)
    except errors.StorageUnavailableError:
        raise
    except errors.StorageError as fact:
        report.problems.append(f"It cannot be read to its end: {fact.context.get('driver', fact.message)}")
    return report


def _examine(connection: Connection, report: CheckReport) -> None:
    report.problems += damages(connection)
    report.revision = revision_of(connection)
    report.size_bytes = _size(connection)
    if report.revision != migrations.HEAD:
        report.problems.append(
            f"The tables are at revision {report.revision or 'none'} and this program's at {migrations.HEAD}."
        )
        return
    report.problems += departures(connection)
    present = set(inspect(connection).get_table_names())
    report.rows = count_rows(connection, present)


def damages(connection: Connection) -> list[str]:
    """What is broken in the database itself, as far as it can tell."""
    if connection.dialect.name != SQLITE:
        return []  # PostgreSQL notices while it reads, which count_rows does
    found = [
        str(row[0]) for row in connection.exec_driver_sql(f"PRAGMA integrity_check({_MOST_DAMAGES})") if row[0] != "ok"
    ]
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchmany(_MOST_DAMAGES)
    return [f"Damaged: {words}" for words in found] + [
        f"A row of {row[0]} refers to a row of {row[2]} that is not there." for row in broken
    ]


def count_rows(connection: Connection, present: set[str]) -> dict[str, int]:
    """How many rows each of our tables has; on PostgreSQL every value is read for it."""
    counts = {}
    for name, table in metadata.tables.items():
        if name not in present:
            continue
        if connection.dialect.name == SQLITE:
            counts[name] = connection.execute(select(func.count()).select_from(table)).scalar_one()
        else:
            # A row as text has every value in it, those that are kept apart for their size included.
            whole_row = func.length(cast(table.table_valued(), Text))
            counts[name] = connection.execute(select(func.count(), func.max(whole_row)).select_from(table)).one()[0]
    return counts


def departures(connection: Connection) -> list[str]:
    """Where the tables differ from ``tables.py``."""
    migrations.quiet_alembic()
    from alembic.autogenerate import compare_metadata  # noqa: PLC0415 - 10 MB for a rare command
    from alembic.migration import MigrationContext  # noqa: PLC0415 - as above

    def ours(name: str | None, kind: str, _parents: object) -> bool:
        # A PostgreSQL database may hold tables of other programs.
        return kind != "table" or connection.dialect.name == SQLITE or name in metadata.tables

    options = {"version_table": migrations.VERSION_TABLE, "include_name": ours}
    context = MigrationContext.configure(connection, opts=options)
    found = [words for difference in compare_metadata(context, metadata) for words in _in_words(difference)]
    inspector = inspect(connection)
    for name in set(inspector.get_table_names()) & set(metadata.tables):
        keys = inspector.get_pk_constraint(name)["constrained_columns"]
        wanted = [column.name for column in metadata.tables[name].primary_key]
        if keys != wanted:
            found.append(f"The primary key of {name} is {keys}, not {wanted}.")
    return found


def _in_words(difference: Any) -> Iterator[str]:
    """One difference as Alembic describes it: a tuple, or a list of them for one column."""
    for kind, *rest in difference if isinstance(difference, list) else [difference]:
        if kind.startswith("modify_"):
            _, table, column, *_ = rest
            yield f"The column {table}.{column} has another {kind.removeprefix('modify_')} than it should have."
        elif kind.endswith("_column"):
            _, table, column = rest
            yield f"The column {table}.{column.name} {_missing_or_extra(kind)}."
        else:
            what = kind.partition("_")[2].replace("fk", "foreign key")
            table = getattr(rest[0], "table", None)
            where = f" of {table.name}" if table is not None and what != "table" else ""
            yield f"The {what} {getattr(rest[0], 'name', '')}{where} {_missing_or_extra(kind)}."


def _missing_or_extra(kind: str) -> str:
    return "is missing" if kind.startswith("add_") else "should not be there"


def _size(connection: Connection) -> int:
    if connection.dialect.name == SQLITE:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        return int(pages * connection.exec_driver_sql("PRAGMA page_size").scalar_one())
    return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())
