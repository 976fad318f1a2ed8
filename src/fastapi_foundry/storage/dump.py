"""All rows as lines of JSON: a backup that can be restored into SQLite and into PostgreSQL.

The first line says what this is and at which revision the tables were, the last one how many rows there are and the
SHA-256 of everything before it; each line between them is ``{"table": ..., "row": {...}}``.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn

from sqlalchemy import Connection, MetaData, Table, select, text

from fastapi_foundry import errors
from fastapi_foundry.storage.address import POSTGRESQL
from fastapi_foundry.storage.schema import OURS, Steps, create_tables, planned_steps, revision_of
from fastapi_foundry.storage.tables import metadata

__all__ = ["FORMAT", "DumpHeader", "is_dump", "load_dump", "verify_dump", "write_dump"]

FORMAT: Final = "fastapi-foundry-dump"
_VERSION: Final = 1
_ROWS_AT_ONCE: Final = 500
_MAX_LINE_BYTES: Final = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class DumpHeader:
    """What a verified dump holds: the revision of its tables, and its rows by table."""

    revision: str
    rows: dict[str, int]


def write_dump(connection: Connection, path: Path) -> dict[str, int]:
    """Write every row of our tables to ``path``; blocks. The connection's transaction must see one state throughout.

    Returns:
        How many rows there are, by table.

    Raises:
        OSError: ``path`` cannot be written.
        StorageSchemaError: The tables are not those of this program.
    """
    revision = revision_of(connection)
    if revision != OURS.head:
        raise errors.StorageSchemaError(
            f"The tables are at revision {revision or 'none'} and this program's at {OURS.head}; run 'db upgrade' first."
        )
    made_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    header = {"format": FORMAT, "version": _VERSION, "revision": revision, "made_at": made_at}
    rows = {table.name: 0 for table in metadata.sorted_tables}
    digest = hashlib.sha256()
    with path.open("wb") as file:

        def write(document: dict[str, Any]) -> None:
            # The standard library's JSON: it writes lone surrogates, which an answer of a model may hold.
            line = json.dumps(document, allow_nan=False, separators=(",", ":")).encode() + b"\n"
            digest.update(line)
            file.write(line)

        write(header)
        for table in metadata.sorted_tables:
            for row in _rows(connection, table):
                write({"table": table.name, "row": row})
                rows[table.name] += 1
        write({"end": True, "rows": rows, "sha256": digest.hexdigest()})
    return rows


def _rows(connection: Connection, table: Table) -> Iterator[dict[str, Any]]:
    query = select(table).order_by(*table.primary_key)
    result = connection.execute(query, execution_options={"yield_per": _ROWS_AT_ONCE})
    for row in result.mappings():
        yield dict(row)


def is_dump(path: Path) -> bool:
    """Whether the file begins like one; blocks for the read of some bytes."""
    with path.open("rb") as file:
        return FORMAT.encode() in file.read(len(FORMAT) + 32)


def verify_dump(path: Path) -> DumpHeader:
    """Read a dump to its end and make sure that nothing of it is missing or changed; blocks.

    Raises:
        StorageCorruptError: Something is.
        StorageSchemaError: It was made by a newer version of this program.
        OSError: It cannot be read.
    """
    digest, counted = hashlib.sha256(), Counter[str]()
    header: dict[str, Any] | None = None
    end: dict[str, Any] | None = None
    with path.open("rb") as file:
        for line in iter(lambda: file.readline(_MAX_LINE_BYTES), b""):
            if end is not None:
                _damaged(path, "something follows its last line")
            document = _document(path, line)
            if header is None:
                header = document
            elif document.get("end"):
                end = document
                break
            else:
                counted[str(document.get("table"))] += 1
            digest.update(line)
        rest = file.read(1)
    if header is None or header.get("format") != FORMAT or end is None or rest:
        _damaged(path, "its beginning or its end is missing")
    if end.get("sha256") != digest.hexdigest() or Counter(end.get("rows")) != counted:
        _damaged(path, "what it holds is not what was written")
    revision = str(header.get("revision"))
    if header.get("version") != _VERSION:
        raise errors.StorageSchemaError(f"{path} was made by a newer version of FastAPI Foundry (revision {revision}).")
    return DumpHeader(revision, dict(end["rows"]))


def load_dump(connection: Connection, path: Path, header: DumpHeader, steps: Steps = OURS) -> None:
    """Fill a database that has no tables yet with a verified dump, and bring them to this program's revision.

    Raises:
        StorageSchemaError: The dump was made by a newer version of this program.
        StorageError: A row does not fit.
    """
    if header.revision == steps.head:
        create_tables(connection, steps.head)
        tables = metadata
    else:
        planned_steps(connection, steps, to=header.revision)()
        tables = MetaData()
        tables.reflect(connection, only=list(header.rows))
    _insert_all(connection, path, tables)
    if header.revision != steps.head:
        planned_steps(connection, steps, to=steps.head)()
    if connection.dialect.name == POSTGRESQL:
        _continue_numbering(connection)


def _insert_all(connection: Connection, path: Path, tables: MetaData) -> None:
    batch: list[dict[str, Any]] = []
    current: Table | None = None
    with path.open("rb") as file:
        file.readline()
        for line in file:
            document = json.loads(line)
            table = tables.tables.get(document.get("table", ""))
            if current is not None and batch and (table is not current or len(batch) >= _ROWS_AT_ONCE):
                connection.execute(current.insert(), batch)
                batch = []
            if document.get("end"):
                return
            if table is None or set(document["row"]) != {column.name for column in table.columns}:
                _damaged(path, f"it holds a row that fits no table ({document.get('table')})")
            current = table
            batch.append(document["row"])


def _continue_numbering(connection: Connection) -> None:
    """Let the next entry of the audit log get a number of its own."""
    connection.execute(
        text(
            "SELECT setval(pg_get_serial_sequence('audit_log', 'id'), (SELECT coalesce(max(id), 0) + 1 FROM audit_log), false)"
        )
    )


def _document(path: Path, line: bytes) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        _damaged(path, "a line of it is no JSON object")
    return document


def _damaged(path: Path, what: str) -> NoReturn:
    raise errors.StorageCorruptError(f"{path} is damaged: {what}. Nothing was restored.")
