"""Which database the settings mean; SQLAlchemy is not imported for that."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

from fastapi_foundry.errors import ConfigurationError
from fastapi_foundry.settings.storage import SQLITE_PREFIX

if TYPE_CHECKING:
    from fastapi_foundry.settings import Settings

__all__ = ["POSTGRESQL", "SQLITE", "DatabaseAddress", "Dialect", "database_address"]

Dialect = Literal["sqlite", "postgresql"]
SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"

_FILE_NAME: Final = "foundry.db"
_MAX_PASSWORD_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """Where the database is, and how long to wait for it.

    Attributes:
        dialect: Which of the two kinds it is.
        shown: The path, or the URL without user, password and options, as people may see it.
        path: SQLite's file; None for PostgreSQL.
        url: PostgreSQL's address with its secrets; empty for SQLite.
        password: Stands in for the one of ``url``; None when there is none of its own.
        backups: The directory for copies that are made without being asked for.
        pool_size: Connections kept.
        timeout_s: Seconds to wait for a connection, a lock or a statement.
    """

    dialect: Dialect
    shown: str
    path: Path | None
    backups: Path
    url: str = field(default="", repr=False)
    password: str | None = field(default=None, repr=False)
    pool_size: int = 4
    timeout_s: float = 10.0

    @property
    def file(self) -> Path:
        """SQLite's file, where the dialect is known to be that."""
        if self.path is None:
            raise TypeError("only a SQLite database is a file")
        return self.path


def database_address(settings: Settings) -> DatabaseAddress:
    """The database that the settings name; reads the password's file if there is one.

    Raises:
        ConfigurationError: That file cannot be used, or PostgreSQL is wanted and its driver is not there.
    """
    storage = settings.storage
    url = storage.url.get_secret_value() if storage.url is not None else ""
    if not url or url.startswith(SQLITE_PREFIX):
        path = Path(url.removeprefix(SQLITE_PREFIX)) if url else settings.home / _FILE_NAME
        return DatabaseAddress(
            dialect=SQLITE,
            shown=str(path),
            path=path,
            backups=path.parent / "backups",
            pool_size=storage.pool_size,
            timeout_s=storage.timeout_s,
        )
    _require_driver()
    return DatabaseAddress(
        dialect=POSTGRESQL,
        shown=_shown(url),
        path=None,
        backups=settings.home / "backups",
        url=url,
        password=_password(storage.password_file),
        pool_size=storage.pool_size,
        timeout_s=storage.timeout_s,
    )


def _require_driver() -> None:
    try:
        importlib.import_module("psycopg")
    except ImportError as error:  # absent, or without the C library that it needs
        raise ConfigurationError(
            "storage.url",
            "start",
            "PostgreSQL needs the driver psycopg 3, which is not installed; install the extra 'postgres', or the driver "
            f'itself: {sys.executable} -m pip install "psycopg[binary]>=3.2"',
        ) from error


def _shown(url: str) -> str:
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"postgresql://{parts.hostname or ''}{port}{parts.path}"


def _password(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        with file.open("rb") as opened:
            password = opened.read(_MAX_PASSWORD_BYTES).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError("storage.password_file", "start", f"{file} cannot be read: {reason}") from error
    if not password:
        raise ConfigurationError("storage.password_file", "start", f"{file} is empty; it must hold the password")
    return password
