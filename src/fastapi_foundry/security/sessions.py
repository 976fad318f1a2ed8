"""A browser's session, and the one-time link that opens one."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Final

__all__ = ["Session", "hash_secret", "new_secret"]

_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Session:
    """One session without its secret. Times are microseconds since 1970, UTC.

    Attributes:
        id_hash: SHA-256 of its secret, hexadecimal.
        key_id: The key that it stands for; it ends with it.
        csrf: What our own page sends along with every change, and no other page can know.
        one_time: Whether this is no session but a link that opens one, once.
    """

    id_hash: str
    key_id: str
    created_at: int
    expires_at: int
    csrf: str
    one_time: bool = False


def new_secret() -> str:
    """A secret that nobody can guess, fit for a cookie and an address."""
    return secrets.token_urlsafe(_BYTES)


def hash_secret(secret: str) -> str:
    """What is stored of a secret; see ``key_format.hash_key`` for why this suffices."""
    return hashlib.sha256(secret.encode()).hexdigest()
