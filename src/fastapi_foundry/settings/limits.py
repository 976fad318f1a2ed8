"""The sections ``limits``, ``usage`` and ``audit``: what the whole server may use, and how long records are kept."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

__all__ = ["AuditSettings", "LimitsSettings", "UsageSettings"]

Limit = Annotated[int, Field(ge=1, le=10**15)]
Days = Annotated[int, Field(ge=1, le=36_500)]

_SCHEMES: Final = ("redis://", "rediss://", "unix://")


def _redis_url(secret: SecretStr) -> SecretStr:
    """The address as it is, if it is one; no message repeats any of it, since it may hold a password."""
    text = secret.get_secret_value().strip()
    if not text.startswith(_SCHEMES):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    try:
        parts = urlsplit(text)
        port = parts.port  # raises where it is no number
    except ValueError:
        raise ValueError(
            "is no valid address; special characters of a password are written as %40 (@), %2F (/)"
        ) from None
    if port == 0 or not (parts.hostname or parts.path.strip("/")):
        raise ValueError("must name a server, as in redis://user:password@host:6379/0")
    return SecretStr(text)


class _Section(BaseModel):
    # An address may hold a password, and the text of a cause can reach a log.
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=False, hide_input_in_errors=True
    )


class LimitsSettings(_Section):
    """What all clients together may use; a key's own limits come on top. Tokens are prompt and completion together."""

    requests_per_minute: Limit | None = Field(
        default=None, description="Most requests of all clients together within any 60 seconds; further ones get 429."
    )
    tokens_per_minute: Limit | None = Field(
        default=None, description="Tokens of all clients together within 60 seconds, after which new requests get 429."
    )
    concurrent_requests: Limit | None = Field(
        default=None, description="Most requests under way at the same time in one process; further ones get 429."
    )
    tokens_per_day: Limit | None = Field(
        default=None, description="Tokens of all clients together in a day (UTC); after them requests and streams end."
    )
    tokens_per_month: Limit | None = Field(
        default=None, description="Tokens of all clients together in a calendar month (UTC); likewise."
    )
    storage_url: Annotated[SecretStr, AfterValidator(_redis_url)] | None = Field(
        default=None,
        description="Redis that several gateways share their windows of a minute in: `redis://user:password@host:6379/0` "
        "(needs the extra `redis`). Unset: each process counts for itself. Shown without its password everywhere.",
    )


class UsageSettings(_Section):
    """The record of use."""

    keep_days: Days = Field(default=400, description="Days that the record of use is kept for.")


class AuditSettings(_Section):
    """The audit log."""

    keep_days: Days = Field(default=400, description="Days that entries of the audit log are kept for.")
