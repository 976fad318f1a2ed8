"""API keys and browser sessions in the database, and the epoch by which every process sees that one has changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import delete, insert, select, update

from fastapi_foundry.security.keys import ApiKey, KeyLimits
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.security.sessions import Session
from fastapi_foundry.storage.audit import AuditEntry, write_entry
from fastapi_foundry.storage.database import AsyncConnection, Database
from fastapi_foundry.storage.epochs import EpochReader, raise_epoch
from fastapi_foundry.storage.tables import api_keys, sessions

__all__ = ["KEYS_EPOCH", "KeyStore"]

KEYS_EPOCH: Final = "keys_epoch"
_SCOPES: Final = frozenset(Scope)


class KeyStore:
    """Every call raises ``StorageError`` when the database cannot be used.

    Args:
        database: Open already.

    Attributes:
        known_epoch: As ``epoch``, where it can be told at once; None means that it has to be asked for.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._epoch = EpochReader(database, KEYS_EPOCH)
        self.known_epoch = self._epoch.known

    async def epoch(self) -> str:
        """A word that is another one after every change of a key or a session, whichever process makes it."""
        return await self._epoch.read()

    def close(self) -> None:
        """Let go of the database before it is closed."""
        self._epoch.close()

    async def keys(self) -> list[ApiKey]:
        """Every key, the newest first; revoked and expired ones too."""
        async with self._database.reading() as connection:
            rows = await connection.execute(select(api_keys).order_by(api_keys.c.created_at.desc(), api_keys.c.id))
            return [_key(dict(row)) for row in rows.mappings()]

    async def sessions(self, now_us: int) -> list[Session]:
        """Every session and one-time link that has not expired."""
        async with self._database.reading() as connection:
            rows = await connection.execute(select(sessions).where(sessions.c.expires_at > now_us))
            return [Session(**row) for row in rows.mappings()]

    async def add_key(self, key: ApiKey, entry: AuditEntry) -> None:
        """Keep a new key; when this returns it survives whatever happens to this process."""
        async with self._database.transaction() as connection:
            await _insert_key(connection, key)
            await _conclude(self._database, connection, entry)

    async def replace_key(self, old_id: str, *, expires_at: int, new: ApiKey, entry: AuditEntry) -> None:
        """Keep a new key and let the old one end at ``expires_at``, both or neither."""
        async with self._database.transaction() as connection:
            await connection.execute(update(api_keys).where(api_keys.c.id == old_id).values(expires_at=expires_at))
            await _insert_key(connection, new)
            await _conclude(self._database, connection, entry)

    async def revoke_key(self, key_id: str, *, at: int, entry: AuditEntry) -> bool:
        """Revoke a key and end its sessions; false when there is no such key, or it was revoked before."""
        async with self._database.transaction() as connection:
            result = await connection.execute(
                update(api_keys).where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None)).values(revoked_at=at)
            )
            if result.rowcount == 0:
                return False
            await connection.execute(delete(sessions).where(sessions.c.key_id == key_id))
            await _conclude(self._database, connection, entry)
            return True

    async def note_used(self, used: Mapping[str, int]) -> None:
        """Keep when keys were last used, in microseconds since 1970; changes no epoch."""
        async with self._database.transaction() as connection:
            for key_id, at in used.items():
                await connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(last_used_at=at))

    async def add_session(self, session: Session, entry: AuditEntry) -> None:
        """Keep a new session or one-time link, and forget those that have expired."""
        async with self._database.transaction() as connection:
            await connection.execute(delete(sessions).where(sessions.c.expires_at <= session.created_at))
            await connection.execute(insert(sessions).values(_session_row(session)))
            await _conclude(self._database, connection, entry)

    async def use_link(self, link_hash: str, session: Session, entry: AuditEntry) -> bool:
        """Turn a one-time link into a session; false when somebody was faster, whichever process he asked."""
        async with self._database.transaction() as connection:
            result = await connection.execute(
                delete(sessions).where(
                    sessions.c.id_hash == link_hash,
                    sessions.c.one_time.is_(True),
                    sessions.c.expires_at > session.created_at,
                )
            )
            if result.rowcount == 0:
                return False
            await connection.execute(insert(sessions).values(_session_row(session)))
            await _conclude(self._database, connection, entry)
            return True

    async def end_session(self, id_hash: str) -> None:
        """Forget a session."""
        async with self._database.transaction() as connection:
            await connection.execute(delete(sessions).where(sessions.c.id_hash == id_hash))
            await raise_epoch(self._database, connection, KEYS_EPOCH)


async def _conclude(database: Database, connection: AsyncConnection, entry: AuditEntry) -> None:
    await raise_epoch(database, connection, KEYS_EPOCH)
    await write_entry(connection, entry)


async def _insert_key(connection: AsyncConnection, key: ApiKey) -> None:
    await connection.execute(insert(api_keys).values(_row(key)))


def _session_row(session: Session) -> dict[str, Any]:
    return {name: getattr(session, name) for name in session.__slots__}


def _row(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "hash": key.hash,
        "created_at": key.created_at,
        "created_by": key.created_by,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "rotated_from": key.rotated_from,
        "last_used_at": key.last_used_at,
        "scopes": sorted(key.scopes),
        "allowed_models": _listed(key.allowed_models),
        "allowed_tools": _listed(key.allowed_tools),
        "allowed_stores": _listed(key.allowed_stores),
        "limits": key.limits.to_dict(),
    }


def _key(row: Mapping[str, Any]) -> ApiKey:
    values = dict(row)
    values["scopes"] = frozenset(Scope(name) for name in row["scopes"] if name in _SCOPES)
    for name in ("allowed_models", "allowed_tools", "allowed_stores"):
        values[name] = None if row[name] is None else tuple(row[name])
    values["limits"] = KeyLimits.from_dict(row["limits"])
    return ApiKey(**values)


def _listed(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)
