"""SQLite's file and its copies: private, whole or not there at all, and on the disk when they are there."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fastapi_foundry import errors
from fastapi_foundry.settings import home

__all__ = [
    "automatic_copies",
    "copy_sqlite",
    "drop_old_copies",
    "free_name",
    "in_use_lock",
    "is_sqlite_file",
    "make_database_file",
    "make_private_directory",
    "schema_lock",
    "stamp",
    "written_whole",
]

_PRIVATE_FILE: Final = 0o600
_SQLITE_MAGIC: Final = b"SQLite format 3\0"
_COPIES_KEPT: Final = 5
_AUTOMATIC: Final = "foundry-*-before-*.db"


def schema_lock(database: Path) -> Path:
    """The file whose lock is held by whoever changes the tables."""
    return database.with_name(database.name + ".lock")


def in_use_lock(database: Path) -> Path:
    """The file whose lock is shared by everybody who has the database open."""
    return database.with_name(database.name + ".open")


def make_private_directory(path: Path) -> None:
    """Make a directory that is the owner's alone; one that is there is left as it is.

    Raises:
        StorageUnavailableError: It cannot be made.
    """
    try:
        home.make_private_directory(path)
    except OSError as error:
        raise _not_writable(path, error) from error


def make_database_file(path: Path) -> None:
    """Make an empty file for the database where there is none, and let nobody but its owner read it.

    Raises:
        StorageUnavailableError: It cannot be made or opened.
    """
    make_private_directory(path.parent)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, _PRIVATE_FILE)
        try:
            if os.fstat(descriptor).st_mode & 0o077:
                # Somebody else's file stays as it is.
                with contextlib.suppress(PermissionError):
                    path.chmod(_PRIVATE_FILE)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _not_writable(path, error) from error


def is_sqlite_file(path: Path) -> bool:
    """Whether the file begins as SQLite's do; blocks for the read of 16 bytes."""
    with path.open("rb") as file:
        return file.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Yield the path of an empty private file beside ``target``, which becomes ``target`` when the block ends well.

    Raises:
        StorageUnavailableError: It cannot be written, or not be put in its place.
        StorageFullError: There is no space for it.
    """
    make_private_directory(target.parent)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE))
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)  # noqa: PTH105 - atomic on every system, and says so
        _sync(target.parent)
    except OSError as error:
        raise _not_writable(target, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def copy_sqlite(source: Path, target: Path) -> None:
    """Write what ``source`` holds now to ``target``, while others go on reading and writing it.

    The copy is one file that needs no write-ahead log; it replaces what was there.

    Raises:
        sqlite3.Error: ``source`` cannot be read, or the copy not be written.
    """
    uri = f"{source.absolute().as_uri()}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as old:
        old.execute("PRAGMA query_only=ON")
        with closing(sqlite3.connect(target, isolation_level=None)) as new:
            old.backup(new)
            new.execute("PRAGMA journal_mode=DELETE")


def stamp() -> str:
    """The time as part of a file's name: ``20261121T094103Z``."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")


def free_name(directory: Path, stem: str, suffix: str) -> Path:
    """A path in ``directory`` that nothing has: ``stem`` and ``suffix``, with a number between them if need be."""
    path, number = directory / f"{stem}{suffix}", 1
    while path.exists():
        number += 1
        path = directory / f"{stem}-{number}{suffix}"
    return path


def automatic_copies(directory: Path) -> list[Path]:
    """The copies made before migrations, the newest first."""
    return sorted(directory.glob(_AUTOMATIC), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def drop_old_copies(directory: Path) -> None:
    """Keep the five newest copies made before migrations; copies that people made stay."""
    for old in automatic_copies(directory)[_COPIES_KEPT:]:
        with contextlib.suppress(OSError):
            old.unlink()


def _sync(path: Path) -> None:
    """Wait until the file or directory is on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # directories cannot be opened there
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_writable(path: Path, error: OSError) -> errors.StorageError:
    words = f"{path} cannot be written: {error.strerror or error}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return errors.StorageFullError(words)
    return errors.StorageUnavailableError(words)
