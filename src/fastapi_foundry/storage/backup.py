"""Copies of the whole database; blocks, and may run while the gateway does."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from fastapi_foundry import errors
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.storage import files
from fastapi_foundry.storage.address import SQLITE, DatabaseAddress
from fastapi_foundry.storage.check import require_database
from fastapi_foundry.storage.connections import sync_engine
from fastapi_foundry.storage.dump import write_dump
from fastapi_foundry.storage.facts import as_facts
from fastapi_foundry.storage.schema import patient

__all__ = ["DUMP_SUFFIX", "BackupReport", "back_up"]

logger = get_logger(__name__)

DUMP_SUFFIX: Final = ".jsonl"


@dataclass(frozen=True, slots=True)
class BackupReport:
    """A backup that was made.

    Attributes:
        file: Where it is.
        form: SQLite's own file, or lines of JSON that both kinds of database can be restored from.
        size_bytes: Its length.
    """

    file: Path
    form: Literal["sqlite", "jsonl"]
    size_bytes: int


def back_up(address: DatabaseAddress, target: Path | None = None) -> BackupReport:
    """Write everything that the database holds at one moment to ``target``, which nobody else may read.

    Args:
        target: ``.jsonl`` makes lines of JSON, which is all that PostgreSQL can be backed up to; anything else SQLite's
            file. None: a name with the time, in the directory for backups.

    Raises:
        InvalidInputError: ``target`` is there already, or its form cannot be had.
        StorageUnavailableError: There is no database, or ``target`` cannot be written.
        StorageCorruptError: The database is damaged; there is no backup then.
    """
    began = time.monotonic()
    require_database(address)
    suffix = ".db" if address.dialect == SQLITE else DUMP_SUFFIX
    target = target or files.free_name(address.backups, f"foundry-{files.stamp()}", suffix)
    _require_sensible(address, target)
    as_dump = target.suffix == DUMP_SUFFIX
    with as_facts(), files.written_whole(target) as temporary:
        if as_dump:
            with sync_engine(patient(address), "read").begin() as connection:
                write_dump(connection, temporary)
        else:
            files.copy_sqlite(address.file, temporary)
            _require_whole(temporary)
    report = BackupReport(target, "jsonl" if as_dump else "sqlite", target.stat().st_size)
    duration = round(time.monotonic() - began, 3)
    logger.info(
        "database backed up", database=address.shown, file=str(target), bytes=report.size_bytes, duration=duration
    )
    return report


def _require_sensible(address: DatabaseAddress, target: Path) -> None:
    if target.exists():
        raise errors.InvalidInputError(f"{target} is there already; a backup replaces nothing.", param="file")
    if address.dialect != SQLITE and target.suffix != DUMP_SUFFIX:
        raise errors.InvalidInputError(
            f"A backup of PostgreSQL is a file of lines of JSON; its name must end in {DUMP_SUFFIX}.", param="file"
        )


def _require_whole(copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as connection:
        (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise errors.StorageCorruptError(f"The database is damaged ({verdict}); no backup was made.")
