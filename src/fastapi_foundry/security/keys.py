"""An API key as it is known here (never its text), and the ring of all of them in memory."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fastapi_foundry.security.key_format import hash_key
from fastapi_foundry.security.key_limits import UNLIMITED, KeyLimits
from fastapi_foundry.security.principal import Principal
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.wire.times import shown_time

__all__ = ["ApiKey", "KeyLimits", "KeyRing"]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key without its text. Times are microseconds since 1970, UTC.

    Attributes:
        id: ``key_`` and random characters; stands in logs and in the record of use.
        name: For people.
        prefix: The first characters of its text.
        hash: SHA-256 of its text, hexadecimal.
        allowed_models: Names, or beginnings of names that end in ``*``; None allows all. The other two likewise.
    """

    id: str
    name: str
    prefix: str
    hash: str
    created_at: int
    scopes: frozenset[Scope]
    created_by: str = ""
    expires_at: int | None = None
    revoked_at: int | None = None
    rotated_from: str | None = None
    last_used_at: int | None = None
    allowed_models: tuple[str, ...] | None = None
    allowed_tools: tuple[str, ...] | None = None
    allowed_stores: tuple[str, ...] | None = None
    limits: KeyLimits = UNLIMITED

    def status(self, now_us: int) -> str:
        """``active``, ``expired`` or ``revoked``."""
        if self.revoked_at is not None and self.revoked_at <= now_us:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= now_us:
            return "expired"
        return "active"

    def shown(self, now_us: int) -> dict[str, Any]:
        """The key as the API and the command line show it; its hash is nobody's business."""
        return {
            "id": self.id,
            "name": self.name,
            "prefix": self.prefix,
            "status": self.status(now_us),
            "scopes": sorted(self.scopes),
            "created_at": shown_time(self.created_at),
            "created_by": self.created_by,
            "expires_at": shown_time(self.expires_at),
            "revoked_at": shown_time(self.revoked_at),
            "last_used_at": shown_time(self.last_used_at),
            "rotated_from": self.rotated_from,
            "allowed_models": self.allowed_models,
            "allowed_tools": self.allowed_tools,
            "allowed_stores": self.allowed_stores,
            "limits": self.limits.to_dict(),
        }

    def principal(self) -> Principal:
        """Who presents this key."""
        return Principal(
            key_id=self.id,
            name=self.name,
            scopes=self.scopes,
            allowed_models=self.allowed_models,
            allowed_tools=self.allowed_tools,
            allowed_stores=self.allowed_stores,
            limits=self.limits,
        )


class KeyRing:
    """Every key, looked up by its text in about two microseconds; replaced as a whole when a key changes."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._by_hash: dict[str, tuple[ApiKey, Principal]] = {}
        self._by_id: dict[str, tuple[ApiKey, Principal]] = {}
        self.replace(keys)

    def replace(self, keys: Iterable[ApiKey]) -> None:
        """Know these keys from now on, and no others."""
        pairs = [(key, key.principal()) for key in keys]
        self._by_hash = {key.hash: (key, principal) for key, principal in pairs}
        self._by_id = {key.id: (key, principal) for key, principal in pairs}

    def __len__(self) -> int:
        return len(self._by_hash)

    def find(self, text: str) -> tuple[ApiKey, Principal] | None:
        """The key of that text, whatever its status; None when there is none.

        Only the digest is looked up, so the time tells nothing of a key's text.
        """
        digest = hash_key(text)
        found = self._by_hash.get(digest)
        return found if found is not None and hmac.compare_digest(found[0].hash, digest) else None

    def get(self, key_id: str) -> tuple[ApiKey, Principal] | None:
        """The key of that id, for a session that was opened with it."""
        return self._by_id.get(key_id)
