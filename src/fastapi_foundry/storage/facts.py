"""A driver's errors as facts, in one place. What the driver said is kept for the log alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import exc

from fastapi_foundry import errors

__all__ = ["as_facts", "fact_of"]

_BUSY_RETRY_S: Final = 1.0
_AWAY_RETRY_S: Final = 5.0

_UNAVAILABLE: Final = "The database cannot be opened, read or written at the moment."
_BUSY: Final = "The database is busy; please try again in a moment."
_FULL: Final = "There is no space left for the database."
_CORRUPT: Final = "The database is damaged."
_CONFLICT: Final = "That is in the database already, or refers to something that is not."
_REFUSED: Final = "The database refused an operation."
_UNREACHABLE: Final = "The database server cannot be reached at the moment."

# The low byte of SQLite's extended result codes.
_PRIMARY: Final = 0xFF
_SQLITE_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_SQLITE_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_SQLITE_UNAVAILABLE: Final = frozenset(
    {
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)

# Beginnings of PostgreSQL's SQLSTATEs; the first that fits wins.
_SQLSTATES: Final = (
    ("53100", errors.StorageFullError, _FULL),
    ("XX001", errors.StorageCorruptError, _CORRUPT),
    ("XX002", errors.StorageCorruptError, _CORRUPT),
    ("40", errors.StorageUnavailableError, _BUSY),  # serialization failure, deadlock
    ("55P03", errors.StorageUnavailableError, _BUSY),  # a lock was not to be had in time
    ("57014", errors.StorageUnavailableError, _BUSY),  # a statement took too long
    ("23", errors.StorageConflictError, _CONFLICT),
)
# The server goes, is full, refuses us, or does not know the database.
_AWAY_STATES: Final = ("08", "28", "3D", "53", "57", "58")
# Messages about wrong data and broken constraints hold the row.
_QUOTES_VALUES: Final = ("22", "23")


@contextmanager
def as_facts() -> Iterator[None]:
    """Turn what SQLAlchemy and the drivers raise inside the block into facts.

    Raises:
        StorageError: Or the one of its kinds that fits. Its cause is what was raised, unless that quotes stored values,
            which must not reach a log.
    """
    try:
        yield
    except (exc.SQLAlchemyError, sqlite3.Error) as error:
        fact = fact_of(error)
        raise fact from (None if _state(error).startswith(_QUOTES_VALUES) else error)


def fact_of(error: Exception) -> errors.StorageError:
    """The fact behind ``error``."""
    if isinstance(error, exc.TimeoutError):
        return errors.StorageUnavailableError(_BUSY, retry_after_s=_BUSY_RETRY_S)
    cause = _cause(error)
    if isinstance(cause, sqlite3.Error):
        return _sqlite_fact(cause, f"{type(cause).__name__}: {cause}")
    if isinstance(error, exc.DBAPIError):
        return _postgresql_fact(error, _state(error))
    return errors.StorageError(_REFUSED, driver=f"{type(cause).__name__}: {cause}")


def _cause(error: Exception) -> BaseException:
    if isinstance(error, exc.DBAPIError):
        return error.driver_exception
    return error.orig if isinstance(error, exc.StatementError) and error.orig is not None else error


def _state(error: Exception) -> str:
    """PostgreSQL's SQLSTATE; empty where there is none."""
    return getattr(_cause(error), "sqlstate", None) or ""


def _sqlite_fact(cause: sqlite3.Error, words: str) -> errors.StorageError:
    code = getattr(cause, "sqlite_errorcode", 0) & _PRIMARY
    if code in _SQLITE_BUSY:
        return errors.StorageUnavailableError(_BUSY, retry_after_s=_BUSY_RETRY_S, driver=words)
    if code == sqlite3.SQLITE_FULL:
        return errors.StorageFullError(_FULL, driver=words)
    if code in _SQLITE_CORRUPT:
        return errors.StorageCorruptError(_CORRUPT, driver=words)
    if code in _SQLITE_UNAVAILABLE:
        return errors.StorageUnavailableError(_UNAVAILABLE, driver=words)
    if code == sqlite3.SQLITE_CONSTRAINT:
        return errors.StorageConflictError(_CONFLICT, driver=words)
    return errors.StorageError(_REFUSED, driver=words)


def _postgresql_fact(error: exc.DBAPIError, state: str) -> errors.StorageError:
    cause = error.driver_exception
    diagnosis = getattr(cause, "diag", None)
    # The first line alone: the details that follow quote the row.
    said = getattr(diagnosis, "message_primary", None) or str(cause).partition("\n")[0]
    words = f"{type(cause).__name__} {state}: {said}"
    for beginning, kind, message in _SQLSTATES:
        if state.startswith(beginning):
            if kind is errors.StorageUnavailableError:
                return errors.StorageUnavailableError(message, retry_after_s=_BUSY_RETRY_S, driver=words)
            return kind(message, driver=words)
    if state.startswith(_AWAY_STATES) or error.connection_invalidated or (not state and _lost(error)):
        return errors.StorageUnavailableError(_UNREACHABLE, retry_after_s=_AWAY_RETRY_S, driver=words)
    return errors.StorageError(_REFUSED, driver=words)


def _lost(error: exc.DBAPIError) -> bool:
    """Without a state of its own an operational error is one of the connection."""
    return isinstance(error, exc.OperationalError | exc.InterfaceError)
