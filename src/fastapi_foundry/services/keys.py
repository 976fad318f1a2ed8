"""Making, listing, rotating and revoking API keys; each act is in the audit log."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from fastapi_foundry.errors import InvalidInputError, KeyNotFoundError
from fastapi_foundry.observability.context import request_id
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.security.key_format import hash_key, new_key, shown_prefix
from fastapi_foundry.security.key_store import KeyStore
from fastapi_foundry.security.keys import ApiKey, KeyLimits
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.storage.audit import AuditEntry

__all__ = ["KeyRequest", "KeysService", "NewKey"]

logger = get_logger(__name__)

_MAX_KEYS: Final = 10_000
_SECOND_US: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """What a new key shall be.

    Attributes:
        expires_in_s: Seconds until it ends; None for never.
    """

    name: str
    scopes: frozenset[Scope]
    expires_in_s: float | None = None
    allowed_models: tuple[str, ...] | None = None
    allowed_tools: tuple[str, ...] | None = None
    allowed_stores: tuple[str, ...] | None = None
    limits: KeyLimits = field(default_factory=KeyLimits)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key with its text, which exists nowhere else and is shown once."""

    key: ApiKey
    text: str


class KeysService:
    """The use cases of keys. Every call raises ``StorageError`` when the database cannot be used.

    Args:
        store: Where they are kept.
        now_us: Microseconds since 1970.
    """

    def __init__(self, store: KeyStore, *, now_us: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._store = store
        self._now_us = now_us

    async def list_keys(self) -> list[ApiKey]:
        """Every key, the newest first; revoked and expired ones too."""
        return await self._store.keys()

    async def get(self, name: str) -> ApiKey:
        """The key of that id, or of that name where no other key has it.

        Raises:
            KeyNotFoundError: There is none.
            InvalidInputError: Several active keys have the name.
        """
        keys = await self._store.keys()
        for key in keys:
            if key.id == name:
                return key
        named = [key for key in keys if key.name == name]
        active = [key for key in named if key.status(self._now_us()) == "active"]
        if len(active) > 1:
            ids = ", ".join(key.id for key in active)
            raise InvalidInputError(f"Several keys are called '{name}'; say which by its id: {ids}.", param="key")
        if not named:
            raise KeyNotFoundError(name)
        return (active or named)[0]

    async def create(self, wanted: KeyRequest, *, actor: str, address: str = "") -> NewKey:
        """Make a key; its text is in the answer and nowhere else.

        Raises:
            InvalidInputError: It would have no right at all, or there are too many keys.
        """
        if not wanted.scopes:
            raise InvalidInputError(f"A key needs a right; there are: {', '.join(Scope)}.", param="scopes")
        if len(await self._store.keys()) >= _MAX_KEYS:
            raise InvalidInputError(f"There are {_MAX_KEYS} keys already; that is as many as there may be.")
        made = self._made(wanted, actor)
        detail = {"name": wanted.name, "scopes": sorted(wanted.scopes)}
        await self._store.add_key(made.key, self._entry("key.create", made.key.id, actor, address, detail))
        logger.info("key created", key_id=made.key.id, name=wanted.name, scopes=sorted(wanted.scopes), actor=actor)
        return made

    async def rotate(self, name: str, *, grace_s: float, actor: str, address: str = "") -> NewKey:
        """Make a key like another one, which ends after ``grace_s`` seconds: time to exchange it everywhere.

        Raises:
            KeyNotFoundError: There is no such key.
            InvalidInputError: It has been revoked or has expired already.
        """
        old, now = await self.get(name), self._now_us()
        if (status := old.status(now)) != "active":
            raise InvalidInputError(
                f"The key '{old.name}' is {status} and cannot be rotated; make a new one.", param="key"
            )
        text = new_key()
        new = replace(
            old,
            id=_new_id(),
            prefix=shown_prefix(text),
            hash=hash_key(text),
            created_at=now,
            created_by=actor,
            rotated_from=old.id,
            last_used_at=None,
            expires_at=None if old.expires_at is None else now + (old.expires_at - old.created_at),
        )
        ends_at = min(now + int(grace_s * _SECOND_US), old.expires_at or 2**62)
        entry = self._entry("key.rotate", old.id, actor, address, {"new": new.id, "grace_s": grace_s})
        await self._store.replace_key(old.id, expires_at=ends_at, new=new, entry=entry)
        logger.info("key rotated", key_id=old.id, new_key_id=new.id, grace_s=grace_s, actor=actor)
        return NewKey(new, text)

    async def revoke(self, name: str, *, actor: str, address: str = "") -> ApiKey:
        """End a key and its sessions at once; when this returns, no process takes it any more.

        Raises:
            KeyNotFoundError: There is no such key.
            InvalidInputError: It has been revoked before.
        """
        key, now = await self.get(name), self._now_us()
        entry = self._entry("key.revoke", key.id, actor, address, {"name": key.name})
        if not await self._store.revoke_key(key.id, at=now, entry=entry):
            raise InvalidInputError(f"The key '{key.name}' has been revoked before.", param="key")
        logger.info("key revoked", key_id=key.id, name=key.name, actor=actor)
        return replace(key, revoked_at=now)

    def _made(self, wanted: KeyRequest, actor: str) -> NewKey:
        text, now = new_key(), self._now_us()
        expires = None if wanted.expires_in_s is None else now + int(wanted.expires_in_s * _SECOND_US)
        key = ApiKey(
            id=_new_id(),
            name=wanted.name,
            prefix=shown_prefix(text),
            hash=hash_key(text),
            created_at=now,
            created_by=actor,
            expires_at=expires,
            scopes=wanted.scopes,
            allowed_models=wanted.allowed_models,
            allowed_tools=wanted.allowed_tools,
            allowed_stores=wanted.allowed_stores,
            limits=wanted.limits,
        )
        return NewKey(key, text)

    def _entry(self, action: str, target: str, actor: str, address: str, detail: Mapping[str, object]) -> AuditEntry:
        return AuditEntry(self._now_us(), actor, action, target, detail, address, request_id.get() or "")


def _new_id() -> str:
    return f"key_{secrets.token_hex(8)}"
