"""The native API for keys, sessions, usage and the audit log as types."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr

__all__ = [
    "AuditList",
    "CreatedKey",
    "KeyInfo",
    "KeyLimitsBody",
    "KeyList",
    "NewKeyBody",
    "RotateKeyBody",
    "SessionInfo",
    "SessionLink",
    "SignInBody",
]

ScopeName = Literal["chat", "embeddings", "rag:read", "rag:write", "models:manage", "admin"]
Limit = Annotated[StrictInt, Field(ge=1, le=10**15)]
Names = Annotated[list[Annotated[StrictStr, Field(min_length=1, max_length=256)]], Field(max_length=1000)]
Seconds = StrictInt | StrictFloat

_MOST_SECONDS = 100 * 366 * 86_400.0


class _Request(BaseModel):
    # A misspelt limit would otherwise be a key without one.
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, defer_build=True)


class KeyLimitsBody(_Request):
    """What a key may use; what is left out has no limit of the key's own. Tokens are prompt and completion together."""

    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    concurrent_requests: Limit | None = None
    tokens_per_day: Limit | None = None
    tokens_per_month: Limit | None = None


class NewKeyBody(_Request):
    """The body of ``POST /api/v1/keys``."""

    name: Annotated[StrictStr, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
    scopes: Annotated[list[ScopeName], Field(min_length=1, max_length=6)] = ["chat", "embeddings"]
    expires_in_s: Annotated[Seconds, Field(gt=0, le=_MOST_SECONDS, allow_inf_nan=False)] | None = None
    allowed_models: Names | None = None
    allowed_tools: Names | None = None
    allowed_stores: Names | None = None
    limits: KeyLimitsBody = KeyLimitsBody()


class RotateKeyBody(_Request):
    """The body of ``POST /api/v1/keys/{key_id}/rotate``; the old key goes on for ``grace_s`` seconds."""

    grace_s: Annotated[Seconds, Field(ge=0, le=30 * 86_400, allow_inf_nan=False)] = 0


class SignInBody(_Request):
    """The body of ``POST /api/v1/session``: a key, or the secret of a one-time link."""

    key: Annotated[StrictStr, Field(min_length=1, max_length=512)] | None = None
    link: Annotated[StrictStr, Field(min_length=1, max_length=512)] | None = None


class KeyInfo(BaseModel):
    """A key as a list shows it; its text is not known. Times are RFC 3339 in UTC."""

    id: str
    name: str
    prefix: str
    status: Literal["active", "expired", "revoked"]
    scopes: list[str]
    created_at: str
    created_by: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None
    rotated_from: str | None
    allowed_models: list[str] | None
    allowed_tools: list[str] | None
    allowed_stores: list[str] | None
    limits: dict[str, int]


class CreatedKey(KeyInfo):
    """The answer to making or rotating a key: ``key`` is its text, shown this once."""

    success: Literal[True] = True
    key: str


class KeyList(BaseModel):
    """The answer of ``GET /api/v1/keys``."""

    success: Literal[True] = True
    keys: list[KeyInfo]
    count: int


class SessionInfo(BaseModel):
    """Who a browser is: ``csrf`` has to come back in ``x-csrf-token`` with every change."""

    signed_in: bool
    needed: bool
    name: str | None = None
    scopes: list[str] = []
    csrf: str | None = None
    expires_at: str | None = None


class SessionLink(BaseModel):
    """A link that signs a browser in, once."""

    success: Literal[True] = True
    path: str
    expires_at: str


class AuditList(BaseModel):
    """The answer of ``GET /api/v1/audit``, the newest entry first."""

    success: Literal[True] = True
    entries: list[dict[str, Any]]
    count: int
