"""Browser sessions: opened with a key or a one-time link, ended by signing out, by time, or with their key."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from fastapi_foundry.errors import AuthenticationError, InvalidInputError
from fastapi_foundry.observability.context import request_id
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.security.key_store import KeyStore
from fastapi_foundry.security.principal import Principal
from fastapi_foundry.security.sessions import Session, hash_secret, new_secret
from fastapi_foundry.services.access import AccessService, Credentials
from fastapi_foundry.storage.audit import AuditEntry

__all__ = ["OpenedSession", "SessionsService"]

logger = get_logger(__name__)

_HOUR_US: Final = 3_600_000_000
_LINK_US: Final = 600_000_000


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A new session; ``secret`` is for the cookie and known to nobody else."""

    session: Session
    secret: str
    principal: Principal


class SessionsService:
    """The use cases of sessions. Every call raises ``StorageError`` when the database cannot be used.

    Args:
        store: Where they are kept.
        access: Knows the keys.
        hours: How long a session lasts.
        now_us: Microseconds since 1970.
    """

    def __init__(
        self,
        store: KeyStore,
        access: AccessService,
        *,
        hours: float,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._store = store
        self._access = access
        self._lasts_us = int(hours * _HOUR_US)
        self._now_us = now_us

    async def open(self, key: str, address: str) -> OpenedSession:
        """A session that stands for ``key``.

        Raises:
            AuthenticationError: The key is wrong, revoked or expired.
        """
        principal = await self._access.principal_for(Credentials(token=key, from_elsewhere=True))
        if principal is None or principal.key_id is None:
            raise AuthenticationError("The API key is not valid. Check that the whole of it was copied.")
        secret, session = self._made(principal.key_id, self._lasts_us)
        await self._store.add_session(session, self._entry("session.open", principal.key_id, address))
        return OpenedSession(session, secret, replace(principal, session=True))

    async def make_link(self, principal: Principal, address: str, *, actor: str | None = None) -> tuple[str, Session]:
        """A secret that opens one session with the rights of ``principal``, within ten minutes.

        ``actor`` is who asks for it where that is not the key itself.

        Raises:
            InvalidInputError: Nobody needs one here, so there is no key that a session could stand for.
        """
        if principal.key_id is None:
            raise InvalidInputError("No key is needed here, so there is nothing to sign in to.")
        secret, link = self._made(principal.key_id, _LINK_US)
        link = replace(link, one_time=True)
        await self._store.add_session(link, self._entry("session.link", principal.key_id, address, actor))
        return secret, link

    async def redeem(self, link: str, address: str) -> OpenedSession:
        """The session that a one-time link opens.

        Raises:
            AuthenticationError: It has been used or has expired, or its key has ended.
        """
        known = await self._access.link_of(link)
        if known is None:
            raise AuthenticationError("The link has been used before or has expired. Ask for a new one.")
        secret, session = self._made(known.key_id, self._lasts_us)
        entry = self._entry("session.open", known.key_id, address)
        if not await self._store.use_link(known.id_hash, session, entry):
            raise AuthenticationError("The link has been used before or has expired. Ask for a new one.")
        principal = await self._access.principal_for(Credentials(session=secret, from_elsewhere=True))
        if principal is None or principal.key_id is None:
            raise AuthenticationError("The key behind the link is not valid any more.")
        return OpenedSession(session, secret, principal)

    async def close(self, secret: str | None) -> None:
        """End the session of that secret, if there is one."""
        if secret:
            await self._store.end_session(hash_secret(secret))

    def _made(self, key_id: str, lasts_us: int) -> tuple[str, Session]:
        secret, now = new_secret(), self._now_us()
        return secret, Session(hash_secret(secret), key_id, now, now + lasts_us, new_secret())

    def _entry(self, action: str, key_id: str, address: str, actor: str | None = None) -> AuditEntry:
        return AuditEntry(self._now_us(), actor or key_id, action, key_id, {}, address, request_id.get() or "")
