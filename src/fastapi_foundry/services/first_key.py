"""Before the first request: nobody may find a door that is open, nor one to which there is no key."""

from __future__ import annotations

from collections.abc import Callable

from fastapi_foundry.errors import ConfigurationError
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.services.access import AccessService
from fastapi_foundry.services.keys import KeyRequest, KeysService, NewKey

__all__ = ["FIRST_KEY_NAME", "ensure_first_key"]

FIRST_KEY_NAME = "first admin key"


async def ensure_first_key(
    access: AccessService, keys: KeysService, show: Callable[[NewKey], None] | None
) -> NewKey | None:
    """Make the first admin key where requests need one and nobody has it yet.

    Args:
        access: Knows whether a key is needed, and whether somebody has one.
        keys: Makes it.
        show: Shows it to whoever starts the server; None where nobody would see it, or a log would keep it.

    Returns:
        The key that was made; None when none was needed.

    Raises:
        ConfigurationError: One is needed and cannot be shown.
        StorageError: The database cannot be used.
    """
    if not access.policy.demands_key(from_elsewhere=False) or await access.has_admin():
        return None
    if show is None:
        raise ConfigurationError(
            "security.admin_key",
            "start",
            "every request will need an API key, there is none yet, and a new one cannot be shown here because the output "
            "is no terminal. Make one with 'fastapi-foundry keys create NAME --admin', or give one in "
            "FOUNDRY_ADMIN_KEY or FOUNDRY_ADMIN_KEY_FILE",
        )
    made = await keys.create(KeyRequest(FIRST_KEY_NAME, frozenset({Scope.ADMIN})), actor="start")
    show(made)
    return made
