"""With whose rights a batch runs: those of the key that made it, as they are at this very moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from fastapi_foundry.security.key_store import KeyStore
from fastapi_foundry.security.keys import KeyRing
from fastapi_foundry.security.principal import LOCAL, Principal
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.services.usage import LOCAL_KEY

__all__ = ["BatchOwners", "OwnerGoneError"]

_SETTINGS_KEY: Final = "the key in the settings"


class OwnerGoneError(Exception):
    """The owner may do nothing any more; the message says why, for him who asks about the batch."""


class BatchOwners:
    """Keys by their ids, read anew whenever one has changed.

    Args:
        store: Where they are kept.
        admin_key_id: What stands for the key of the settings, where there is one.
        now_us: Microseconds since 1970.
    """

    def __init__(
        self,
        store: KeyStore,
        *,
        admin_key_id: str | None,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._store = store
        self._now_us = now_us
        self._fixed: Mapping[str, Principal] = {LOCAL_KEY: LOCAL}
        if admin_key_id is not None:
            self._fixed = {
                LOCAL_KEY: LOCAL,
                admin_key_id: Principal(admin_key_id, _SETTINGS_KEY, frozenset({Scope.ADMIN})),
            }
        self._ring = KeyRing()
        self._epoch: str | None = None

    async def principal(self, key_id: str) -> Principal:
        """Who the owner of that id is.

        Raises:
            OwnerGoneError: The key has been revoked, has expired, or is not there any more.
            StorageError: That cannot be found out.
        """
        if (fixed := self._fixed.get(key_id)) is not None:
            return fixed
        epoch = await self._store.epoch()
        if epoch != self._epoch:
            self._ring.replace(await self._store.keys())
            self._epoch = epoch
        found = self._ring.get(key_id)
        if found is None:
            raise OwnerGoneError("The API key that made the batch is not there any more.")
        key, principal = found
        status = key.status(self._now_us())
        if status != "active":
            word = "has expired" if status == "expired" else "has been revoked"
            raise OwnerGoneError(f"The API key '{key.name}' that made the batch {word}.")
        return principal
