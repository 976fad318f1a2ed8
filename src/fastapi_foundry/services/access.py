"""Who a request comes from: the keys and sessions that are valid at this very moment, looked up in memory."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from fastapi_foundry.errors import AuthenticationError, ForbiddenError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.security.key_format import has_valid_checksum, hash_key, looks_like_key
from fastapi_foundry.security.key_store import KeyStore
from fastapi_foundry.security.keys import ApiKey, KeyRing
from fastapi_foundry.security.principal import LOCAL, Principal
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.security.sessions import Session, hash_secret

__all__ = ["AccessPolicy", "AccessService", "Credentials", "Recognition"]

logger = get_logger(__name__)

_SETTINGS_KEY_NAME: Final = "the key in the settings"
_WRONG: Final = "The API key is not valid. Check that the whole of it was copied."


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Who needs a key.

    Attributes:
        require: ``always``, ``never``, or ``auto``: everybody but who comes straight from this machine.
        listens_remotely: Whether other machines can reach the server.
        admin_key: A key from the settings, in plain text.
    """

    require: str = "auto"
    listens_remotely: bool = False
    admin_key: str | None = None

    @property
    def admin_key_id(self) -> str | None:
        """What stands for the settings' key in sessions and records; another key has another one."""
        return None if self.admin_key is None else f"settings-{hash_key(self.admin_key)[:8]}"

    def demands_key(self, *, from_elsewhere: bool) -> bool:
        """Whether a request needs one; ``from_elsewhere`` means that something in front handed it on."""
        if self.require == "auto":
            return self.listens_remotely or from_elsewhere
        return self.require == "always"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request shows of its sender.

    Attributes:
        token: The key, from its header.
        session: The secret of a browser's session, from its cookie.
        from_elsewhere: Whether something in front of this server handed the request on.
    """

    token: str | None = None
    session: str | None = None
    from_elsewhere: bool = False


class Recognition(NamedTuple):
    """Who somebody was found to be.

    Attributes:
        key: What he showed; None where nothing was needed.
        epoch: The state of all keys that this is from.
    """

    principal: Principal
    key: ApiKey | None = None
    epoch: str = ""


_NOBODY: Final = Recognition(LOCAL)


class AccessService:
    """Keys and sessions in memory, read anew whenever the store says that one of them has changed.

    Args:
        store: Where they are kept; a change by any process is seen by the next request.
        policy: Who needs a key.
        now_us: Microseconds since 1970.
    """

    def __init__(
        self,
        store: KeyStore,
        policy: AccessPolicy,
        *,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._store = store
        self._policy = policy
        self._now_us = now_us
        self._ring = KeyRing()
        self._sessions: dict[str, Session] = {}
        self._epoch: str | None = None
        self._used: dict[str, int] = {}

    @property
    def policy(self) -> AccessPolicy:
        """Who needs a key."""
        return self._policy

    def close(self) -> None:
        """Let go of the store before the database is closed."""
        self._store.close()

    async def principal_for(self, credentials: Credentials) -> Principal | None:
        """Who sends a request; None when it shows nothing and a key is needed.

        Waits for the store only when a key or a session has changed since the last request.

        Raises:
            AuthenticationError: What it shows is wrong, revoked or expired.
            StorageError: Whether a key has changed cannot be found out, so nobody is let in.
        """
        token, demanded = credentials.token, self._policy.demands_key(from_elsewhere=credentials.from_elsewhere)
        if token is not None and (demanded or looks_like_key(token)):
            return await self._of_key(token)
        if credentials.session is not None:
            try:
                found = await self._of_session(credentials.session)
            except AuthenticationError:
                if demanded:
                    raise
                found = None  # what needs no key works although that of an old session has expired
            if found is not None:
                return found
        # Clients of other servers send a key because they must send something.
        return None if demanded else LOCAL

    def recognise(self, token: str | None, *, from_elsewhere: bool) -> Recognition | None:
        """Who sends a request with no session, where that can be told at once; None means that it takes another look.

        A change of a key is seen as by ``principal_for``.
        """
        demanded = self._policy.demands_key(from_elsewhere=from_elsewhere)
        if token is None:
            return None if demanded else _NOBODY
        if not demanded and not looks_like_key(token):
            return _NOBODY
        if self._epoch is None or self._store.known_epoch() != self._epoch:
            return None
        found = self._ring.find(token)
        if found is None:
            return None
        recognition = Recognition(found[1], found[0], self._epoch)
        return recognition if self.still_knows(recognition) else None

    def still_knows(self, recognition: Recognition) -> bool:
        """Whether that one is still who he was, and may still come in; else he has to be looked at again."""
        key = recognition.key
        if key is None:
            return True
        if self._store.known_epoch() != recognition.epoch:
            return False
        now = self._now_us()
        if (key.expires_at is not None or key.revoked_at is not None) and key.status(now) != "active":
            return False
        self._used[key.id] = now
        return True

    async def check_csrf(self, credentials: Credentials, token: str) -> None:
        """Refuse a change that a browser's session asks for without the token that only our own page knows.

        Raises:
            ForbiddenError: It is missing or wrong.
        """
        session = self._sessions.get(hash_secret(credentials.session or ""))
        if session is None or not hmac.compare_digest(session.csrf.encode(), token.encode()):
            raise ForbiddenError(
                "The request does not come from this server's own page: its x-csrf-token is not right."
            )

    async def session_of(self, secret: str | None) -> Session | None:
        """The session of that secret, if it is valid now."""
        session = await self._secret_of(secret)
        return session if session is not None and not session.one_time else None

    async def link_of(self, secret: str) -> Session | None:
        """The one-time link of that secret, if it is valid now."""
        link = await self._secret_of(secret)
        return link if link is not None and link.one_time else None

    async def has_admin(self) -> bool:
        """Whether anybody could come in with every right."""
        if self._policy.admin_key is not None:
            return True
        now = self._now_us()
        return any(key.status(now) == "active" and Scope.ADMIN in key.scopes for key in await self._store.keys())

    def take_used(self) -> dict[str, int]:
        """When each key was last used since this was last asked, in microseconds since 1970."""
        used, self._used = self._used, {}
        return used

    async def _secret_of(self, secret: str | None) -> Session | None:
        if secret is None:
            return None
        await self._refresh()
        found = self._sessions.get(hash_secret(secret))
        return found if found is not None and found.expires_at > self._now_us() else None

    async def _of_key(self, token: str) -> Principal:
        if (own := self._policy.admin_key) is not None and hmac.compare_digest(own.encode(), token.encode()):
            return Principal(self._policy.admin_key_id, _SETTINGS_KEY_NAME, frozenset({Scope.ADMIN}))
        if self._ring.find(token) is None and not has_valid_checksum(token):
            raise AuthenticationError(_WRONG)  # no reason to ask the store
        await self._refresh()
        found = self._ring.find(token)
        if found is None:
            raise AuthenticationError(_WRONG)
        return self._checked(*found)

    async def _of_session(self, secret: str) -> Principal | None:
        session = await self.session_of(secret)
        if session is None:
            return None
        if session.key_id == self._policy.admin_key_id:
            return Principal(session.key_id, _SETTINGS_KEY_NAME, frozenset({Scope.ADMIN}), session=True)
        found = self._ring.get(session.key_id)
        return None if found is None else replace(self._checked(*found), session=True)

    def _checked(self, key: ApiKey, principal: Principal) -> Principal:
        now = self._now_us()
        status = key.status(now)
        if status != "active":
            raise AuthenticationError(f"The API key '{key.name}' ({key.prefix}...) has {_PAST[status]}.")
        self._used[key.id] = now
        return principal

    async def _refresh(self) -> None:
        epoch = await self._store.epoch()
        if epoch != self._epoch:
            keys, sessions = await self._store.keys(), await self._store.sessions(self._now_us())
            self._ring.replace(keys)
            self._sessions = {session.id_hash: session for session in sessions}
            self._epoch = epoch


_PAST: Final = {"revoked": "been revoked", "expired": "expired"}
