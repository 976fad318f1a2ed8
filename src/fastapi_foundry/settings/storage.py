"""The section ``storage``: where the database is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

__all__ = ["SQLITE_PREFIX", "StorageSettings"]

SQLITE_PREFIX: Final = "sqlite:///"
_POSTGRESQL: Final = frozenset({"postgresql", "postgres", "postgresql+psycopg"})


def _database_url(secret: SecretStr) -> SecretStr:
    """The address as it is, if it is one; no message repeats any of it, since it may hold a password."""
    text = secret.get_secret_value().strip()
    if text.startswith(SQLITE_PREFIX):
        path = text.removeprefix(SQLITE_PREFIX)
        if not Path(path).is_absolute() or "?" in path or "\0" in path:
            raise ValueError("must name an absolute path after sqlite:///, as in sqlite:////var/lib/foundry.db")
        return SecretStr(text)
    try:
        parts = urlsplit(text)
        port = parts.port  # raises where it is no number
    except ValueError:
        raise ValueError(
            "is no valid address; special characters of a password are written as %40 (@), %2F (/)"
        ) from None
    if parts.scheme not in _POSTGRESQL or not text.startswith(f"{parts.scheme}://"):
        raise ValueError("must begin with postgresql:// or sqlite:///")
    if not parts.path.strip("/") or port == 0 or parts.fragment or "\0" in text:
        raise ValueError("must name a database, as in postgresql://user:password@host:5432/foundry")
    return SecretStr(text)


class StorageSettings(BaseModel):
    """The database: SQLite in the home directory, or a PostgreSQL server."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=False)

    url: Annotated[SecretStr, AfterValidator(_database_url)] | None = Field(
        default=None,
        description="Address of the database: `postgresql://user:password@host:5432/name` (needs the extra `postgres`) or "
        "`sqlite:////absolute/path.db`. Unset: SQLite in `foundry.db` in `home`. Shown without its password everywhere.",
    )
    password_file: Annotated[Path, Field(strict=False)] | None = Field(
        default=None, description="File that holds the password for `storage.url`, to keep it out of the configuration."
    )
    pool_size: int = Field(
        default=4,
        ge=1,
        le=100,
        description="Connections kept to PostgreSQL, or readers of SQLite beside its one writer.",
    )
    timeout_s: float = Field(
        default=10.0,
        gt=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds to wait for a connection, for one's turn to write, or for a statement to end.",
    )
